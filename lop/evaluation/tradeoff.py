"""What a smaller model costs and saves, in one sentence that the figures support."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lop.evaluation.timing import Paired


@dataclass(frozen=True)
class Point:
    """A smaller model beside the dense one.

    `size` is its share of the dense model's bytes, `speed` how many times as fast it is (measured,
    or a number that is predicted), `loss` what it loses, in the unit that figures are printed in,
    with the standard error of the difference (nan: none).
    """

    name: str
    size: float
    speed: Paired | float | None
    loss: float
    error: float = math.nan


@dataclass(frozen=True)
class Unit:
    """What is lost: points of accuracy, say; up to `small` of it is little, in words `within`."""

    name: str
    small: float
    within: str
    digits: int = 1


POINTS = Unit("points of accuracy", 1.0, "one point of accuracy")


def accuracy_error(error: float, samples: int) -> float:
    """The standard error of a difference in accuracy, in points: of one sample at least.

    Where few samples all keep their answers, their own error is 0, and tells nothing.
    """
    return max(error, 100 / samples)


def sentence(points: Sequence[Point], unit: Unit = POINTS) -> str:
    """What the smallest model that surely loses little saves.

    Where there is none, that each loses more, or that the samples are too few to tell.
    """
    little = [point for point in points if point.loss <= unit.small]
    sure = [point for point in little if not point.loss + point.error > unit.small]
    if sure:
        return f"{_told(min(sure, key=lambda point: point.size), unit)}."
    if little:
        best = min(little, key=lambda point: point.error)
        return f"Too few samples to tell {unit.within}: {_told(best, unit)}."
    least = min(points, key=lambda point: point.loss)
    return f"Nothing stays within {unit.within}: {_told(least, unit)}."


def _told(point: Point, unit: Unit) -> str:
    return f"{point.name}: {_size(point)}, {_speed(point)}, {_loss(point, unit)}"


def _size(point: Point) -> str:
    return f"{100 * point.size:.0f} % of the bytes"


def _speed(point: Point) -> str:
    if point.speed is None:
        return "speed not measured"
    if isinstance(point.speed, Paired):
        if point.speed.is_noise:
            return "no faster beyond noise"
        return f"{point.speed.ratio:.2f} times the speed"
    return f"{point.speed:.2f} times the speed as predicted"


def _loss(point: Point, unit: Unit) -> str:
    error = "" if math.isnan(point.error) else f" ± {point.error:.{unit.digits}f}"
    word = "lost" if point.loss >= 0 else "gained"
    return f"{abs(point.loss):.{unit.digits}f}{error} {unit.name} {word}"
