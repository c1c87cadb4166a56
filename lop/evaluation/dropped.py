"""Checkpoints that are not kept: cut for an evaluation or a measurement, then deleted.

Thirty checkpoints of a 7B model take more than 300 GB, their plans a few kilobytes. The results of
such a checkpoint are stored under the digest of its files, as for any other. That digest is cached
with the checkpoint's recipe, a digest of everything that its files are made of, so the checkpoint
need not be cut again to know it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import lop.models.cutting
import lop.models.modeling_lop
import lop.models.weights
import lop.pruning
from lop.errors import LopError
from lop.files import clear_leftovers, content_digest, read_json, replacing, temporary_dir
from lop.importance import load_all_scores, made_for
from lop.models.fingerprints import digest
from lop.models.stored import Stored
from lop.plan import Plan, checkpoint_name
from lop.pruning import CUT_AS, NOT_ASKED, prune_checkpoint
from lop.workers import processes

# the code that writes a checkpoint
CODE = (lop.models.cutting, lop.models.modeling_lop, lop.models.weights, lop.pruning)
KNOWN = "checkpoint.json"


@dataclass(frozen=True)
class Dropped:
    """A (method, ratio) of a grid without its checkpoint: its entry in plans.json, its source
    model, the digest of the source's files, and the directory of scores."""

    said: Mapping[str, Any]
    source: Path
    source_content: str
    scores_dir: Path

    @property
    def name(self) -> str:
        """The name of its checkpoint."""
        return checkpoint_name(self.said["method"], self.said["ratio"])

    @cached_property
    def recipe(self) -> str:
        """Twelve hex digits over everything that decides the checkpoint's weights and config."""
        cut_as = self.said[CUT_AS]
        scores = [cut_as["score"], *(["mean_activation"] if cut_as["compensate"] else [])]
        files = [content_digest(self.scores_dir / f"{name}.safetensors") for name in scores]
        code = [content_digest(str(module.__file__)) for module in CODE]
        plan = [list(self.said[key]) for key in ("kept", "kinds", "layers")]
        return digest(self.source_content, plan, dict(cut_as), files, code)

    def content(self, folder: Path) -> str | None:
        """The digest of its files, if directory `folder` has it from an earlier cut."""
        file = folder / KNOWN
        known = read_json(file) if file.exists() else {}
        return known.get("content") if known.get("recipe") == self.recipe else None

    @contextmanager
    def at_hand(self, folder: Path) -> Iterator[tuple[Path, str]]:
        """Cut the checkpoint in `folder` for the block; yields its path and the digest of its
        files."""
        folder.mkdir(parents=True, exist_ok=True)
        clear_leftovers(folder)  # checkpoints of killed runs are large
        with temporary_dir(folder / self.name) as tmp:
            # in a separate process, so that its memory is not measured
            with processes(1, ["lop.pruning"], fresh=True) as run:
                run(_cut, self, tmp / self.name)
            content = self.content(folder) or content_digest(tmp / self.name, NOT_ASKED)
            with replacing(folder / KNOWN) as file:
                file.write_text(json.dumps({"recipe": self.recipe, "content": content}) + "\n")
            yield tmp / self.name, content


def _cut(dropped: Dropped, out: Path) -> None:
    said, cut_as = dropped.said, dropped.said[CUT_AS]
    source, (space, scored) = Stored(dropped.source), made_for(dropped.scores_dir)
    # the scores are of the source model; recovered weights have the same units
    known = scored if cut_as["of"] == "recovered" else source.fingerprint
    scores = load_all_scores(dropped.scores_dir, known)
    means = scores["mean_activation"] if cut_as["compensate"] else None
    padded = cut_as["format"] == "padded"
    which = (scores[cut_as["score"]], out, means, padded)
    plan = Plan(space, tuple(said["kept"]))
    prune_checkpoint(source, plan, *which, said["method"], said["ratio"], cut_as["score"])


def of_grid(
    pruned: Path, whole: Mapping[str, Path], contents: Mapping[str, str], scores_dir: Path | None
) -> dict[str, Path | Dropped]:
    """The checkpoints of a grid by name: the path of each, or how to cut it.

    `whole` are the source models, `dense` and maybe `recovered`, and `contents` the digests of
    their files. Raises LopError if a checkpoint has to be cut and its model or the scores are not
    given.
    """
    found: dict[str, Path | Dropped] = {
        path.name: path for path in pruned.iterdir() if path.is_dir()
    }
    plans = pruned / "plans.json"
    for said in read_json(plans) if plans.exists() else []:
        name = checkpoint_name(said["method"], said["ratio"])
        if name in found or CUT_AS not in said:
            continue
        source = said[CUT_AS]["of"]
        if scores_dir is None or source not in whole:
            missing = "scores" if scores_dir is None else f"{source} model"
            raise LopError(f"{plans}: {name} was not kept; give the {missing} to cut it again")
        found[name] = Dropped(said, whole[source], contents[source], scores_dir)
    return dict(sorted(found.items()))
