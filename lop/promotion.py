"""Is a new predictor better than the one in use? Both are judged on the same validation samples.

At each ratio both plan, the model is cut both ways, and every sample is answered twice: paired, so
that the samples' own difficulty cancels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lop.errors import LopError
from lop.predictor import Predictor
from lop.reward import Reward

NOISE = 2.0  # paired standard errors, within which a difference is none


@dataclass(frozen=True)
class Verdict:
    """Whether the challenger is promoted, why, and the numbers behind it.

    `table` has a row a ratio: ratio, searched (is it a target of the search?), champion,
    challenger, difference, stderr (paired); of log-likelihood or accuracy, means over samples.
    """

    promoted: bool
    reason: str
    table: pd.DataFrame


def judge(
    reward: Reward,
    champion: Predictor,
    challenger: Predictor,
    ratios: Sequence[float],
    targets: Sequence[float],
) -> Verdict:
    """Promote a challenger that is nowhere worse than noise explains, and better on average.

    `reward` is made of validation samples; its kind says what is compared. `ratios` hold some of
    the search's `targets` and some that it never saw. Raises LopError when they do not, or a
    predictor was trained for another model.
    """
    searched = [any(abs(ratio - target) < 1e-9 for target in targets) for ratio in ratios]
    if all(searched) or not any(searched):
        raise LopError(f"ratios {list(ratios)}: expected some that were searched and some not")
    name = reward.model_fingerprint
    for predictor in (champion, challenger):
        predictor.check_fits(reward.widths, name)
    rows = []
    for ratio, known in zip(ratios, searched, strict=True):
        old, new = (_values(reward, predictor, ratio) for predictor in (champion, challenger))
        row = {"ratio": ratio, "searched": known, "champion": old.mean(), "challenger": new.mean()}
        rows.append(row | {"difference": (new - old).mean(), "stderr": _stderr(new - old)})
    table = pd.DataFrame(rows)
    return Verdict(*decide(table), table)


def decide(table: pd.DataFrame) -> tuple[bool, str]:
    """The rule itself, on columns ratio, difference and stderr."""
    worse = table[table["difference"] < -NOISE * table["stderr"]]
    if len(worse):
        row = worse.iloc[0]
        gap = f"{row['difference']:+.4g} ± {row['stderr']:.2g}"
        return False, f"worse at ratio {row['ratio']:g}: {gap}"
    average = table["difference"].mean()
    if average <= 0:
        return False, f"not better on average: {average:+.4g}"
    return True, f"nowhere worse beyond noise, {average:+.4g} on average"


def check_same_model(champion: Predictor, challenger: Predictor) -> None:
    """Raise LopError for predictors of different models, which nothing can compare."""
    ours, theirs = champion.config.model_fingerprint, challenger.config.model_fingerprint
    if ours != theirs:
        raise LopError(
            f"the champion was trained for model {ours}, the challenger for {theirs}: "
            "register it under a name of its own"
        )


def _values(reward: Reward, predictor: Predictor, ratio: float) -> np.ndarray:
    correct, loglik = reward.per_sample(predictor.plan(ratio))
    return correct if reward.kind == "accuracy" else loglik


def _stderr(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))
