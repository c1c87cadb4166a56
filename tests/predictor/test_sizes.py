"""The predictor of units and bits: the knapsack's plans, and what it learns beside them."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from test_joint import GROUP, OTHERS, measured, source  # noqa: F401

from lop.errors import LopError
from lop.joint import Choices
from lop.models.sizes import Sizes
from lop.plan import WHOLE
from lop.predictor.sizes import SizeConfig, SizePredictor, train

BITS = (4, 8, WHOLE)
SHARES = np.linspace(0.45, 1, 12)


@pytest.fixture(scope="module")
def choices(source):  # noqa: F811
    space = source.space()
    return Choices(measured(space), Sizes(source, space, GROUP), BITS)


@pytest.fixture
def config(choices):
    return SizeConfig(choices.space, "m", BITS, GROUP, OTHERS, 0.45, hidden=32, depth=1)


def amounts(choices):
    return SHARES * choices.sizes.of(choices.space.dense)


def test_before_training_its_plans_are_the_knapsacks(choices, config):
    predictor = SizePredictor(config)
    for amount in amounts(choices):
        assert predictor.plan(choices, amount) == choices.plan(choices.solve(amount))


def test_it_learns_from_better_plans_and_meets_every_size(choices, config, tmp_path):
    moved = np.zeros(8)
    moved[0], moved[4] = 0.6, -0.25  # fewer units in the first site, more bits in the second
    rows = [{"target": 1 - share, "plan": moved.tolist(), "weight": 1.0} for share in (0.5, 0.6)]
    train(pd.DataFrame(rows), config, 0, epochs=300).save_pretrained(tmp_path / "sizes")
    predictor = SizePredictor.from_pretrained(tmp_path / "sizes")
    for amount in amounts(choices):
        assert choices.sizes.of(predictor.plan(choices, amount)) <= amount
    amount = 0.5 * choices.sizes.of(choices.space.dense)
    before, after = choices.plan(choices.solve(amount)), predictor.plan(choices, amount)
    assert after.kept[0] < before.kept[0]
    assert after.bits.sites[1] > before.bits.sites[1]


def test_what_a_plan_removes_is_found_again(choices):
    for amount in amounts(choices):
        start = choices.solve(amount)
        removed = choices.removed(choices.plan(start))
        assert choices.near(removed, amount, start) == start


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"bits": (4, WHOLE)}, r"bits \(4, 8, 16\): expected \(4, 16\), which"),
        ({"group": 8}, "group 16: expected 8, which this predictor learned"),
        ({"others": ()}, r"others \('embeddings', 'head'\): expected \(\), which"),
        ({"smallest": 0.9}, "expected at least 53,395, the smallest that"),
    ],
)
def test_what_it_was_not_trained_for_is_refused(choices, config, change, line):
    predictor = SizePredictor(dataclasses.replace(config, **change))
    with pytest.raises(LopError, match=line):
        predictor.plan(choices, 0.5 * choices.sizes.of(choices.space.dense))
