"""The step from methods and ratios to a grid of smaller checkpoints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from lop.errors import LopError
from lop.files import Kind, check_dir, replacing_dir
from lop.plan import check_once, checkpoint_name
from lop.pruning import CUT_AS, PRUNED
from lop.steps.pruning import Cutter

GRID = Kind("a grid of pruned checkpoints", ("plans.json",), each=PRUNED)
KEEP = "all"


def prune_grid(
    out: Path,
    methods: Sequence[str],
    ratios: Sequence[float | str],
    cutter: Cutter,
    keep: str | Sequence[str | float] = KEEP,
) -> list[float]:
    """Write a checkpoint `<method>-<ratio>/` for each method and ratio, and plans.json.

    Ratios may be targets (see `Cutter.ratios`); returns the ratios. `keep` names the checkpoints to
    write: `all`, `none`, or a list of methods, ratios and checkpoint names such as lop-0.5. For the
    others plans.json says how to cut them (`lop.evaluation.dropped`). Raises LopError, before the
    first cut, if a method or ratio is named twice, or `keep` has a name that is not in the grid.
    """
    check_once("method", methods)
    check_once("ratio", ratios)
    check_dir(out, GRID, cutter.inputs)
    cut = cutter.ready(methods)
    found = cutter.ratios(ratios, methods)
    check_once("ratio", found)
    kept = _kept(keep, methods, found)
    plans = []
    with replacing_dir(out, GRID) as tmp:
        for name, ratio in product(methods, found):
            full = checkpoint_name(name, ratio)
            plan = cut(name, ratio, tmp / full) if full in kept else cutter.planner(name)(ratio)
            record = {"method": name, "ratio": ratio, "kept": plan.kept, "plan": plan.ratios}
            record |= {"kinds": plan.space.kinds, "layers": plan.space.layers}
            plans.append(record if full in kept else record | {CUT_AS: cutter.cut_as(name)})
        (tmp / "plans.json").write_text(json.dumps(plans, indent=2) + "\n")
    return found


def _kept(
    keep: str | Sequence[str | float], methods: Sequence[str], ratios: Sequence[float]
) -> set[str]:
    """The names of the grid's checkpoints that `keep` selects."""
    known: dict[str | float, set[str]] = {"all": set(), "none": set()}
    for name, ratio in product(methods, ratios):
        full = checkpoint_name(name, ratio)
        for label in ("all", name, ratio, full):
            known.setdefault(label, set()).add(full)
    asked = [keep] if isinstance(keep, str) else keep
    for label in asked:
        if label not in known:
            expected = ", ".join(map(str, known))
            raise LopError(f"keep {label}: expected all, none, or a list of some of {expected}")
    return set().union(*(known[label] for label in asked))
