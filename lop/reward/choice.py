"""Chooses the score that ranks a model's neurons, and whether to compensate for pruned neurons.

Uniform plans of every score, with and without compensation, are evaluated on the same reward
samples. `auto` means the candidate that loses least, for score and compensation alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from lop.data.clusters import clustered_error
from lop.errors import LopError
from lop.importance import RANKINGS, check_ranks
from lop.plan import Plan
from lop.typed import read_typed

if TYPE_CHECKING:
    from lop.reward import Reward

VERSION = 1  # of the choice: raise it when a change of this code changes it
AUTO = "auto"
FILE = "choice.json"
RATIOS = (0.2, 0.3, 0.5)
SAMPLES = 200
SURE = 2.0  # a ratio counts only if its typical loss is this many standard errors above 0


class Candidate(NamedTuple):
    """A score, and whether the pruned neurons' mean output is restored."""

    score: str
    compensate: bool


# the simplest first: nothing restored, then the paper's score
CANDIDATES = tuple(Candidate(score, restored) for restored in (False, True) for score in RANKINGS)


@dataclass(frozen=True)
class Measured:
    """The mean reward of a candidate's uniform plan, and its difference from the chosen
    candidate's."""

    score: str
    compensate: bool
    ratio: float
    reward: float
    difference: float
    stderr: float  # of the difference, paired by sample and clustered by picture


@dataclass(frozen=True)
class Choice:
    """The meaning of `auto` for a model, and the measurements behind it."""

    score: str
    compensate: bool
    by_score: dict[str, bool]  # whether to compensate, where the score is given
    by_compensate: dict[str, str]  # the score, where compensation (true, false) is given
    ratios: tuple[float, ...]
    samples: int
    reward: str
    fingerprint: str  # of everything that decides the choice
    table: tuple[Measured, ...]

    def __str__(self) -> str:
        restored = "with" if self.compensate else "without"
        return (
            f"auto is score {self.score} {restored} compensation, from uniform plans at "
            f"{', '.join(f'{ratio:g}' for ratio in self.ratios)} on {self.samples} reward samples"
        )

    def resolve(self, score: str, compensate: bool | str) -> Candidate:
        """Replace `auto` in a score and a compensation by its meaning."""
        if score == AUTO and compensate == AUTO:
            return Candidate(self.score, self.compensate)
        if score == AUTO:
            return Candidate(self.by_compensate[_key(bool(compensate))], bool(compensate))
        return Candidate(score, self.by_score[score])


def chosen(scores_dir: str | Path, score: str, compensate: bool | str) -> Candidate:
    """The score and compensation to use, where either may be `auto`.

    Raises LopError for an unknown score, and for `auto` if the scores were made without reward
    samples.
    """
    if score != AUTO:
        check_ranks(score)
        if compensate != AUTO:
            return Candidate(score, bool(compensate))
    path = Path(scores_dir) / FILE
    if not path.exists():
        open_ = "score" if score == AUTO else "compensate"
        raise LopError(
            f"{path}: does not exist, so {open_} {AUTO} is undefined: these scores were made "
            f"without reward samples; compute them again with --reward, or name the {open_}"
        )
    return read_choice(path).resolve(score, compensate)


def read_choice(path: Path) -> Choice:
    """Read the file that `save` wrote; LopError with file and field if it is not valid."""
    choice = read_typed(Choice, path)
    try:
        for score in (choice.score, *choice.by_compensate.values()):
            check_ranks(score)
        if set(choice.by_score) != set(RANKINGS):
            raise LopError(f"by_score: expected {', '.join(RANKINGS)}")
        if set(choice.by_compensate) != {_key(False), _key(True)}:
            raise LopError("by_compensate: expected false and true")
    except LopError as error:
        raise LopError(f"{path}: {error}; compute the scores again") from error
    return choice


def save(choice: Choice, path: Path) -> None:
    """Write a choice as JSON."""
    path.write_text(json.dumps(asdict(choice), indent=2) + "\n")


def choose(
    reward: Reward,
    scores: Mapping[str, Sequence[Tensor]],
    pictures: Sequence[object],
    ratios: Sequence[float] = RATIOS,
    fingerprint: str = "",
) -> Choice:
    """Measure every candidate's uniform plans and choose.

    `reward` has its samples in one part, with their `pictures` (N,), and is not entered yet;
    `scores` holds every score of `lop.importance.SCORES`.
    """
    dense, rewards = measure(reward, scores, ratios)
    losses = relative(dense, rewards, pictures)
    best = simplest(losses, pictures)
    table = []
    for candidate, found in rewards.items():
        for ratio, values, reference in zip(ratios, found, rewards[best], strict=True):
            gap = values - reference
            error = clustered_error(gap, pictures)
            figures = float(values.mean()), float(gap.mean()), error
            table.append(Measured(*candidate, ratio, *figures))
    return Choice(
        *best,
        {s: simplest(losses, pictures, score=s).compensate for s in RANKINGS},
        {_key(c): simplest(losses, pictures, compensate=c).score for c in (False, True)},
        tuple(ratios),
        len(dense),
        reward.kind,
        fingerprint,
        tuple(table),
    )


def measure(
    reward: Reward, scores: Mapping[str, Sequence[Tensor]], ratios: Sequence[float]
) -> tuple[np.ndarray, dict[Candidate, np.ndarray]]:
    """The dense model's reward on each sample, (N,), and by candidate the rewards of its uniform
    plans, (R, N)."""
    rewards = {}
    with reward:
        dense = _values(reward, 0.0)
    for candidate in CANDIDATES:
        means = scores["mean_activation"] if candidate.compensate else None
        with reward.ranked(scores[candidate.score], means) as ranked:
            rewards[candidate] = np.stack([_values(ranked, ratio) for ratio in ratios])
    return dense, rewards


def _values(reward: Reward, ratio: float) -> np.ndarray:
    return reward.values(Plan.uniform(reward.space, ratio), 0).astype(float)


def relative(
    dense: np.ndarray, rewards: Mapping[Candidate, np.ndarray], pictures: Sequence[object]
) -> dict[Candidate, np.ndarray]:
    """Each candidate's loss on each sample in units of the typical loss, mean over ratios, (N,).

    The typical loss of a ratio is that of the median candidate. Losses grow many times over from
    the smallest ratio to the largest: in a plain sum, the largest ratio would decide alone. A ratio
    whose typical loss is within noise is left out.
    """
    losses = {candidate: dense - values for candidate, values in rewards.items()}
    count = len(next(iter(losses.values())))
    units = []
    for r in range(count):
        middle = sorted((loss[r] for loss in losses.values()), key=np.mean)[len(losses) // 2]
        significant = middle.mean() > SURE * clustered_error(middle, pictures)
        units.append(middle.mean() if significant else np.inf)
    weights = 1 / np.array(units)[:, None] / max(1, np.isfinite(units).sum())
    return {candidate: (loss * weights).sum(0) for candidate, loss in losses.items()}


def simplest(
    losses: Mapping[Candidate, np.ndarray],
    pictures: Sequence[object],
    score: str | None = None,
    compensate: bool | None = None,
) -> Candidate:
    """The first of `CANDIDATES` whose loss is within one standard error of the least.

    The error is that of the difference, paired by sample. (The one-standard-error rule of Breiman
    et al., Classification and Regression Trees, 1984.) `score` and `compensate` limit the
    candidates.
    """
    among = [
        c for c in CANDIDATES if score in (None, c.score) and compensate in (None, c.compensate)
    ]
    least = min(among, key=lambda c: losses[c].mean())

    def level(candidate: Candidate) -> bool:
        gap = losses[candidate] - losses[least]
        return candidate == least or gap.mean() <= clustered_error(gap, pictures)

    return next(filter(level, among))


def _key(compensate: bool) -> str:
    return str(compensate).lower()
