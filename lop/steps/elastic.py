"""Elastic checkpoints: one dense model for all budgets, with its units in order of importance.

`pack` writes an elastic checkpoint, `load` loads it at a budget, `resize` changes the budget of the
loaded model.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from lop.errors import LopError
from lop.files import Kind, check_dir, replacing_dir
from lop.kit import Kit
from lop.models import checkpoint
from lop.models.cutting import cut, write_files
from lop.models.elastic import Elastic, LostOutput
from lop.models.stored import Stored
from lop.plan import Plan
from lop.recovery.files import RECORD, check_recovered
from lop.steps.kits import BUDGETS
from lop.steps.pruning import Cutter
from lop.typed import read_typed

KIT_IN, LOST_IN = "kit", "lost_output.safetensors"
ELASTIC = Kind(
    "an elastic checkpoint",
    ("elastic.json", "config.json"),
    frozenset({"source_fingerprint", "model_fingerprint"}),
    folders=(KIT_IN, "additional_chat_templates"),
)
ATTRIBUTE = "elastic"  # the attribute of a loaded model that has its _Resizer


@dataclass(frozen=True)
class Packed:
    """The contents of elastic.json: which model was packed, and how its units are ordered."""

    source: str
    source_fingerprint: str
    model_fingerprint: str  # of the model with reordered units
    scope: str
    score: str  # by which the units are ordered
    compensate: bool


def pack(model: str | Path, kit: Kit, out: str | Path) -> None:
    """Write the elastic checkpoint of a model to the directory `out`, one tensor at a time.

    It computes the same as the dense model and loads in the same way. `kit/` in it is `kit` with
    the units reordered. `model` may also be the kit's model after `lop recover`: then there is no
    compensation, because recovery already trained the weights for the missing units. Raises
    LopError if the kit is for another model.
    """
    check_dir(out, ELASTIC, (model, kit.path))
    cutter = Cutter.of_kit(str(model), kit)
    source, space = cutter.source, cutter.space
    if recovered := (source.folder / RECORD).is_file():
        check_recovered(source.folder, kit.about.model_fingerprint)
    else:
        _ = cutter.scores, cutter.predictor  # raises LopError if they are for another model
    orders = kit.orders()
    with replacing_dir(out, ELASTIC) as tmp:
        write_files(cut(source, orders, scope=space.scope)[1], tmp)
        packed = Stored(tmp)
        own = kit.reordered(tmp / KIT_IN, orders, packed.fingerprint, recovered)
        if own.by.compensate:
            sites, means = packed.sites(space.scope), own.score("mean_activation")
            LostOutput.write(tmp / LOST_IN, packed, sites, means)
        fingerprints = source.fingerprint, packed.fingerprint
        about = Packed(str(source.path), *fingerprints, space.scope, *own.by)
        (tmp / ELASTIC.files[0]).write_text(json.dumps(asdict(about), indent=2) + "\n")
        (tmp / "README.md").write_text(_card(about))


def load(
    path: str | Path,
    device_map: str | dict[str, Any] | None = None,
    dtype: torch.dtype | str = "auto",
    *,
    ratio: float | None = None,
    params: str | int | None = None,
    size: str | int | None = None,
    flops_per_token: str | int | None = None,
    latency: str | None = None,
    **options: Any,
) -> PreTrainedModel:
    """Load a dense or pruned checkpoint, or an elastic checkpoint at a budget.

    Without a budget this is `lop.models.checkpoint.load`; an elastic checkpoint is then loaded as
    the dense model. A budget is a `ratio` or a target of `lop prune` (`params="5.2B"`,
    `size="9GB"`, `flops_per_token="9G"`, `latency="0.7x"`). The predictor in the checkpoint's kit
    then gives the plan, and only the weights that the plan keeps are read. `resize` changes the
    budget later.

    The model takes as much memory as a checkpoint cut to this budget. Output maps are read at once,
    all other weights when they are first used (see `lop.models.elastic.Elastic`). `device_map` may
    name one device.

    Raises LopError if there is no such model, or the budget cannot be met.
    """
    budgets = (ratio, params, size, flops_per_token, latency)
    if all(each is None for each in budgets):
        return checkpoint.load(path, device_map, dtype, **options)
    if dtype != "auto" or options or isinstance(device_map, dict) or device_map == "auto":
        raise LopError(
            f"{path}: at a budget, weights keep the dtype of their files and go to one device; "
            "expected no dtype, no other options, and at most one device's name as device_map"
        )
    _check_elastic(path)
    about = read_typed(Packed, Path(path) / ELASTIC.files[0])
    kit = Kit.load(Path(path) / KIT_IN, checked=True)  # `pack` checked it
    if kit.about.model_fingerprint != about.model_fingerprint:
        raise LopError(
            f"{kit.path}: a kit for model {kit.about.model_fingerprint}, but this checkpoint is "
            f"model {about.model_fingerprint}"
        )
    cutter = Cutter.of_kit(str(path), kit, mapped=True)
    plan = _plan(cutter, kit, budgets)
    lost = None
    if kit.by.compensate:
        lost = LostOutput(Path(path) / LOST_IN, kit.score("mean_activation"))
    elastic = Elastic(cutter.source, about.scope, lost)
    if device_map in (None, "cpu"):
        elastic.read(plan)
    elastic.show(plan)
    model = elastic.model
    setattr(model, ATTRIBUTE, _Resizer(elastic, cutter, kit))
    return model if device_map is None else model.to(device_map)  # type: ignore[arg-type]


def resize(
    model: PreTrainedModel,
    *,
    ratio: float | None = None,
    params: str | int | None = None,
    size: str | int | None = None,
    flops_per_token: str | int | None = None,
    latency: str | None = None,
) -> PreTrainedModel:
    """Change the budget of a model that `load` loaded at a budget, in place; returns the model.

    The budget is given as in `load`; ratio 0 is the whole model. On a CPU no weight is read or
    copied, so this takes milliseconds for a model of any size; on a GPU the new weights are copied
    to it. Weights that only the larger model needs are read from the files when they are first
    used. Memory never exceeds the dense model's.

    A KV cache that was filled at another size raises LopError when it is used: begin with a new
    cache. It is valid again once the model is back at the size at which it was filled.

    Raises LopError for a model that was not loaded at a budget, and for a budget that cannot be
    met; the model is then unchanged.
    """
    resizer = getattr(model, ATTRIBUTE, None)
    if not isinstance(resizer, _Resizer):
        raise LopError("this model was not loaded from an elastic checkpoint at a budget")
    resizer.to((ratio, params, size, flops_per_token, latency))
    return model


@dataclass(frozen=True)
class _Resizer:
    """All that `resize` needs to resize a loaded model."""

    elastic: Elastic
    cutter: Cutter
    kit: Kit

    def to(self, budgets: tuple[Any, ...]) -> None:
        before = Plan(self.elastic.space, self.elastic.kept)
        plan = before
        try:
            if budgets[0] is None:  # a target is counted on the whole model
                self.elastic.show(self.elastic.space.dense)
            plan = _plan(self.cutter, self.kit, budgets)
        finally:
            self.elastic.show(plan)


def _plan(cutter: Cutter, kit: Kit, budgets: tuple[Any, ...]) -> Plan:
    """The predictor's plan for the budget; exactly one of `budgets` must be given."""
    named = zip(BUDGETS, budgets, strict=True)
    given = {name: budget for name, budget in named if budget is not None}
    if len(given) != 1:
        raise LopError(f"expected one of {', '.join(BUDGETS)}, got {len(given)}")
    ((kind, target),) = given.items()
    if kind == "ratio":
        return kit.about.space.dense if target == 0 else kit.predictor.plan(target)
    at, compensate = kit.predictor.plan, kit.by.compensate
    return at(cutter.ratio_at(kind, str(target), at, compensate, kit.predictor))


def _check_elastic(path: str | Path) -> None:
    if not (Path(path) / ELASTIC.files[0]).is_file():
        raise LopError(
            f"{path}: is not an elastic checkpoint: no {ELASTIC.files[0]}; a budget needs one, and "
            "`lop pack` makes one"
        )


def _card(about: Packed) -> str:
    restored = "with" if about.compensate else "without"
    return f"""---
library_name: transformers
tags: [elastic, lop]
---
# {Path(about.source).name}, elastic

The same model as `{about.source}` (weights {about.source_fingerprint}), with the units of each site
(`{about.scope}`) in order of importance, by the score `{about.score}`. Everything that loads that
model also loads this checkpoint, and the answers are the same.

With lop it runs at any budget, and only the weights that the budget keeps are read:

```python
model = lop.load("<this directory>", ratio=0.37)
lop.resize(model, ratio=0.6)
```

`kit/` contains the predictor of plans ({restored} compensation). To write a smaller checkpoint:

```sh
lop prune --model <this directory> --kit <this directory>/kit --ratio 0.37 --out small
```
"""
