"""Budget in, plan out, in milliseconds: what search found, kept in a small network."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file

from lop.errors import LopError
from lop.files import Kind, replacing_dir
from lop.models.checkpoint import read_json
from lop.plan import MIN_KEEP, Plan
from lop.predictor.base import PlanNetwork
from lop.predictor.bilstm import PlanBiLSTM
from lop.predictor.mlp import PlanMLP
from lop.predictor.transformer import PlanTransformer


@dataclass(frozen=True)
class PredictorConfig:
    """What a predictor was trained for, and its network's shape."""

    widths: tuple[int, ...]  # FFN neurons of each layer of the model
    model_fingerprint: str
    min_ratio: float  # the range of searched targets
    max_ratio: float
    min_keep: float = MIN_KEEP
    kind: str = "transformer"  # one of NETWORKS
    hidden: int = 128
    depth: int = 2
    heads: int = 4  # of the transformer
    base: str = "uniform"  # what it learned to differ from, or knapsack; only said here


PREDICTOR = Kind(
    "a predictor",
    ("config.json", "model.safetensors"),
    frozenset({"widths", "model_fingerprint", "min_ratio", "max_ratio", "kind"}),
)

NETWORKS: Mapping[str, Callable[[PredictorConfig], PlanNetwork]] = {
    "transformer": lambda c: PlanTransformer(len(c.widths), c.hidden, c.depth, c.heads),
    "bilstm": lambda c: PlanBiLSTM(len(c.widths), c.hidden, c.depth),
    "mlp": lambda c: PlanMLP(len(c.widths), c.hidden, c.depth),
}


class Predictor:
    """A trained network and the model it was trained for.

    >>> Predictor.from_pretrained("data/predictor").plan(0.37)
    """

    def __init__(self, config: PredictorConfig) -> None:
        if config.kind not in NETWORKS:
            raise LopError(f"predictor kind {config.kind!r}: expected one of {', '.join(NETWORKS)}")
        self.config = config
        self.network = NETWORKS[config.kind](config).eval()

    def plan(self, ratio: float) -> Plan:
        """The plan for a global pruning ratio, exact to the neuron.

        Raises LopError outside the range of ratios that were searched.
        """
        return self.plans([ratio])[0]

    def plans(self, ratios: Sequence[float]) -> list[Plan]:
        """A plan a ratio, the same as `plan` gives; many at once take little longer than one."""
        for ratio in ratios:
            self.check_ratio(ratio)
        layers = self._precise.generate(torch.tensor(ratios, dtype=torch.float64)).tolist()
        return [
            Plan.from_ratios(theta, self.config.widths, ratio, self.config.min_keep)
            for theta, ratio in zip(layers, ratios, strict=True)
        ]

    @cached_property
    def _precise(self) -> PlanNetwork:
        """The trained network in float64. In float32 rounding differs with the size of a batch,
        and a plan of wide layers would, by a neuron, depend on what else was asked for."""
        return copy.deepcopy(self.network).double().eval()

    def check_ratio(self, ratio: float) -> None:
        """Raise LopError outside the range of ratios that were searched."""
        low, high = self.config.min_ratio, self.config.max_ratio
        if not low <= ratio <= high:
            raise LopError(
                f"pruning ratio {ratio:g} is out of reach: this predictor was trained on "
                f"{low:g} to {high:g}"
            )

    def check_fits(
        self, widths: tuple[int, ...], model_fingerprint: str, sibling: bool = False
    ) -> None:
        """Raise LopError unless this predictor was trained for this very model.

        With `sibling`, other weights in the same widths (a fine-tuned model's) are a warning.
        """
        if widths != self.config.widths:
            raise LopError(
                f"predictor trained for FFN widths {list(self.config.widths)}, "
                f"this model has {list(widths)}"
            )
        if model_fingerprint != self.config.model_fingerprint:
            other = (
                f"predictor trained for model {self.config.model_fingerprint}, "
                f"this model is {model_fingerprint}"
            )
            if not sibling:
                raise LopError(f"{other}: train a predictor for it, or take it for a sibling's")
            warnings.warn(other, stacklevel=2)

    def save_pretrained(self, path: str | Path) -> None:
        """Write `config.json` and `model.safetensors` to the directory `path`, whole."""
        with replacing_dir(path, PREDICTOR) as tmp:
            (tmp / "config.json").write_text(json.dumps(asdict(self.config), indent=2) + "\n")
            save_file(self.network.state_dict(), tmp / "model.safetensors")

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Predictor:
        """Read what `save_pretrained` wrote; LopError when it is not there or not whole."""
        path = Path(path)
        if not path.is_dir():
            raise LopError(f"{path}: no such predictor directory")
        values = read_json(path / "config.json")
        if set(values) != {f.name for f in fields(PredictorConfig)}:
            raise LopError(f"{path}/config.json: not a predictor's config")
        predictor = cls(PredictorConfig(**values | {"widths": tuple(values["widths"])}))
        try:
            predictor.network.load_state_dict(load((path / "model.safetensors").read_bytes()))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise LopError(f"{path}/model.safetensors: cannot read it: {error}") from error
        return predictor
