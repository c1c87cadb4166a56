"""The step from a plan to a smaller checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

from lop.choice import Candidate, chosen
from lop.errors import LopError
from lop.files import Kind, check_dir, replacing_dir
from lop.importance import load_all_scores
from lop.methods import BASELINES, Kit, method
from lop.models.stored import Stored
from lop.plan import Plan, check_once, checkpoint_name
from lop.predictor import Predictor
from lop.pruning import PRUNED, prune_checkpoint
from lop.search.knapsack import Profile
from lop.sizes import ratio_for

GRID = Kind("a grid of pruned checkpoints", ("plans.json",), each=PRUNED)
FORMATS = ("per_layer", "padded")


def prune_one(out: Path, name: str, ratio: float, cutter: Cutter) -> Plan:
    """Write the checkpoint that method `name` cuts out of a model at `ratio`."""
    check_dir(out, PRUNED, cutter.inputs)
    return cutter.ready([name])(name, ratio, out)


def prune_grid(out: Path, methods: Sequence[str], ratios: Sequence[float], cutter: Cutter) -> None:
    """Write a checkpoint a (method, ratio), `<method>-<ratio>/`, and plans.json.

    Raises LopError, before anything is cut, where a method or a ratio is named twice.
    """
    check_once("method", methods)
    check_once("ratio", ratios)
    check_dir(out, GRID, cutter.inputs)
    cut = cutter.ready(methods)
    plans = []
    with replacing_dir(out, GRID) as tmp:
        for name, ratio in product(methods, ratios):
            plan = cut(name, ratio, tmp / checkpoint_name(name, ratio))
            plans.append({"method": name, "ratio": ratio, "kept": plan.kept, "plan": plan.ratios})
        (tmp / "plans.json").write_text(json.dumps(plans, indent=2) + "\n")


@dataclass(frozen=True)
class Cutter:
    """Where everything lies that cuts checkpoints out of one model.

    Only what the methods need is read: lop a predictor, knapsack a profile.
    """

    model_path: str
    scores_dir: Path
    score: str
    compensate: bool | str = False
    predictor_path: str | Path | None = None  # a directory, or models:/NAME@ALIAS of the registry
    profile_path: Path | None = None
    format: str = "per_layer"  # or padded, as in `lop.models.cutting.cut`
    multiple_of: int = 1  # of which the widths are multiples, as in `Plan.rounded`
    sibling: bool = False  # take predictor and scores of a model with other weights, with a warning

    @property
    def inputs(self) -> tuple[str | Path | None, ...]:
        """What is read, which nothing that is cut may replace."""
        return self.model_path, self.scores_dir, self.predictor_path, self.profile_path

    @cached_property
    def source(self) -> Stored:
        """The model, opened once, whatever is asked of it."""
        return Stored(self.model_path)

    @cached_property
    def scored(self) -> Candidate:
        """Score and compensation of lop's own methods, also where they are `auto`."""
        return chosen(self.scores_dir, self.score, self.compensate)

    def ratio_for(self, kind: str, target: str, name: str = "lop") -> float:
        """The pruning ratio at which method `name` meets a target of `lop.sizes.COSTS`, such as
        size 9GB.

        Raises LopError when it is out of reach.
        """
        if self.format == "padded":
            raise LopError(f"{kind} {target}: give a ratio, since padding undoes such a target")
        compensate = BASELINES[name].compensate if name in BASELINES else self.scored.compensate
        return ratio_for(self.source, kind, target, compensate)

    def kit(self, methods: Sequence[str]) -> Kit:
        """What these methods make their plans from; LopError when it cannot be read."""
        predictor = profile = None
        if "lop" in methods and self.predictor_path:
            predictor = Predictor.from_pretrained(_on_disk(self.predictor_path))
        if "knapsack" in methods and self.profile_path:
            profile = Profile.load(self.profile_path)
        return Kit(*self.scored, predictor, profile)

    def ready(self, methods: Sequence[str]) -> Callable[[str, float, Path], Plan]:
        """Read all of it; returns what cuts by method and ratio to a directory.

        Raises LopError when something is missing, broken, or made for another model.
        """
        if self.format not in FORMATS:
            raise LopError(f"format {self.format!r}: expected {' or '.join(FORMATS)}")
        kit = self.kit(methods)
        chosen = {name: method(name, kit) for name in methods}
        source = self.source
        if kit.predictor:
            kit.predictor.check_fits(source.widths, source.fingerprint, self.sibling)
        scores = load_all_scores(self.scores_dir, source.fingerprint, self.sibling)
        padded = self.format == "padded"

        def cut(name: str, ratio: float, out: Path) -> Plan:
            which = chosen[name]
            return prune_checkpoint(
                source, which, name, ratio, scores, out, padded, self.multiple_of
            )

        return cut


def _on_disk(predictor: str | Path) -> Path:
    if not str(predictor).startswith("models:/"):
        return Path(predictor)
    from lop.tracking import predictor_path  # MLflow, which a directory does not need

    return predictor_path(predictor)
