"""Targets other than a ratio: parameters, bytes on disk, FLOPs a token, turned into one."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from lop.errors import LopError
from lop.models.site import Site
from lop.models.space import linear_weights
from lop.models.stored import Stored
from lop.models.weights import DTYPES, Entry
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
    biases: float = 0  # what compensation adds to a model that is pruned at all

    def ratio(self, target: float) -> float:
        """The smallest pruning ratio whose model has at most `target` of it.

        Raises LopError, naming the reachable range, when there is none.
        """
        most = math.floor(self.top * self.neurons + 1e-9)
        least = min(self.dense, self.dense + self.biases - most * self.neuron)
        if not least <= target <= self.dense:
            raise LopError(
                f"{self.name} of {target:,.0f} cannot be met: this model reaches "
                f"{math.ceil(least):,} to {self.dense:,.0f}"
            )
        if target == self.dense:
            return 0.0
        return math.ceil((self.dense + self.biases - target) / self.neuron) / self.neurons


def parameters(model: Stored, compensate: bool = False) -> Cost:
    """Parameters; tied ones count once."""
    biases = _new_biases(model) if compensate else 0
    return _cost(model, "parameters", model.parameters, model.neuron_parameters, biases)


def size(model: Stored, compensate: bool = False) -> Cost:
    """Bytes of weights on disk, at the dtype that the checkpoint has."""
    dense = sum(entry.size for entry in set(model.tensors.values()))
    # where layers differ in dtype, the neurons that save least: the target is met whichever go
    neuron = min(_neuron_bytes(model, ffn) for ffn in model.ffns)
    biases = _new_biases(model) if compensate else 0
    width = max(DTYPES[_down(model, ffn).dtype].itemsize for ffn in model.ffns)
    return _cost(model, "size", dense, neuron, biases * width)


def flops_per_token(model: Stored, compensate: bool = False) -> Cost:
    """FLOPs of the language model a token: two for each weight of its linear maps.

    Attention's own products are left out: they grow with the context, and pruning leaves them.
    Biases are left out too.
    """
    ffn = model.ffns[0]
    neuron = sum(linear.weight.numel() for linear in ffn.maps) // ffn.units
    return _cost(model, "FLOPs per token", 2 * linear_weights(model.model), 2 * neuron)


COSTS = {"params": parameters, "size": size, "flops_per_token": flops_per_token}


def ratio_for(model: Stored, kind: str, target: str, compensate: bool = False) -> float:
    """The pruning ratio that meets a target such as `5.2B` or `9GB`; `kind` is one of COSTS.

    `compensate` says that pruned output maps get a bias, which counts too.
    """
    return COSTS[kind](model, compensate).ratio(amount(target))


def parameters_of(model: Stored, compensate: bool = False) -> Callable[[Plan], int]:
    """Counts the parameters of a pruned model from its plan, exactly."""
    cost = parameters(model, compensate)

    def count(plan: Plan) -> int:
        gone = sum(plan.widths) - sum(plan.kept)
        return int(cost.dense - gone * cost.neuron + (cost.biases if gone else 0))

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


def _down(model: Stored, ffn: Site) -> Entry:
    return model.tensors[f"{ffn.name}.{ffn.output}.weight"]


def _neuron_bytes(model: Stored, ffn: Site) -> int:
    return sum(model.tensors[f"{ffn.name}.{name}"].size for name in ffn.parts) // ffn.units


def _new_biases(model: Stored) -> int:
    """Parameters that compensation adds, where output maps have no bias yet."""
    return sum(ffn.out.out_features for ffn in model.ffns if ffn.out.bias is None)


def _cost(model: Stored, name: str, dense: float, neuron: float, biases: float = 0) -> Cost:
    return Cost(name, dense, neuron, sum(model.widths), max_ratio(model.widths), biases)
