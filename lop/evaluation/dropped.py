"""Checkpoints that are not kept: cut when they are to be asked or measured, then deleted.

Thirty checkpoints of a 7B model take more than 300 GB, their plans a few kilobytes. What was found
out about one is kept under the digest of its files, as for any other; its recipe, all that its
files are made of, tells that digest again without cutting it.
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

# what writes a checkpoint
CODE = (lop.models.cutting, lop.models.modeling_lop, lop.models.weights, lop.pruning)
KNOWN = "checkpoint.json"


@dataclass(frozen=True)
class Dropped:
    """A (method, ratio) of a grid without its checkpoint: what plans.json says of it, the model
    that it is cut out of, the digest of that one's files, and the directory of scores."""

    said: Mapping[str, Any]
    source: Path
    source_content: str
    scores_dir: Path

    @property
    def name(self) -> str:
        """That of its checkpoint."""
        return checkpoint_name(self.said["method"], self.said["ratio"])

    @cached_property
    def recipe(self) -> str:
        """Twelve hex digits over all that the checkpoint's weights and config are made of."""
        cut_as = self.said[CUT_AS]
        scores = [cut_as["score"], *(["mean_activation"] if cut_as["compensate"] else [])]
        files = [content_digest(self.scores_dir / f"{name}.safetensors") for name in scores]
        code = [content_digest(str(module.__file__)) for module in CODE]
        plan = [list(self.said[key]) for key in ("kept", "kinds", "layers")]
        return digest(self.source_content, plan, dict(cut_as), files, code)

    def content(self, place: Path) -> str | None:
        """The digest of its files, where `place` tells it from when it was last cut."""
        file = place / KNOWN
        known = read_json(file) if file.exists() else {}
        return known.get("content") if known.get("recipe") == self.recipe else None

    @contextmanager
    def at_hand(self, place: Path) -> Iterator[tuple[Path, str]]:
        """Inside, the checkpoint lies in `place`; yields where, and the digest of its files."""
        place.mkdir(parents=True, exist_ok=True)
        clear_leftovers(place)  # what a killed run has cut is as large as a model
        with temporary_dir(place / self.name) as tmp:
            # in a process of its own, so that the memory it takes counts nowhere
            with processes(1, ["lop.pruning"], fresh=True) as run:
                run(_cut, self, tmp / self.name)
            content = self.content(place) or content_digest(tmp / self.name, NOT_ASKED)
            with replacing(place / KNOWN) as file:
                file.write_text(json.dumps({"recipe": self.recipe, "content": content}) + "\n")
            yield tmp / self.name, content


def _cut(dropped: Dropped, out: Path) -> None:
    said, cut_as = dropped.said, dropped.said[CUT_AS]
    source, (space, scored) = Stored(dropped.source), made_for(dropped.scores_dir)
    # recovered weights are others than those that were scored, and in the same order
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
    """The checkpoints of a grid by name: where each lies, or how it is cut.

    `whole` are the models that they are cut out of, `dense` and maybe `recovered`, and `contents`
    the digests of their files. Raises LopError where one has to be cut and its model or the scores
    are not given.
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
            lacking = "scores" if scores_dir is None else f"{source} model"
            raise LopError(f"{plans}: {name} was not kept; name the {lacking} to cut it by")
        found[name] = Dropped(said, whole[source], contents[source], scores_dir)
    return dict(sorted(found.items()))
