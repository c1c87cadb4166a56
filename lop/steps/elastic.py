"""Elastic checkpoints: one dense model whose units stand in order of importance, for any budget.

`pack` writes one, `load` gives a running model of a budget, `resize` changes it.
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
ATTRIBUTE = "elastic"  # of a loaded model: what `resize` needs


@dataclass(frozen=True)
class Packed:
    """What elastic.json says: of which model this is."""

    source: str
    source_fingerprint: str
    model_fingerprint: str  # of the same model with its units in order
    scope: str
    score: str  # by which they are in order
    compensate: bool


def pack(model: str | Path, kit: Kit, out: str | Path) -> None:
    """Write the elastic checkpoint of a model to the directory `out`, one tensor at a time.

    It is the same model, and loads as the dense one does. The kit beside its weights, in `kit/`, is
    the given one in the new order of units. The model may also be what `lop recover` made of the
    kit's model: then nothing is compensated, as the weights have learned what is lost. Raises
    LopError where the kit is of another model.
    """
    check_dir(out, ELASTIC, (model, kit.path))
    cutter = Cutter.of_kit(str(model), kit)
    source, space = cutter.source, cutter.space
    if recovered := (source.folder / RECORD).is_file():
        check_recovered(source.folder, kit.about.model_fingerprint)
    else:
        _ = cutter.scores, cutter.predictor  # that they are of this model
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
    """Load a dense or pruned checkpoint, or an elastic one at a budget.

    Without a budget it is `lop.models.checkpoint.load`, and an elastic checkpoint is the dense
    model. With one, a `ratio` or a target as `lop prune` takes it (`params="5.2B"`, `size="9GB"`,
    `flops_per_token="9G"`, `latency="0.7x"`), the predictor in the checkpoint's kit says the plan,
    and of the weights only what it keeps is read. `resize` then changes the model.

    Memory: that of a cut checkpoint of this budget. Output maps are read at once, all other weights
    when they are first used (see `lop.models.elastic.Elastic`). `device_map` may name one device.

    Raises LopError when there is no such model, and for a budget that cannot be met.
    """
    budgets = (ratio, params, size, flops_per_token, latency)
    if all(each is None for each in budgets):
        return checkpoint.load(path, device_map, dtype, **options)
    if dtype != "auto" or options or isinstance(device_map, dict) or device_map == "auto":
        raise LopError(
            f"{path}: at a budget the weights stay as they are in the files, on one device; "
            "expected no dtype, no other options, and no device_map but a device's name"
        )
    _check_elastic(path)
    about = read_typed(Packed, Path(path) / ELASTIC.files[0])
    kit = Kit.load(Path(path) / KIT_IN, checked=True)  # with these weights
    if kit.about.model_fingerprint != about.model_fingerprint:
        raise LopError(
            f"{kit.path}: a kit of model {kit.about.model_fingerprint}, this checkpoint is "
            f"{about.model_fingerprint}"
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
    """Change the size of a model that `load` gave at a budget, in place, up or down; returns it.

    The budget is as in `load`, and ratio 0 is the whole model. Nothing is read or copied: that
    takes milliseconds, whatever the model's size. (On a GPU the new weights are copied to it.) What
    a larger size needs is read from the files when it is first used; memory is never more than the
    dense model's.

    A cache of keys and values that was filled at another size is refused when it is used: begin
    with a new one. At the size at which it was filled it is good again.

    Raises LopError for any other model and for a budget that cannot be met; the model then stays as
    it was.
    """
    resizer = getattr(model, ATTRIBUTE, None)
    if not isinstance(resizer, _Resizer):
        raise LopError("this model was not loaded from an elastic checkpoint at a budget")
    resizer.to((ratio, params, size, flops_per_token, latency))
    return model


@dataclass(frozen=True)
class _Resizer:
    """What a loaded model is resized with."""

    elastic: Elastic
    cutter: Cutter
    kit: Kit

    def to(self, budgets: tuple[Any, ...]) -> None:
        before = Plan(self.elastic.space, self.elastic.kept)
        plan = before
        try:
            if budgets[0] is None:  # costs are of the whole model
                self.elastic.show(self.elastic.space.dense)
            plan = _plan(self.cutter, self.kit, budgets)
        finally:
            self.elastic.show(plan)


def _plan(cutter: Cutter, kit: Kit, budgets: tuple[Any, ...]) -> Plan:
    """The predictor's plan for the one budget that is given."""
    given = {name: of for name, of in zip(BUDGETS, budgets, strict=True) if of is not None}
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
            f"{path}: is not an elastic checkpoint, which a budget needs: it holds no "
            f"{ELASTIC.files[0]}; `lop pack` makes one"
        )


def _card(about: Packed) -> str:
    restored = "with" if about.compensate else "without"
    return f"""---
library_name: transformers
tags: [elastic, lop]
---
# {Path(about.source).name}, elastic

The same model as `{about.source}` (weights {about.source_fingerprint}): the units of each site
(`{about.scope}`) stand in order of importance, by `{about.score}`. It loads as that model does, in
anything that loads it, and answers the same.

With lop it runs at any budget, of which only the weights that are kept are read:

```python
model = lop.load("<this directory>", ratio=0.37)
lop.resize(model, ratio=0.6)
```

`kit/` holds what says the plans ({restored} compensation). A smaller checkpoint as files:

```sh
lop prune --model <this directory> --kit <this directory>/kit --ratio 0.37 --out small
```
"""
