import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lop.errors import LopError
from lop.plan import MIN_KEEP, Plan, budget, max_ratio, min_kept

widths_st = st.lists(st.integers(1, 20_000), min_size=1, max_size=40)


@given(widths_st, st.floats(0, 1), st.integers(0, 2**32 - 1), st.floats(0.01, 3))
def test_every_plan_meets_its_budget_to_the_neuron(widths, share, seed, spread):
    target = share * max_ratio(widths)
    ratios = np.random.default_rng(seed).normal(target, spread, len(widths))
    plan = Plan.from_ratios(ratios, widths, target)
    assert sum(plan.kept) == budget(widths, target) == sum(widths) - round(target * sum(widths))
    assert all(k >= low for k, low in zip(plan.kept, min_kept(widths), strict=True))
    assert all(k <= d for k, d in zip(plan.kept, widths, strict=True))


@given(widths_st, st.floats(0, 1))
def test_a_plan_on_the_budget_stays_as_it_is(widths, share):
    plan = Plan.uniform(widths, share * max_ratio(widths))
    assert Plan.from_ratios(plan.ratios, widths, plan.ratio).kept == plan.kept


def test_from_ratios_shifts_all_layers_alike():
    plan = Plan.from_ratios([0.1, 0.3, 0.5], [100, 100, 100], 0.5)
    assert plan.kept == (70, 50, 30)


@given(widths_st, st.floats(0, 1), st.integers(0, 2**32 - 1), st.floats(0.01, 3))
def test_the_shift_is_the_one_that_bisection_finds(widths, share, seed, spread):
    target = share * max_ratio(widths)
    ratios = np.random.default_rng(seed).normal(target, spread, len(widths))
    d, low = np.array(widths), min_kept(widths)

    def moved(shift):
        return np.clip((1 - ratios + shift) * d, low, d)

    below, above = ratios.min() - 1, ratios.max()
    for _ in range(60):
        middle = (below + above) / 2
        if moved(middle).sum() < budget(widths, target):
            below = middle
        else:
            above = middle
    off = np.subtract(Plan.from_ratios(ratios, widths, target).kept, moved(above))
    assert np.abs(off).max() < 1 + 1e-5


def test_bounds_hold_when_the_wish_is_extreme():
    plan = Plan.from_ratios([5.0, 0.0, 0.0], [100, 100, 100], 0.3)
    assert plan.kept == (10, 100, 100)


@pytest.mark.parametrize("ratio", [-0.1, 0.91, 1.0, 1.2, float("nan")])
def test_unreachable_ratio_is_refused_with_the_range(ratio):
    with pytest.raises(LopError, match=r"reaches 0 to 0\.9 "):
        Plan.uniform([100, 100], ratio)


def test_wrong_number_of_layers_is_refused():
    with pytest.raises(LopError, match="2 layer-wise ratios for a model with 3 layers"):
        Plan.from_ratios([0.5, 0.5], [10, 10, 10], 0.5)
    with pytest.raises(LopError, match="finite"):
        Plan.from_ratios([float("nan"), 0.5], [10, 10], 0.5)


def test_min_kept_is_a_tenth_and_at_least_one():
    assert min_kept([100, 64, 3]).tolist() == [10, 6, 1]
    assert MIN_KEEP == 0.1


@given(
    st.lists(st.integers(64, 400), min_size=1, max_size=8), st.floats(0, 0.6), st.integers(1, 16)
)
def test_rounded_widths_are_multiples_but_one_and_on_the_same_budget(widths, ratio, multiple):
    plan = Plan.uniform(widths, ratio)
    try:
        rounded = plan.rounded(multiple)
    except LopError:
        assert sum(plan.kept) > sum(multiple * (d // multiple) for d in widths) - multiple
        return
    assert sum(rounded.kept) == sum(plan.kept)
    assert sum(k % multiple != 0 for k in rounded.kept) <= 1
