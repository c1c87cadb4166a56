"""A model that is trained at any plan: its sites compute with the first of their units.

All plans share one set of weights, with the units in order of importance: a plan's weights are
views of the first units. Training at one budget so changes all larger ones too (MatFormer,
arXiv:2310.07707).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lop.errors import LopError
from lop.importance import check_scores, ranked
from lop.models.site import Site, attributes, restore
from lop.models.space import check_in_memory, decoder_layers, find_sites, space_of
from lop.plan import Plan
from lop.reward.captured import Captured, hidden_at

ADAPTER = "default"  # peft's name for a single adapter


@dataclass(frozen=True)
class _Weight:
    """A tensor of a site's linear map or of its adapter, and the site's tensor that it is cut
    like."""

    module: nn.Module
    name: str
    like: str
    tensor: nn.Parameter


class Student(nn.Module):
    """A model that is trained at plans; inside `with student:` its units are in order of
    importance.

    `trained` are the trained weights by name: those of the decoder without embeddings or, with a
    `rank`, low-rank adapters of the sites' linear maps (LoRA), initialised from `seed`. `scores`,
    one tensor (d_i,) for each site, give the importance. On exit the units are in the model's own
    order again, and adapters are merged. Raises LopError for scores that do not fit, or if peft is
    missing.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        scores: Sequence[Tensor],
        scope: str = "ffn",
        rank: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.sites = find_sites(model, scope)
        check_in_memory(self.sites)
        self.space = space_of(self.sites)
        check_scores(scores, self.space.units, "recovery")
        self._orders = ranked(scores)
        self._before = [attributes(site) for site in self.sites]
        self._full: list[list[_Weight]] = []
        self._dropped: set[int] = set()
        self.rank = rank
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        if rank is not None:
            _adapt(model, self.sites, rank, seed)
        self.model = model
        self.trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        if rank is None:
            self.trained = _decoder_weights(model)
        for parameter in self.trained.values():
            parameter.requires_grad_(True)

    def __enter__(self) -> Student:
        for site, order in zip(self.sites, self._orders, strict=True):
            site.permute(order)
            self._full.append(list(_weights(site, adapted=self.rank is not None)))
        return self

    def __exit__(self, *_: object) -> None:
        self.show(self.space.dense)
        for site, order, full in zip(self.sites, self._orders, self._full, strict=True):
            for weight in full:
                _release(weight)
            if self.rank is not None:
                _merge(site)
            site.permute(torch.argsort(order))
        self._full.clear()
        for parameter in self.trained.values():
            parameter.requires_grad_(False)

    def show(self, plan: Plan) -> None:
        """Make the model compute with the units of a plan, until the next call.

        Run the backward pass before the next call: it may recompute layers.
        """
        if not plan.space.fits(self.space):
            raise LopError(f"plan for units {plan.space.units}, the model has {self.space.units}")
        shown = zip(self.sites, plan.kept, self._full, self._before, strict=True)
        for site, units, full, before in shown:
            restore(site, before)
            for weight in full:
                # an attribute, not a parameter: a view that passes gradients to the parameter
                weight.module._parameters.pop(weight.name, None)
                front = site.front(weight.like, weight.tensor, units)
                weight.module.__dict__[weight.name] = front
            site.fit(units)
        units_of: dict[int, int] = {}
        for site, kept in zip(self.sites, plan.kept, strict=True):
            units_of[site.layer] = units_of.get(site.layer, 0) + kept
        both = self.space.scope != "ffn"  # with scope ffn, attention is never dropped
        self._dropped = {i for i, units in units_of.items() if both and not units}

    @contextmanager
    def dense(self) -> Iterator[None]:
        """In the block, the model is the whole model, without gradients."""
        self.show(self.space.dense)
        with torch.no_grad():
            yield

    def forward(self, batch: Captured, layered: bool = False) -> tuple[Tensor, dict[int, Tensor]]:
        """Last hidden states (P, H) at a batch's positions and, if `layered`, those after each
        layer.

        A layer that the plan drops has no entry.
        """
        states: dict[int, Tensor] = {}
        with ExitStack() as hooks:
            for i, layer in enumerate(decoder_layers(self.model) if layered else ()):
                if i not in self._dropped:
                    keep = partial(_keep, states, i, batch)
                    hooks.callback(layer.register_forward_hook(keep).remove)
            return hidden_at(self.model, batch), states


def _keep(
    states: dict[int, Tensor], layer: int, batch: Captured, _: nn.Module, __: Any, output: Any
) -> None:
    """Store a layer's output at a batch's positions."""
    hidden = output[0] if isinstance(output, tuple) else output
    states[layer] = hidden[batch.rows, batch.columns]


def _weights(site: Site, adapted: bool) -> Iterator[_Weight]:
    """All tensors that are cut along a site's units."""
    for like in site.parts:
        owner, _, name = like.rpartition(".")
        base = site.map(owner)
        tensor = base._parameters[name]
        assert tensor is not None
        yield _Weight(base, name, like, tensor)
        if adapted and name == "weight":
            adapter: Any = site.module.get_submodule(owner)
            # the low-rank factor that has the units' dimension
            part = (adapter.lora_A if owner == site.output else adapter.lora_B)[ADAPTER]
            yield _Weight(part, name, like, part.weight)


def _release(weight: _Weight) -> None:
    """Make a tensor a parameter of its module again."""
    weight.module.__dict__.pop(weight.name, None)
    weight.module.register_parameter(weight.name, weight.tensor)


def _decoder_weights(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """The decoder's weights without embeddings, by name in the model."""
    maps = (model.get_input_embeddings(), model.get_output_embeddings())
    embeddings = {id(p) for each in maps if each is not None for p in each.parameters()}
    own = {id(p) for p in model.get_decoder().parameters()} - embeddings
    return {name: p for name, p in model.named_parameters() if id(p) in own}


def _adapt(model: PreTrainedModel, sites: Sequence[Site], rank: int, seed: int) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise LopError("peft is missing: pip install 'lop[recover]'") from error
    names = [f"{site.name}.{name}" for site in sites for name in (*site.inputs, site.output)]
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, adapter_name=ADAPTER)


@torch.no_grad()
def _merge(site: Site) -> None:
    """Merge a site's adapters into its weights."""
    for name in (*site.inputs, site.output):
        adapter: Any = site.module.get_submodule(name)
        adapter.merge()
        parent, _, own = name.rpartition(".")
        base = adapter.get_base_layer()
        setattr(site.module.get_submodule(parent) if parent else site.module, own, base)
