"""Is a new kit better than the one in use? Both are judged on the same validation samples.

At each ratio both plan, the model is cut both ways, each by its kit's scores, and every sample is
answered twice: paired, so that the samples' own difficulty cancels. Samples that share a picture
share its difficulty too: errors are those of means of clusters, a cluster a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lop.data.clusters import clustered_error
from lop.errors import LopError
from lop.kit import Kit
from lop.predictor import Predictor
from lop.reward import Reward

# How often an equal challenger may be promoted by chance. The test is exact for normal differences
# only: below 5 %, so that skewed ones and few pictures stay within 5 %.
LEVEL = 0.04


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
    old: np.ndarray,
    new: np.ndarray,
    ratios: Sequence[float],
    targets: Sequence[float],
    pictures: Sequence[object],
) -> Verdict:
    """Promote a challenger that is better on average over the ratios, and worse at none.

    `old` and `new` are what champion and challenger are worth by ratio and sample, (R, N), as
    `values` gives them. `pictures` says which picture each sample is about, (N,). `ratios` hold
    some of the search's `targets` and some that it never saw. Raises LopError when they do not, or
    there is only one picture.
    """
    searched = searched_of(ratios, targets)
    gaps = new - old
    table = pd.DataFrame(
        {
            "ratio": ratios,
            "searched": searched,
            "champion": old.mean(1),
            "challenger": new.mean(1),
            "difference": gaps.mean(1),
            "stderr": [clustered_error(gap, pictures) for gap in gaps],
        }
    )
    return Verdict(*decide(ratios, gaps, pictures), table)


def searched_of(ratios: Sequence[float], targets: Sequence[float]) -> list[bool]:
    """Which ratios were searched; LopError unless some were and some were not."""
    searched = [any(abs(ratio - target) < 1e-9 for target in targets) for ratio in ratios]
    if all(searched) or not any(searched):
        raise LopError(f"ratios {list(ratios)}: expected some that were searched and some not")
    return searched


def values(reward: Reward, predictor: Predictor, ratios: Sequence[float]) -> np.ndarray:
    """What a kit's plans are worth by ratio and sample, (R, N): log-likelihood, or accuracy.

    `reward` is made of validation samples and the kit's scores. Raises LopError when the predictor
    is of another model.
    """
    predictor.check_fits(reward.space, reward.model_fingerprint)
    return np.stack([_values(reward, predictor, ratio) for ratio in ratios])


def decide(
    ratios: Sequence[float], gaps: np.ndarray, pictures: Sequence[object]
) -> tuple[bool, str]:
    """The rule itself, on challenger minus champion by ratio and sample, (R, N).

    Promoted if the lower confidence bound (one-sided, 1 - LEVEL) of the mean over ratios and
    samples is above 0, and no ratio's upper bound is below 0, corrected for their number
    (Bonferroni). LopError when all samples are about one picture.
    """
    from scipy.special import stdtrit  # comes with MLflow, whose registry this is for

    if (count := len(np.unique(np.asarray(pictures)))) < 2:
        raise LopError("promotion: all samples are about one picture; expected at least two")
    width, apart = stdtrit(count - 1, [1 - LEVEL, 1 - LEVEL / len(ratios)])
    for ratio, gap in zip(ratios, gaps, strict=True):
        error = clustered_error(gap, pictures)
        if gap.mean() + apart * error < 0:
            return False, f"worse at ratio {ratio:g}: {gap.mean():+.4g} ± {error:.2g}"
    mean, error = gaps.mean(), clustered_error(gaps.mean(0), pictures)
    bound = mean - width * error
    figures = f"{mean:+.4g} ± {error:.2g} on average, lower bound {bound:+.4g}"
    if bound <= 0:
        return False, f"not surely better: {figures}"
    return True, f"better, and at no ratio worse beyond noise: {figures}"


def check_same_model(champion: Kit, challenger: Kit) -> None:
    """Raise LopError for kits of different models, which nothing can compare."""
    ours, theirs = champion.about.model_fingerprint, challenger.about.model_fingerprint
    if ours != theirs:
        raise LopError(
            f"the champion was learned for model {ours}, the challenger for {theirs}: "
            "register it under a name of its own"
        )


def _values(reward: Reward, predictor: Predictor, ratio: float) -> np.ndarray:
    correct, loglik = reward.per_sample(predictor.plan(ratio))
    return correct if reward.kind == "accuracy" else loglik
