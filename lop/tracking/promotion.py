"""The decision whether a challenger kit becomes champion, from the same validation samples.

At each ratio, both kits' plans are applied to the model, each with its own kit's scores, and both
pruned models are judged on every sample. Differences are paired by sample, so that the samples'
difficulty cancels. Samples about the same picture are not independent: standard errors are
clustered by picture.
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

# Significance level: the chance that an equally good challenger is promoted. The test is exact only
# for normal differences; 4 % keeps the real chance below 5 % for skewed ones and few pictures.
LEVEL = 0.04


@dataclass(frozen=True)
class Verdict:
    """Whether the challenger is promoted, the reason, and the numbers.

    `table` has one row for each ratio, with the columns ratio, searched (whether the ratio is a
    target of the search), champion, challenger, difference and stderr (paired). Values are means
    over samples of the log-likelihood or accuracy.
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

    `old` and `new` are the rewards of champion and challenger by ratio and sample, (R, N), from
    `values`. `pictures` gives the picture of each sample, (N,). `ratios` must contain some of the
    search's `targets` and some other ratios. Raises LopError if they do not, or if all samples are
    about one picture.
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
    """For each ratio whether it was searched; LopError unless some were and some were not."""
    searched = [any(abs(ratio - target) < 1e-9 for target in targets) for ratio in ratios]
    if all(searched) or not any(searched):
        raise LopError(f"ratios {list(ratios)}: expected some that were searched and some not")
    return searched


def values(reward: Reward, predictor: Predictor, ratios: Sequence[float]) -> np.ndarray:
    """Log-likelihood or accuracy of a kit's plans by ratio and sample, (R, N).

    `reward` uses validation samples and the kit's scores. Raises LopError if the predictor was
    trained for another model.
    """
    predictor.check_fits(reward.space, reward.model_fingerprint)
    return np.stack([_values(reward, predictor, ratio) for ratio in ratios])


def decide(
    ratios: Sequence[float], gaps: np.ndarray, pictures: Sequence[object]
) -> tuple[bool, str]:
    """Whether to promote, and the reason; `gaps` are challenger minus champion by ratio and sample,
    (R, N).

    The challenger is promoted if the one-sided lower confidence bound (level 1 - LEVEL) of the mean
    over ratios and samples is above 0, and no single ratio's upper bound is below 0, with a
    Bonferroni correction for the number of ratios. LopError if all samples are about one picture.
    """
    from scipy.special import stdtrit  # scipy is a dependency of MLflow

    if (count := len(np.unique(np.asarray(pictures)))) < 2:
        raise LopError("promotion: all samples are about one picture; expected at least two")
    quantile, corrected = stdtrit(count - 1, [1 - LEVEL, 1 - LEVEL / len(ratios)])
    for ratio, gap in zip(ratios, gaps, strict=True):
        error = clustered_error(gap, pictures)
        if gap.mean() + corrected * error < 0:
            return False, f"worse at ratio {ratio:g}: {gap.mean():+.4g} ± {error:.2g}"
    mean, error = gaps.mean(), clustered_error(gaps.mean(0), pictures)
    bound = mean - quantile * error
    figures = f"{mean:+.4g} ± {error:.2g} on average, lower bound {bound:+.4g}"
    if bound <= 0:
        return False, f"not significantly better: {figures}"
    return True, f"better, and not significantly worse at any ratio: {figures}"


def check_same_model(champion: Kit, challenger: Kit) -> None:
    """Raise LopError for kits of different models, which cannot be compared."""
    ours, theirs = champion.about.model_fingerprint, challenger.about.model_fingerprint
    if ours != theirs:
        raise LopError(
            f"the champion was learned for model {ours}, the challenger for {theirs}: "
            "register the challenger under another name"
        )


def _values(reward: Reward, predictor: Predictor, ratio: float) -> np.ndarray:
    correct, loglik = reward.per_sample(predictor.plan(ratio))
    return correct if reward.kind == "accuracy" else loglik
