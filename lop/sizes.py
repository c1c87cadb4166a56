"""Targets other than a ratio: parameters, bytes on disk, FLOPs a token, turned into one."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from lop.errors import LopError
from lop.models.ffn import linear_weights
from lop.models.stored import DTYPES, Stored
from lop.plan import Plan, max_ratio

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}
BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


@dataclass(frozen=True)
class Cost:
    """What a dense model has of something, and how much of it goes with each FFN neuron."""

    name: str
    dense: float
    neuron: float
    neurons: int
    top: float  # the largest ratio that the model reaches

    def ratio(self, target: float) -> float:
        """The smallest pruning ratio whose model has at most `target` of it.

        Raises LopError, naming the reachable range, when there is none.
        """
        least = self.dense - math.floor(self.top * self.neurons) * self.neuron
        if not least <= target <= self.dense:
            raise LopError(
                f"{self.name} of {target:,.0f} cannot be met: this model reaches "
                f"{math.ceil(least):,} to {self.dense:,.0f}"
            )
        return math.ceil((self.dense - target) / self.neuron) / self.neurons


def parameters(model: Stored) -> Cost:
    """Parameters; tied ones count once."""
    return _cost(model, "parameters", model.parameters, model.neuron_parameters)


def size(model: Stored) -> Cost:
    """Bytes of weights on disk, at the dtype that the checkpoint has."""
    down = model.tensors[f"{model.ffns[0].name}.{model.ffns[0].output}.weight"]
    dense = sum(entry.size for entry in model.tensors.values())
    neuron = model.neuron_parameters * DTYPES[down.dtype].itemsize
    return _cost(model, "size", dense, neuron)


def flops_per_token(model: Stored) -> Cost:
    """FLOPs of the language model a token: two for each weight of its linear maps.

    Attention's own products are left out: they grow with the context, and pruning leaves them.
    """
    ffn = model.ffns[0]
    neuron = sum(m.weight.numel() for m in [*ffn.inputs.values(), ffn.down]) // ffn.width
    return _cost(model, "FLOPs per token", 2 * linear_weights(model.model), 2 * neuron)


COSTS = {"params": parameters, "size": size, "flops_per_token": flops_per_token}


def ratio_for(model: Stored, kind: str, target: str) -> float:
    """The pruning ratio that meets a target such as `5.2B` or `9GB`; `kind` is one of COSTS."""
    return COSTS[kind](model).ratio(amount(target))


def parameters_of(model: Stored, compensate: bool = False) -> Callable[[Plan], int]:
    """Counts the parameters of a pruned model from its plan, exactly."""
    biases = sum(ffn.down.out_features for ffn in model.ffns if ffn.down.bias is None)
    each = model.neuron_parameters

    def count(plan: Plan) -> int:
        gone = sum(plan.widths) - sum(plan.kept)
        added = biases if compensate and gone else 0
        return model.parameters - gone * each + added

    return count


def amount(text: str) -> float:
    """`5.2B`, `9GB`, `8.5GiB`, `1.2e9` -> a number."""
    match = re.fullmatch(r"([\d.]+(?:e\d+)?)\s*([KMGT]i|[KMGTB]?)B?", text.strip())
    try:
        if match:
            return float(match[1]) * (UNITS | BINARY)[match[2]]
    except ValueError:
        pass
    raise LopError(f"{text!r}: expected an amount such as 5.2B, 9GB, 8.5GiB or 1.2e9")


def _cost(model: Stored, name: str, dense: float, neuron: float) -> Cost:
    return Cost(name, dense, neuron, sum(model.widths), max_ratio(model.widths))
