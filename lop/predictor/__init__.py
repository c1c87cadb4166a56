"""Budget in, plan out, in milliseconds: what search found, kept in a small network."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from stat import S_ISDIR
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lop.errors import LopError
from lop.files import Kind, replacing_dir
from lop.plan import Plan, Space
from lop.predictor.base import GRID, PlanNetwork
from lop.predictor.bilstm import PlanBiLSTM
from lop.predictor.mlp import PlanMLP
from lop.predictor.transformer import PlanTransformer
from lop.typed import read_typed

AT_ONCE = 8  # budgets of its grid that a predictor's network is asked for together

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


@dataclass(frozen=True)
class PredictorConfig:
    """What a predictor was trained for, and its network's shape; bounds hold for what is read."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    space: Space  # of the model
    model_fingerprint: str
    min_ratio: Share  # the range of searched targets
    max_ratio: Share
    kind: str = "transformer"  # one of NETWORKS
    hidden: Annotated[int, Field(gt=0, le=8192)] = 128
    depth: Annotated[int, Field(gt=0, le=64)] = 2
    heads: Annotated[int, Field(gt=0, le=1024)] = 4  # of the transformer
    base: str = "uniform"  # what it learned to differ from, or knapsack; only said here


PREDICTOR = Kind(
    "a predictor",
    ("config.json", "model.safetensors"),
    frozenset({"model_fingerprint", "min_ratio", "max_ratio", "kind"}),
)

NETWORKS: Mapping[str, Callable[[PredictorConfig], PlanNetwork]] = {
    "transformer": lambda c: PlanTransformer(c.space, c.hidden, c.depth, c.heads),
    "bilstm": lambda c: PlanBiLSTM(c.space, c.hidden, c.depth),
    "mlp": lambda c: PlanMLP(c.space, c.hidden, c.depth),
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
        self._blocks: dict[int, np.ndarray] = {}  # of the grid, as far as it was asked for

    def plan(self, ratio: float, space: Space | None = None) -> Plan:
        """The plan for a global pruning ratio, on its budget.

        `space` may bound the predictor's further. Raises LopError outside the range of ratios that
        were searched.
        """
        return self.plans([ratio], space)[0]

    def plans(self, ratios: Sequence[float], space: Space | None = None) -> list[Plan]:
        """A plan a ratio: linear between those of a grid of budgets, each put on its budget.

        They are not nested. A site may get more units at a higher ratio, as the best plans of
        two budgets are rarely one within the other.
        """
        for ratio in ratios:
            self.check_ratio(ratio)
        budgets = self._budgets
        space, found = space or self.config.space, []
        for ratio in ratios:
            at = min(int(np.searchsorted(budgets, ratio, side="right")), GRID - 1) - 1
            near = zip(self._said(at), self._said(at + 1), strict=True)
            said = [np.interp(ratio, budgets[at : at + 2], site) for site in near]
            found.append(Plan.from_ratios(said, space, ratio))
        return found

    @cached_property
    def _budgets(self) -> np.ndarray:
        """`GRID` budgets of its range."""
        return np.linspace(self.config.min_ratio, self.config.max_ratio, GRID)

    def _said(self, number: int) -> np.ndarray:
        """What the network says of one of these budgets, (S,), in float64.

        It is asked for `AT_ONCE` of them, the same ones whoever asks: a first plan is soon there,
        and no plan depends on what was asked for before, not even by a rounding.
        """
        block, row = divmod(number, AT_ONCE)
        if block not in self._blocks:
            budgets = self._budgets[block * AT_ONCE : (block + 1) * AT_ONCE]
            self._blocks[block] = self._exact.generate(torch.tensor(budgets)).numpy()
        return self._blocks[block][row]

    @cached_property
    def _exact(self) -> PlanNetwork:
        return copy.deepcopy(self.network).double().eval()

    def reaches(self, ratio: float) -> bool:
        """Whether a ratio is in the range of those that were searched."""
        return self.config.min_ratio <= ratio <= self.config.max_ratio

    def check_ratio(self, ratio: float) -> None:
        """Raise LopError outside the range of ratios that were searched."""
        low, high = self.config.min_ratio, self.config.max_ratio
        if not self.reaches(ratio):
            raise LopError(
                f"pruning ratio {ratio:g} is out of reach: this predictor was trained on "
                f"{low:g} to {high:g}"
            )

    def check_fits(self, space: Space, model_fingerprint: str, sibling: bool = False) -> None:
        """Raise LopError unless this predictor was trained for this very model.

        With `sibling`, other weights in the same sites (a fine-tuned model's) are a warning.
        """
        if not self.config.space.fits(space):
            raise LopError(
                f"predictor trained for a model with units {list(self.config.space.units)} "
                f"({self.config.space.scope}), this model has {list(space.units)} ({space.scope})"
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
        _check_directory(path)
        config = read_typed(PredictorConfig, path / "config.json")
        try:
            _check(config)
            with torch.device("meta"):  # its shapes cost nothing, whatever the config says
                expected = cls(config).network.state_dict()
        except LopError as error:
            raise LopError(f"{path}/config.json: {error}") from error
        weights = _read_weights(path / "model.safetensors", expected)
        predictor = cls(config)
        predictor.network.load_state_dict(weights)
        return predictor


def _check_directory(path: Path) -> None:
    try:
        is_directory = S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        is_directory = False
    except OSError as error:
        raise LopError(f"{path}: cannot read it: {error.strerror}") from error
    if not is_directory:
        raise LopError(f"{path}: no such predictor directory")


def _check(config: PredictorConfig) -> None:
    """Raise LopError for a range of ratios that is none, or that no plan can meet."""
    low, high = config.min_ratio, config.max_ratio
    if low > high:
        raise LopError(f"min_ratio {low:g} is above max_ratio {high:g}")
    config.space.check_ratio(high)


def _read_weights(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's tensors; LopError unless they have the names and shapes expected, and finite."""
    weights = {}
    try:
        path.open("rb").close()  # safetensors says of any file that it cannot open: no such file
        with safe_open(path, "pt") as file:
            for name in sorted(set(file.keys()) ^ set(expected)):
                wrong = "is missing" if name in expected else "has no place in this network"
                raise LopError(f"{path}: {name} {wrong}")
            for name, tensor in expected.items():
                shape = list(file.get_slice(name).get_shape())
                if shape != list(tensor.shape):
                    raise LopError(f"{path}: {name}: shape {shape}, expected {list(tensor.shape)}")
                weights[name] = file.get_tensor(name)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LopError(f"{path}: cannot read it: {reason}") from error
    for name, tensor in weights.items():
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise LopError(f"{path}: {name}: expected finite numbers")
    return weights
