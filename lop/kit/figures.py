"""The measured size, speed and quality of a kit's plans, by ratio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import ConfigDict

from lop.errors import LopError
from lop.evaluation.tradeoff import POINTS, Point, Unit, accuracy_error, sentence
from lop.plan import per_cent

UNITS = {"accuracy": POINTS, "loglik": Unit("nats a sample", 0.05, "0.05 nats a sample", 3)}
DIVERGENCE = Unit("nats of divergence", 0.05, "0.05 nats of divergence", 3)


@dataclass(frozen=True)
class Figure:
    """The model at one pruning ratio; ratio 0 is the whole model."""

    ratio: float
    parameters: int
    bytes: int  # of the weights on disk
    value: float  # mean of the metric over samples
    stderr: float | None  # of `value`; None if unknown
    loss: float  # mean difference from the whole model, paired by sample
    loss_stderr: float | None  # of `loss`; None if unknown
    milliseconds: float | None = None  # predicted by the latency profile


@dataclass(frozen=True)
class Figures:
    """Figures by ratio, the whole model's first; `metric` is accuracy, loglik, kl or kl_text."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    metric: str
    samples: int  # number of samples, none used for the scores, searches or predictor
    machine: str | None  # whose latency profile predicts the milliseconds
    of: tuple[Figure, ...]

    def __post_init__(self) -> None:
        ratios = [figure.ratio for figure in self.of]
        if not ratios or ratios[0] != 0 or ratios != sorted(set(ratios)):
            raise LopError(f"figures at ratios {ratios}: expected ascending ratios from 0")

    @property
    def scale(self) -> int:
        """The factor of printed values: 100 for an accuracy (per cent), else 1."""
        return 100 if self.metric == "accuracy" else 1

    def value_at(self, ratio: float) -> float:
        """The value at a ratio, interpolated linearly between measured ratios."""
        return self._at(ratio, [figure.value for figure in self.of])

    def speed_at(self, ratio: float) -> float | None:
        """Predicted speed at a ratio, as a multiple of the whole model's; None if unknown."""
        times = [figure.milliseconds for figure in self.of]
        known = [each for each in times if each is not None]
        if len(known) < len(times):
            return None
        return known[0] / self._at(ratio, known)

    def _at(self, ratio: float, values: Sequence[float]) -> float:
        return float(np.interp(ratio, [figure.ratio for figure in self.of], values))

    def sentence(self) -> str:
        """One sentence: what the smallest model with a small loss saves."""
        whole, by = self.of[0], UNITS.get(self.metric, DIVERGENCE)
        points = [
            Point(
                f"{per_cent(figure.ratio)} pruned",
                figure.bytes / whole.bytes,
                self.speed_at(figure.ratio),
                self.scale * figure.loss,
                self._loss_error(figure),
            )
            for figure in self.of[1:]
        ]
        return sentence(points, by) if points else ""

    def _loss_error(self, figure: Figure) -> float:
        if figure.loss_stderr is None:
            return np.nan
        error = self.scale * figure.loss_stderr
        return accuracy_error(error, self.samples) if self.metric == "accuracy" else error

    def markdown(self) -> str:
        """A Markdown table with one row for each ratio."""
        digits, unit = (1, " (%)") if self.metric == "accuracy" else (3, "")
        lines = [f"| pruned | parameters | MB | times as fast | {self.metric}{unit} |"]
        lines.append("| --- | --- | --- | --- | --- |")
        for figure in self.of:
            speed = self.speed_at(figure.ratio)
            value = f"{self.scale * figure.value:.{digits}f}"
            if figure.stderr is not None:
                value += f" ± {self.scale * figure.stderr:.{digits}f}"
            fast = "–" if speed is None else f"{speed:.2f}"
            cells = [per_cent(figure.ratio), f"{figure.parameters:,}", f"{figure.bytes / 1e6:,.1f}"]
            lines.append(f"| {' | '.join([*cells, fast, value])} |")
        return "\n".join(lines)
