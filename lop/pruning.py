"""Prunes a model or checkpoint to a plan, by scores: the result is actually smaller."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lop.errors import LopError
from lop.files import Kind, check_dir, replacing_dir
from lop.importance import check_scores, ranked
from lop.models.checkpoint import record_sizes
from lop.models.costs import parameters
from lop.models.cutting import CutFile, cut, text_file, write_files
from lop.models.modeling_lop import skip
from lop.models.quantized import Others, show_quantized
from lop.models.site import Site, keep_units, lost_output
from lop.models.space import check_in_memory, find_sites, space_of
from lop.models.stored import Stored
from lop.plan import WHOLE, Plan

PRUNED = Kind(
    "a pruned checkpoint", ("pruning.json",), frozenset({"method", "ratio", "kept", "source"})
)

# files of a checkpoint directory about the origin of its weights; they change no answer
NOT_ASKED = ("README.md", "pruning.json", "training.json")
CUT_AS = "cut_as"  # key in plans.json: how to cut a checkpoint that was not kept


def kept_units(scores: Sequence[Tensor], plan: Plan) -> list[Tensor]:
    """Indices (k_i,) of the units that each site keeps: those with its k_i highest scores.

    Indices are ascending, but for a quantized site by descending score: neighbours share a scale,
    and the reward that chose the plan has units in this order. Ties go to the lower index. Raises
    LopError if scores and plan do not fit.
    """
    check_scores(scores, plan.space.units, "pruning")
    bits = plan.bits.sites if plan.bits else (WHOLE,) * len(plan.kept)
    each = zip(ranked(scores), plan.kept, bits, strict=True)
    return [order[:k].sort().values if n == WHOLE else order[:k] for order, k, n in each]


@torch.no_grad()
def prune(
    model: PreTrainedModel,
    plan: Plan,
    scores: Sequence[Tensor],
    mean_activation: Sequence[Tensor] | None = None,
    scope: str = "ffn",
) -> PreTrainedModel:
    """Cut the sites of a scope in place to `plan`, keeping the units with the highest scores.

    If the plan has bits, weights get the values that they have after quantization. A site that
    keeps no units is skipped. With `mean_activation`, one value for each column of a site's output
    map, the output map gets a bias that restores the pruned units' mean output (FLAP's
    compensation): W_down[:, pruned] · mean[pruned].

    Raises LopError if plan or scores do not fit the model.
    """
    sites = find_sites(model, scope)
    check_in_memory(sites)
    _check_plan(sites, plan)
    if plan == plan.space.dense:
        mean_activation = None  # nothing is lost
    for i, (site, kept) in enumerate(zip(sites, kept_units(scores, plan), strict=True)):
        bias = None
        if mean_activation is not None:
            bias = lost_output(site.out.weight, site.columns(kept), mean_activation[i])
        keep_units(site, kept.to(site.out.weight.device), bias)
        if plan.bits:
            show_quantized(site, plan.bits.sites[i], plan.bits.group)
        if not len(kept):
            skip(model, site.kind, site.name, site.output)
    Others(model, sites).show(plan.bits)
    record_sizes(model)
    return model


@contextmanager
def masked(
    model: PreTrainedModel, plan: Plan, scores: Sequence[Tensor], scope: str = "ffn"
) -> Iterator[None]:
    """In the block the full-size model computes as the pruned one: pruned activations are 0."""
    sites = find_sites(model, scope)
    _check_plan(sites, plan)
    with ExitStack() as hooks:
        for site, kept in zip(sites, kept_units(scores, plan), strict=True):
            mask = torch.zeros(site.units * site.block)
            mask[site.columns(kept)] = 1
            handle = site.out.register_forward_pre_hook(
                lambda _, args, m=mask: (args[0] * m.to(args[0]),)
            )
            hooks.callback(handle.remove)
        yield


def _check_plan(sites: Sequence[Site], plan: Plan) -> None:
    if not plan.space.fits(space := space_of(sites)):
        raise LopError(f"plan for units {plan.space.units}, the model has {space.units}")


def prune_checkpoint(
    source: Stored,
    plan: Plan,
    scores: Sequence[Tensor],
    out: str | Path,
    mean_activation: Sequence[Tensor] | None = None,
    padded: bool = False,
    method: str = "mine",
    ratio: float | None = None,
    score: str = "mine",
) -> None:
    """Prune the checkpoint `source` to `plan`, keeping the units with the highest `scores`.

    The model is not loaded: files are cut one tensor at a time. `mean_activation` is as in `prune`;
    `padded` pads sites with zeros to the sizes of `filled`. `method`, `ratio` (the requested ratio,
    default: the plan's) and `score` (its name) are recorded in pruning.json.
    """
    check_dir(out, PRUNED, (source.path, source.folder))
    by = {"method": method, "ratio": plan.ratio if ratio is None else ratio, "score": score}
    files = checkpoint_files(source, plan, scores, mean_activation, padded, **by)
    with replacing_dir(out, PRUNED) as tmp:
        write_files(files, tmp)
        Stored(tmp)  # raises LopError if the checkpoint cannot be read


def checkpoint_files(
    source: Stored,
    plan: Plan,
    scores: Sequence[Tensor],
    mean_activation: Sequence[Tensor] | None = None,
    padded: bool = False,
    **by: Any,
) -> list[CutFile]:
    """The files of the checkpoint that `prune_checkpoint` writes, weights last.

    Their bytes are made when they are read. `by` has `method`, `ratio` and `score`.
    """
    space = plan.space
    _check_plan(source.sites(space.scope), plan)
    if padded and plan.bits:
        raise LopError("the padded format is not quantized: use format per_layer, or no bits")
    kept, units = kept_units(scores, plan), filled(plan) if padded else None
    small, files = cut(source, kept, mean_activation, units, space.scope, plan.bits)
    cost = parameters(source, source.space(space.scope), mean_activation is not None)
    stored = sum(parameter.numel() for parameter in small.parameters())
    weights = {file.name: file.size for file in files if file.name.endswith(".safetensors")}
    record = {
        **by,
        "kinds": space.kinds,
        "layers": space.layers,
        "units": space.units,
        "kept": plan.kept,
        "scores_fingerprint": _fingerprint(scores),
        "compensated": mean_activation is not None,
        "format": "padded" if padded else "per_layer",
        "source": str(source.path),
        "revision": getattr(source.config, "_commit_hash", None),
        "model_fingerprint": source.fingerprint,
        "dense_parameters": source.parameters,
        "parameters": cost.of(plan),
        "stored_parameters": stored,  # with the zeros of the padded format
        "dense_bytes": sum(file.stat().st_size for file in source.files),
        "bytes": sum(weights.values()),
    }
    if plan.bits:
        record["bits"] = asdict(plan.bits)
    about = text_file(PRUNED.files[0], json.dumps(record, indent=2) + "\n")
    return [about, text_file("README.md", model_card(record)), *files]


def filled(plan: Plan) -> tuple[int, ...]:
    """Units of each site in the padded format, (S,): as many as the largest of its kind keeps.

    If the source's sites differ in size, that may be more than a site has in the source.
    """
    most = {kind: max(plan.of(kind)) for kind in set(plan.space.kinds)}
    return tuple(most[kind] for kind in plan.space.kinds)


def _fingerprint(scores: Sequence[Tensor]) -> str:
    digest = hashlib.sha256()
    for layer in scores:
        digest.update(layer.float().numpy().tobytes())
    return digest.hexdigest()[:16]


LOADING = {
    "per_layer": """Layers differ in size. Any of these loads it:

```python
model = lop.load("<this directory>")  # with `import lop` first
model = AutoModelForImageTextToText.from_pretrained("<this directory>")  # likewise
model = AutoModelForImageTextToText.from_pretrained("<this directory>", trust_remote_code=True)
```

The last needs no lop: it runs `modeling_lop.py` from this directory. (For a text-only model use
`AutoModelForCausalLM`.) Without lop and `trust_remote_code`, transformers refuses the config.""",
    "padded": """Every site is padded with zeros to the largest of its kind, so the checkpoint loads
wherever the dense model loads. The zeros cost memory and time and change no output.""",
}


QUANTIZED = """Weights are quantized; `pruning.json` has their bits. Loading them needs
`compressed-tensors`."""


def model_card(record: Mapping[str, Any]) -> str:
    """README.md of a pruned checkpoint: its plan, its size, and how to load it."""
    dense, small, stored = (
        record[key] for key in ("dense_parameters", "parameters", "stored_parameters")
    )
    padding = f" With padding the files hold {stored:,} parameters." if stored != small else ""
    quantized = f"\n\n{QUANTIZED}" if "bits" in record else ""
    rows = zip(record["layers"], record["kinds"], record["units"], record["kept"], strict=True)
    sites = "\n".join(f"| {i} | {kind} | {d} | {k} | {1 - k / d:.1%} |" for i, kind, d, k in rows)
    what = "attention and FFN weights" if "attention" in record["kinds"] else "FFN neurons"
    return f"""---
library_name: transformers
tags: [pruned, lop]
---
# {Path(record["source"]).name}, {record["ratio"]:.1%} of its {what} pruned

Cut by lop (method `{record["method"]}`, score `{record["score"]}`) from `{record["source"]}`,
weights {record["model_fingerprint"]}. The whole model went from {dense:,} to {small:,} parameters
({1 - small / dense:.1%} smaller).{padding} The loss of accuracy is in the report of the run that
cut it.{quantized}

{LOADING[record["format"]]}

| layer | site | units | kept | pruned |
|---|---|---|---|---|
{sites}
"""
