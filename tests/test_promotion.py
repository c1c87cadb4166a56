"""When a challenger is promoted: the rule on numbers, and the numbers on a real model."""

import pandas as pd
import pytest
import torch

from lop.errors import LopError
from lop.predictor import Predictor, PredictorConfig
from lop.promotion import decide, judge
from lop.reward import Reward


def table(*rows):
    return pd.DataFrame(rows, columns=["ratio", "difference", "stderr"])


@pytest.mark.parametrize(
    ("rows", "promoted", "reason"),
    [
        ([(0.2, 0.3, 0.1), (0.4, 0.1, 0.1)], True, "nowhere worse beyond noise, +0.2 on average"),
        ([(0.2, 0.5, 0.1), (0.4, -0.1, 0.1)], True, "nowhere worse"),
        ([(0.2, 0.5, 0.1), (0.4, -0.3, 0.1)], False, "worse at ratio 0.4: -0.3 ± 0.1"),
        ([(0.2, -0.1, 0.1), (0.4, 0.0, 0.1)], False, "not better on average: -0.05"),
        ([(0.2, 0.0, 0.0)], False, "not better on average: +0"),
    ],
)
def test_the_rule(rows, promoted, reason):
    decision, why = decide(table(*rows))
    assert decision is promoted
    assert reason in why


def predictor(widths, model, seed):
    torch.manual_seed(seed)
    made = Predictor(PredictorConfig(widths, model, min_ratio=0.1, max_ratio=0.6))
    torch.nn.init.normal_(made.network.head.weight, std=0.5)
    return made


def test_the_numbers_are_paired_by_sample(model, processor, samples, scores):
    with Reward(model, processor, samples, scores) as reward:
        name = reward.model_fingerprint
        old, new = (predictor(reward.widths, name, seed) for seed in (0, 1))
        verdict = judge(reward, old, new, [0.2, 0.4], targets=[0.2])
        gaps = reward.per_sample(new.plan(0.4))[1] - reward.per_sample(old.plan(0.4))[1]
        row = verdict.table.iloc[1]
        assert not row["searched"]
        assert row["difference"] == pytest.approx(gaps.mean())
        assert row["stderr"] == pytest.approx(pd.Series(gaps).sem())
        for ratios in ([0.2], [0.3, 0.4]):
            with pytest.raises(LopError, match="some that were searched and some not"):
                judge(reward, old, new, ratios, targets=[0.2])
        with pytest.raises(LopError, match="predictor trained for model another"):
            judge(reward, old, predictor(reward.widths, "another", 1), [0.2, 0.4], targets=[0.2])
