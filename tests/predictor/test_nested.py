"""Nested plans: exact, within their layers, and each part of every larger one."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lop.plan import MIN_KEEP, budget, max_ratio, min_kept
from lop.predictor.nested import Nested


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_plans_are_exact_and_nested(data):
    widths = data.draw(st.lists(st.integers(1, 200), min_size=1, max_size=12))
    top = max_ratio(widths)
    low, high = sorted(data.draw(st.tuples(*[st.floats(0, top)] * 2)))
    ratios = np.linspace(low, high, 21)
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    plans = ratios[:, None] + rng.normal(0, data.draw(st.floats(0, 0.5)), (21, len(widths)))
    nested = Nested.of(plans, ratios, widths, MIN_KEEP)
    asked = sorted([low, high, *data.draw(st.lists(st.floats(low, high), max_size=8))])
    before = np.array(widths)
    for ratio in asked:
        kept = np.array(nested.plan(budget(widths, ratio)).kept)
        assert kept.sum() == budget(widths, ratio)
        assert (kept <= before).all()
        assert (kept >= min_kept(widths)).all()
        before = kept


def test_between_two_budgets_plans_are_in_between():
    nested = Nested.of(np.array([[0.1, 0.1], [0.7, 0.3]]), np.array([0.1, 0.5]), (1000, 1000), 0.1)
    assert nested.plan(1800).kept == (900, 900)
    assert nested.plan(1400).kept == (600, 800)
    assert nested.plan(1000).kept == (300, 700)
