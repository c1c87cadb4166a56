"""Scores every unit of the decoder's sites in one pass over the calibration samples.

A plan gives the number of units that a site loses; a score decides which units. All scores are
computed in the same pass over the same samples, so they differ only in their formulas.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from lop.data.batching import Fitting
from lop.errors import LopError
from lop.files import replacing
from lop.models.site import Site
from lop.models.space import find_sites
from lop.models.vision import seeing_once
from lop.plan import Space
from lop.progress import progress
from lop.typed import as_typed

if TYPE_CHECKING:
    from lop.data.encoding import Batch

VERSION = 3  # increase it if a change of this code changes the scores
CHUNK = 2**24  # activations in one chunk: 64 MB in float32


@dataclass
class Stats:
    """Running statistics of one layer's neuron activations x, each float32 of shape (d,)."""

    sample_norm: Tensor  # Σ over samples of the L2 norm of x over the sample's tokens
    mean: Tensor  # mean of x over all tokens
    sq_dev: Tensor  # Σ over all tokens of (x − mean)²
    samples: int = 0
    tokens: int = 0

    @classmethod
    def zeros(cls, width: int) -> Stats:
        norm, mean, sq_dev = torch.zeros(3, width)
        return cls(norm, mean, sq_dev)

    def add(self, x: Tensor, mask: Tensor) -> None:
        """Add activations x (B, T, d), or flattened to tokens, where mask (B, T) is 1.

        Neurons are independent and are processed in chunks: besides x this needs memory for a few
        times `CHUNK` numbers, for any batch size. The earlier tensors are not modified in place.
        """
        n, width = int(mask.sum()), max(1, CHUNK // mask.numel())
        parts = [_moments(_in_rows(chunk, mask), mask, n) for chunk in x.split(width, dim=-1)]
        norm, mean, sq_dev = (torch.cat(each) for each in zip(*parts, strict=True))
        # Chan et al.'s merge of two samples' moments: exact, and no large sums of squares
        total, delta = self.tokens + n, mean - self.mean.to(mean.device)
        self.sample_norm = self.sample_norm.to(norm.device) + norm
        sq_dev += delta.square() * (self.tokens * n / total)
        self.sq_dev = self.sq_dev.to(sq_dev.device) + sq_dev
        self.mean = self.mean.to(mean.device) + delta * (n / total)
        self.samples += len(mask)
        self.tokens = total

    @property
    def variance(self) -> Tensor:
        return self.sq_dev / max(1, self.tokens - 1)

    @property
    def norm(self) -> Tensor:
        """‖x_j‖₂ over all tokens."""
        return (self.sq_dev + self.tokens * self.mean.square()).sqrt()


def _moments(x: Tensor, mask: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """The statistics of `Stats`, each (c,), of activations x (B, T, c) where mask is 1 (n
    tokens)."""
    x = x.float() * mask[..., None]
    norm, mean = x.norm(dim=1).sum(0), x.sum((0, 1)) / n
    x.sub_(mean).mul_(mask[..., None]).square_()  # in place: x is a copy here
    return norm, mean, x.sum((0, 1))


def _in_rows(x: Tensor, mask: Tensor) -> Tensor:
    """Activations as (B, T, c); some FFNs get (B·T, c), or only the unmasked tokens as (n, c)."""
    if x.ndim == 3 and x.shape[:2] == mask.shape:
        return x
    if x.ndim == 2 and len(x) == mask.numel():
        return x.view(*mask.shape, -1)
    if x.ndim == 2 and len(x) == int(mask.sum()):
        rows = x.new_zeros(*mask.shape, x.shape[-1])
        rows[mask.bool()] = x
        return rows
    raise LopError(
        f"an FFN got activations of {tuple(x.shape[:-1])} tokens, but the batch has "
        f"{tuple(mask.shape)}; expected one activation vector for each token"
    )


def activation_l2(stats: Stats, site: Site) -> Tensor:
    """Mean over samples of ‖x_j‖₂ over the sample's tokens (LOP, appendix A.2, eq. 24-25)."""
    return _of_units(stats.sample_norm / stats.samples, site)


def magnitude(stats: Stats, site: Site) -> Tensor:
    """Norm of the neuron's weights in gate, up and down."""
    *inputs, output = (name for name in site.parts if name.endswith(".weight"))
    total = _squares(site, output)
    for name in inputs:
        total += _squares(site, name)
    return total.sqrt()


def _squares(site: Site, name: str) -> Tensor:
    """The squares of a weight's entries, summed over each unit, (d,)."""
    parts = site.parts[name]
    along = site.tensor(name).float().square().sum(1 - parts[0].dim)
    own = [along.narrow(0, part.offset, site.units * part.block) for part in parts]
    each = [_of_units(part_of, site, p.block) for part_of, p in zip(own, parts, strict=True)]
    return torch.stack(each).sum(0)


def wanda_sp(stats: Stats, site: Site) -> Tensor:
    """‖x_j‖₂ · mean |W_down[:, j]| (Wanda, structured)."""
    return _of_units(stats.norm * site.out.weight.float().abs().mean(0), site)


def flap(stats: Stats, site: Site) -> Tensor:
    """Var(x_j) · ‖W_down[:, j]‖₂² (FLAP's WIFV)."""
    return _of_units(stats.variance * site.out.weight.float().square().sum(0), site)


def flap_standard(stats: Stats, site: Site) -> Tensor:
    """FLAP's score standardised within the site, (s − mean) / standard deviation.

    The score of a unit with many columns is the mean over its columns (FLAP's rule for heads).
    """
    score = stats.variance * site.out.weight.float().square().sum(0)
    standard = (score - score.mean()) / score.std().clamp_min(1e-12)
    return _of_units(standard, site) / site.block


def mean_activation(stats: Stats, site: Site) -> Tensor:
    """Mean of x_j, from which FLAP's bias restores the mean output of pruned units.

    Unlike the scores, it has one value for each column of the output map, not for each unit: an
    attention head has many columns.
    """
    return stats.mean


def _of_units(values: Tensor, site: Site, block: int | None = None) -> Tensor:
    """Sum values over the entries of each unit, (d,); a unit has `block` entries (default: its
    columns)."""
    block = block or site.block
    return values if block == 1 else values.view(site.units, block).sum(1)


SCORES: Mapping[str, Callable[[Stats, Site], Tensor]] = {
    f.__name__: f
    for f in (activation_l2, magnitude, wanda_sp, flap, flap_standard, mean_activation)
}
# scores that rank the units of a site; `flap_standard` compares units across sites, and
# `mean_activation` is for the bias of compensation
RANKINGS = tuple(name for name in SCORES if name not in ("flap_standard", "mean_activation"))


def check_ranks(score: str) -> None:
    """Raise LopError unless `score` can rank neurons."""
    if score not in RANKINGS:
        raise LopError(f"score {score!r}: expected one of {', '.join(RANKINGS)}")


@torch.inference_mode()
def collect(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    total: int | None = None,
    scope: str = "ffn",
) -> dict[str, list[Tensor]]:
    """Run the calibration batches; returns every score of `SCORES`, with a tensor (d_i,) for each
    site.

    A batch that does not fit in memory is run in parts. The vision tower runs once for each
    picture. Raises LopError with score and site if a score is not finite.
    """
    sites, fitting = find_sites(model, scope), Fitting()
    stats = [Stats.zeros(site.units * site.block) for site in sites]
    mask = torch.empty(0)

    def watch(i: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, args: stats[i].add(args[0], mask.to(args[0].device))

    def run(batch: Batch) -> None:
        nonlocal mask
        mask, before = batch.inputs["attention_mask"], [copy.copy(layer) for layer in stats]
        try:
            model(**batch.inputs, use_cache=False, logits_to_keep=1)
        except RuntimeError:  # some layers have added this batch, which will run again in parts
            stats[:] = before
            raise

    with ExitStack() as hooks, seeing_once(model):
        for i, site in enumerate(sites):
            hooks.callback(site.out.register_forward_pre_hook(watch(i)).remove)
        for batch in progress(batches, "calibration", total=total, unit="batch"):
            batch.in_parts(fitting, run)
    scores: dict[str, list[Tensor]] = {name: [] for name in SCORES}
    for site, layer in zip(sites, stats, strict=True):
        with site.weights():
            for name, score in SCORES.items():
                scores[name].append(score(layer, site).cpu())
    for name, layers in scores.items():
        columns = name == mean_activation.__name__
        check_scores(layers, [s.units * (s.block if columns else 1) for s in sites], name)
    return scores


def check_scores(scores: Sequence[Tensor], units: Sequence[int], name: str) -> None:
    """Raise LopError unless `scores` are finite and have one value for each of a site's `units`."""
    if len(scores) != len(units):
        raise LopError(f"{name}: scores for {len(scores)} sites, the model has {len(units)}")
    for i, (score, count) in enumerate(zip(scores, units, strict=True)):
        if tuple(score.shape) != (count,):
            raise LopError(f"{name}: site {i} has scores {tuple(score.shape)}, expected ({count},)")
        if not torch.isfinite(score).all():
            raise LopError(f"{name}: site {i} has scores that are not finite")


def ranked(scores: Sequence[Tensor]) -> list[Tensor]:
    """The units of each site by descending score, (d_i,) each; ties go to the lower index."""
    return [torch.argsort(score, descending=True, stable=True) for score in scores]


def save_scores(
    scores: Sequence[Tensor],
    path: str | Path,
    model_fingerprint: str,
    space: Space,
    origin: str = "",
) -> None:
    """Write one score of every unit as safetensors: `sites.<i>`, float32, shape (d_i,).

    The metadata contain the model's fingerprint, the space, and `origin`, the fingerprint of all
    inputs of the scores.
    """
    tensors = {f"sites.{i}": s.float().contiguous() for i, s in enumerate(scores)}
    metadata = {
        "model_fingerprint": model_fingerprint,
        "space": json.dumps(asdict(space)),
        "made_from": origin,
    }
    with replacing(path) as tmp:
        save_file(tensors, tmp, metadata=metadata)


def load_scores(
    path: str | Path, model_fingerprint: str | None = None, sibling: bool = False
) -> list[Tensor]:
    """Read what `save_scores` wrote.

    Raises LopError if the file is missing, corrupt, or made for another model. With `sibling` (the
    scores are for a model with the same sites and other weights) it only warns.
    """
    try:
        with safe_open(path, "pt") as file:
            made_for = (file.metadata() or {}).get("model_fingerprint")
            scores = [file.get_tensor(f"sites.{i}") for i in range(len(file.keys()))]
    except (OSError, SafetensorError) as error:
        raise LopError(f"{path}: cannot read scores (safetensors): {error}") from error
    if model_fingerprint is not None and made_for != model_fingerprint:
        other = f"{path}: scores of model {made_for}, but this model is {model_fingerprint}"
        if not sibling:
            raise LopError(other)
        warnings.warn(other, stacklevel=2)
    check_scores(scores, [len(s) for s in scores], str(path))
    return scores


def load_all_scores(
    directory: str | Path, model_fingerprint: str, sibling: bool = False
) -> dict[str, list[Tensor]]:
    """Read every score of `SCORES` from the directory that the importance stage wrote."""
    return {
        name: load_scores(Path(directory) / f"{name}.safetensors", model_fingerprint, sibling)
        for name in SCORES
    }


def made_for(path: str | Path) -> tuple[Space, str]:
    """The space and the model fingerprint that scores were made for.

    `path` is a score file, or a directory of score files. Raises LopError if they do not record it.
    """
    if (path := Path(path)).is_dir():
        path = path / f"{mean_activation.__name__}.safetensors"
    load_scores(path)  # raises LopError if the file cannot be read
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    if not metadata.get("model_fingerprint") or not metadata.get("space"):
        raise LopError(f"{path}: does not record its model; compute the scores again")
    return as_typed(Space, metadata["space"], f"{path}: space"), metadata["model_fingerprint"]
