"""When a challenger is promoted: the rule on numbers, and the numbers on a real model."""

import numpy as np
import pandas as pd
import pytest
import torch

from lop.errors import LopError
from lop.predictor import Predictor, PredictorConfig
from lop.reward import Reward
from lop.tracking.promotion import decide, judge, values

RATIOS = (0.2, 0.3, 0.4, 0.5)


def gaps_of(*rows):
    """Differences with these means and standard errors of the mean, one sample a picture."""
    spread = np.tile([-1.0, 1.0], 500)
    error = spread.std(ddof=1) / np.sqrt(1000)
    return np.stack([mean + stderr * spread / error for mean, stderr in rows])


@pytest.mark.parametrize(
    ("rows", "promoted", "reason"),
    [
        ([(0.2, 0.1), (0.2, 0.1)], True, "worse at any ratio: +0.2 ± 0.1 on average"),
        ([(0.1, 0.1), (0.1, 0.1)], False, "not significantly better: +0.1 ± 0.1 on average"),
        ([(0.5, 0.1), (-0.1, 0.1)], True, "better"),
        ([(0.9, 0.1), (-0.3, 0.1)], False, "worse at ratio 0.3: -0.3 ± 0.1"),
        ([(-0.1, 0.1), (0.0, 0.1)], False, "not significantly better: -0.05"),
        ([(0.0, 0.0)], False, "not significantly better: +0"),
    ],
)
def test_the_rule(rows, promoted, reason):
    decision, why = decide(RATIOS[: len(rows)], gaps_of(*rows), range(1000))
    assert decision is promoted
    assert reason in why


def promotions(better, draws=2000, shared=0.0, samples=200, per_picture=1, skewed=False):
    """How often a challenger is promoted that is better by so many standard errors of the mean.

    Differences at four ratios correlate, as one sample's do; `shared` is the part of the variance
    that the questions about a picture have in common.
    """
    rng = np.random.default_rng(0)
    pictures = np.arange(samples) // per_picture
    count = samples // per_picture

    def draw(shape):
        return rng.exponential(size=shape) - 1 if skewed else rng.normal(size=shape)

    inside = (1 + (per_picture - 1) * shared) / samples  # variance of the mean of one ratio
    true_error = np.sqrt(inside * (0.5 + 0.5 / len(RATIOS)))
    wins = 0
    for _ in range(draws):
        parts = []
        for ratios in (1, len(RATIOS)):  # what all ratios share, and what they do not
            own = draw((ratios, samples)) * np.sqrt(1 - shared)
            parts.append(own + draw((ratios, count))[:, pictures] * np.sqrt(shared))
        gaps = np.sqrt(0.5) * (parts[0] + parts[1]) + better * true_error
        wins += decide(RATIOS, gaps, pictures)[0]
    return wins / draws


@pytest.mark.parametrize(
    "samples",
    [{}, {"skewed": True}, {"shared": 0.6, "per_picture": 4}, {"samples": 30}],
    ids=["plain", "skewed", "shared pictures", "few"],
)
def test_chance_promotes_an_equal_challenger_in_at_most_one_case_of_twenty(samples):
    assert promotions(0.0, **samples) <= 0.05


@pytest.mark.parametrize("samples", [{}, {"shared": 0.6, "per_picture": 4}])
def test_a_challenger_two_standard_errors_better_is_mostly_promoted(samples):
    assert promotions(2.0, draws=1000, **samples) >= 0.5


def test_a_worse_challenger_is_hardly_ever_promoted():
    assert promotions(-0.4, draws=1000) <= 0.025


def predictor(space, model, seed):
    torch.manual_seed(seed)
    made = Predictor(PredictorConfig(space, model, min_ratio=0.1, max_ratio=0.6))
    torch.nn.init.normal_(made.network.head.weight, std=0.5)
    return made


def test_the_numbers_are_paired_by_sample_and_clustered_by_picture(
    model, processor, samples, scores
):
    pictures = list(samples["image_id"])
    with Reward(model, processor, samples, scores) as reward:
        name = reward.model_fingerprint
        old, new = (predictor(reward.space, name, seed) for seed in (0, 1))
        both = [values(reward, each, [0.2, 0.4]) for each in (old, new)]
        verdict = judge(*both, [0.2, 0.4], [0.2], pictures)
        gaps = reward.per_sample(new.plan(0.4))[1] - reward.per_sample(old.plan(0.4))[1]
        row = verdict.table.iloc[1]
        assert not row["searched"]
        assert row["difference"] == pytest.approx(gaps.mean())
        means = pd.Series(gaps).groupby(pictures).mean()  # two questions a picture
        assert row["stderr"] == pytest.approx(means.sem(), rel=1e-4)
        alone = judge(*both, [0.2, 0.4], [0.2], range(len(samples))).table.iloc[1]
        assert alone["stderr"] == pytest.approx(pd.Series(gaps).sem(), rel=1e-4)
        for ratios in ([0.2], [0.3, 0.4]):
            with pytest.raises(LopError, match="some that were searched and some not"):
                judge(*both, ratios, [0.2], pictures)
        with pytest.raises(LopError, match="all samples are about one picture"):
            judge(*both, [0.2, 0.4], [0.2], ["same"] * len(samples))
        other = predictor(reward.space, "another", 1)
        with pytest.raises(LopError, match="predictor trained for model another"):
            values(reward, other, [0.2, 0.4])
