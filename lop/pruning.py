"""A plan and scores in, a really smaller model out."""

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

# of a checkpoint directory: they say where the weights come from, and change no answer
NOT_ASKED = ("README.md", "pruning.json", "training.json")
CUT_AS = "cut_as"  # how plans.json says score, compensation and format of what is not kept


def kept_units(scores: Sequence[Tensor], plan: Plan) -> list[Tensor]:
    """Indices of the units each site keeps, (k_i,): its k_i highest scores.

    Ascending, but the highest first where a site is quantized: neighbours share a scale, and the
    reward that chose the plan has them in this order. Ties go to the lower index. Raises LopError
    when scores and plan do not fit.
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
    """Cut the sites of a scope in place down to `plan`, keeping the units that score highest.

    Where the plan has bits, weights become what they stand for once they are stored. A site that
    keeps none is skipped. With `mean_activation`, a value for each column of a site's output map,
    that gets a bias which restores the pruned units' mean output (FLAP's compensation):
    W_down[:, pruned] · mean[pruned].

    Raises LopError when plan or scores do not fit the model.
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
    """Inside, the full-size model computes what the pruned one would: pruned activations are 0."""
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
    """Write the checkpoint that keeps of `source` what `plan` says and `scores` rank highest.

    Nothing is loaded: files are cut one tensor at a time. `mean_activation` is as in `prune`,
    `padded` fills sites up with zeros, as `filled` says. What asked for it (`method`, the `ratio`
    that it was asked for, default the plan's, and the name of the `score`) is told in its
    pruning.json.
    """
    check_dir(out, PRUNED, (source.path, source.folder))
    by = {"method": method, "ratio": plan.ratio if ratio is None else ratio, "score": score}
    files = checkpoint_files(source, plan, scores, mean_activation, padded, **by)
    with replacing_dir(out, PRUNED) as tmp:
        write_files(files, tmp)
        Stored(tmp)  # that it can be read


def checkpoint_files(
    source: Stored,
    plan: Plan,
    scores: Sequence[Tensor],
    mean_activation: Sequence[Tensor] | None = None,
    padded: bool = False,
    **by: Any,
) -> list[CutFile]:
    """The files of that checkpoint, whose bytes are made when they are asked for; weights last.

    `by` has `method`, `ratio` and `score`.
    """
    space = plan.space
    _check_plan(source.sites(space.scope), plan)
    if padded and plan.bits:
        raise LopError("the padded format is not quantized: cut it as per_layer, or whole")
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
    """Units that the padded format stores a site, (S,): as many as the largest of its kind keeps.

    That may be more than the source has there, where its sites differ already.
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

The last needs no lop: it runs `modeling_lop.py` from this directory. (A text-only model:
`AutoModelForCausalLM`.) Without either, transformers refuses the config.""",
    "padded": """Every site is filled up with zeros to the largest of its kind, so it loads like the
dense model, in anything that loads that one. The zeros cost room and time and change no output.""",
}


QUANTIZED = """Weights are quantized: `pruning.json` says to how many bits. All but `lop.load` needs
`compressed-tensors` to load them."""


def model_card(record: Mapping[str, Any]) -> str:
    """README.md of a pruned checkpoint: what was cut, what is left, how to load it."""
    dense, small, stored = (
        record[key] for key in ("dense_parameters", "parameters", "stored_parameters")
    )
    padding = f" With the padding it holds {stored:,}." if stored != small else ""
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
({1 - small / dense:.1%} smaller).{padding} What it cost in accuracy is in the report of the run
that cut it.{quantized}

{LOADING[record["format"]]}

| layer | site | units | kept | pruned |
|---|---|---|---|---|
{sites}
"""
