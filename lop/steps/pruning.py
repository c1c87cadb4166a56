"""The step from a plan to a smaller checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from lop.files import replacing_dir
from lop.importance import load_all_scores
from lop.methods import Kit, method, prune_checkpoint
from lop.models.checkpoint import fingerprint, load, load_processor
from lop.models.ffn import ffn_widths
from lop.plan import Plan
from lop.predictor import Predictor
from lop.search.knapsack import Profile


def prune_one(out: Path, name: str, ratio: float, cutter: Cutter) -> Plan:
    """Write the checkpoint that method `name` cuts out of a model at `ratio`."""
    return cutter.ready([name])(name, ratio, out)


def prune_grid(out: Path, methods: Sequence[str], ratios: Sequence[float], cutter: Cutter) -> None:
    """Write a checkpoint a (method, ratio), `<method>-<ratio>/`, and plans.json."""
    cut = cutter.ready(methods)
    plans = []
    with replacing_dir(out, like="plans.json") as tmp:
        for name, ratio in product(methods, ratios):
            plan = cut(name, ratio, tmp / f"{name}-{ratio:g}")
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
    compensate: bool = False
    predictor_path: Path | None = None
    profile_path: Path | None = None

    def ready(self, methods: Sequence[str]) -> Callable[[str, float, Path], Plan]:
        """Load all of it; returns what cuts by method and ratio to a directory.

        Raises LopError when something is missing, broken, or made for another model.
        """
        predictor = profile = None
        if "lop" in methods and self.predictor_path:
            predictor = Predictor.from_pretrained(self.predictor_path)
        if "knapsack" in methods and self.profile_path:
            profile = Profile.load(self.profile_path)
        kit = Kit(self.score, self.compensate, predictor, profile)
        chosen = {name: method(name, kit) for name in methods}
        model, processor = load(self.model_path), load_processor(self.model_path)
        name_of_model = fingerprint(model)
        if predictor:
            predictor.check_fits(ffn_widths(model), name_of_model)
        scores = load_all_scores(self.scores_dir, name_of_model)

        def cut(name: str, ratio: float, out: Path) -> Plan:
            which = chosen[name]
            return prune_checkpoint(
                model, processor, self.model_path, which, name, ratio, scores, out
            )

        return cut
