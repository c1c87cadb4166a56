from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lop.errors import LopError
from lop.plan import FLOORS, Plan, Space

widths_st = st.lists(st.integers(1, 20_000), min_size=1, max_size=40)


@st.composite
def spaces(draw):
    """Spaces of layers with attention and an FFN, as decoders have them."""
    layers = draw(st.integers(1, 30))
    heads, price = draw(st.integers(1, 32)), draw(st.integers(1, 3000))
    widths = draw(st.lists(st.integers(1, 2000), min_size=layers, max_size=layers))
    neuron = draw(st.integers(1, 50))
    multiple = draw(st.sampled_from([1, 1, 4, 16]))
    units = [n for width in widths for n in (heads, width * multiple)]
    kinds = ["attention", "ffn"] * layers
    floors = {kind: draw(st.sampled_from([0, 0.1, 0.3])) for kind in ("ffn", "attention")}
    of_layers = [i // 2 for i in range(2 * layers)]
    found = Space.of(units, [price, neuron] * layers, kinds, of_layers, floors, multiple)
    # a model keeps something in the first site of each kind
    heads, neurons, *others = found.floors
    return replace(found, floors=(max(1, heads), max(multiple, neurons), *others))


@given(widths_st, st.floats(0, 1), st.integers(0, 2**32 - 1), st.floats(0.01, 3))
def test_every_plan_of_ffns_meets_its_budget_to_the_neuron(widths, share, seed, spread):
    space = Space.ffns(widths)
    target = share * space.max_ratio
    ratios = np.random.default_rng(seed).normal(target, spread, len(widths))
    plan = Plan.from_ratios(ratios, space, target)
    assert sum(plan.kept) == space.budget(target) == sum(widths) - round(target * sum(widths))
    assert all(low <= k <= d for low, k, d in zip(space.floors, plan.kept, widths, strict=True))


@given(spaces(), st.floats(0, 1), st.integers(0, 2**32 - 1), st.floats(0.01, 3))
def test_plans_of_heads_and_neurons_are_less_than_a_neuron_below_their_budget(
    space, share, seed, spread
):
    target = share * space.max_ratio
    ratios = np.random.default_rng(seed).normal(target, spread, len(space.units))
    plan = Plan.from_ratios(ratios, space, target)
    units = zip(space.floors, plan.kept, space.units, strict=True)
    assert all(low <= k <= d for low, k, d in units)
    assert all(k % space.multiple == 0 for k in plan.of("ffn"))
    below = space.budget(target) - plan.parameters
    assert below >= 0
    # a space whose FFNs are all at a bound has no neuron to give
    full = plan.of("ffn") in (Plan(space, space.floors).of("ffn"), space.dense.of("ffn"))
    assert below < space.step or full
    if space.multiple == 1 and below < space.grain:
        assert plan.budget == space.budget(target)
        again = plan.nearest(plan.ratios)
        assert again.budget == plan.budget


def test_a_head_that_costs_more_than_all_ffns_does_not_exceed_the_budget():
    space = Space((4, 48), (200, 3), ("attention", "ffn"), (0, 0), (2, 24), 4)
    for ratio in np.linspace(0, space.max_ratio, 50):
        plan = Plan.uniform(space, ratio)
        assert plan.parameters <= space.budget(ratio)
        assert plan.evened().parameters <= space.budget(ratio)


def test_moves_on_a_budget_of_multiples_stay_on_it():
    units, costs = (4, 704) * 8, (170 * 3, 3) * 8
    layers = [i // 2 for i in range(16)]
    space = Space.of(units, costs, ("attention", "ffn") * 8, layers, multiple=64)
    plan = Plan.uniform(space, 0.3)
    budget, rng = plan.budget, np.random.default_rng(0)
    for _ in range(40):
        plan = plan.nearest(np.array(plan.ratios) + rng.uniform(-0.1, 0.1, 16))
        assert plan.budget == budget == space.budget(0.3)
        assert 0 <= budget - plan.parameters < space.step


def test_an_evened_plan_keeps_a_head_where_the_plan_did():
    units, kinds = (2, 96) * 4, ("attention", "ffn") * 4
    layers = [i // 2 for i in range(8)]
    floors = {"ffn": 0.1, "attention": 0}
    space = Space.of(units, (30, 1) * 4, kinds, layers, floors)
    plan = Plan(space, (1, 40, 1, 40, 0, 40, 0, 40))
    assert plan.evened().of("attention") == (1, 1, 1, 1)


@given(widths_st, st.floats(0, 1))
def test_a_plan_on_the_budget_stays_as_it_is(widths, share):
    space = Space.ffns(widths)
    plan = Plan.uniform(space, share * space.max_ratio)
    assert plan.nearest(plan.ratios).kept == plan.kept
    assert Plan.from_ratios(plan.ratios, space, plan.ratio).kept == plan.kept


def test_from_ratios_shifts_all_sites_alike():
    plan = Plan.from_ratios([0.1, 0.3, 0.5], Space.ffns([100, 100, 100]), 0.5)
    assert plan.kept == (70, 50, 30)


@given(widths_st, st.floats(0, 1), st.integers(0, 2**32 - 1), st.floats(0.01, 3))
def test_the_shift_is_the_one_that_bisection_finds(widths, share, seed, spread):
    space = Space.ffns(widths)
    target = share * space.max_ratio
    ratios = np.random.default_rng(seed).normal(target, spread, len(widths))
    d, low = np.array(widths), np.array(space.floors)

    def moved(shift):
        return np.clip((1 - ratios + shift) * d, low, d)

    below, above = ratios.min() - 1, ratios.max()
    for _ in range(60):
        middle = (below + above) / 2
        if moved(middle).sum() < space.budget(target):
            below = middle
        else:
            above = middle
    off = np.subtract(Plan.from_ratios(ratios, space, target).kept, moved(above))
    assert np.abs(off).max() < 1 + 1e-5


def test_bounds_hold_when_the_wish_is_extreme():
    plan = Plan.from_ratios([5.0, 0.0, 0.0], Space.ffns([100, 100, 100]), 0.3)
    assert plan.kept == (10, 100, 100)


@pytest.mark.parametrize("ratio", [-0.1, 0.91, 1.0, 1.2, float("nan")])
def test_unreachable_ratio_is_refused_with_the_range(ratio):
    with pytest.raises(LopError, match=r"reaches 0 to 0\.9 "):
        Plan.uniform(Space.ffns([100, 100]), ratio)


def test_wrong_number_of_sites_is_refused():
    with pytest.raises(LopError, match="2 ratios for a model with 3 sites"):
        Plan.from_ratios([0.5, 0.5], Space.ffns([10, 10, 10]), 0.5)
    with pytest.raises(LopError, match="finite"):
        Plan.from_ratios([float("nan"), 0.5], Space.ffns([10, 10]), 0.5)


def test_a_floor_is_a_tenth_and_at_least_one_unless_it_is_none():
    assert Space.ffns([100, 64, 3]).floors == (10, 6, 1)
    assert Space.ffns([100, 64, 3], floor=0).floors == (0, 0, 0)
    assert FLOORS == {"ffn": 0.1, "attention": 0.1}


def test_widths_are_multiples_where_the_space_says_so():
    space = Space.ffns([160, 160, 320], multiple=16)
    assert space.floors == (16, 16, 32)
    plan = Plan.from_ratios([0.1, 0.4, 0.7], space, 0.5)
    assert all(k % 16 == 0 for k in plan.kept)
    assert 0 <= space.budget(0.5) - plan.parameters < 16
    with pytest.raises(LopError, match="multiple_of 7 does not divide an FFN of 160"):
        Space.ffns([160], multiple=7)


@given(spaces(), st.floats(0, 1))
def test_an_evened_plan_is_ordinary_and_hardly_below_its_budget(space, share):
    plan = Plan.uniform(space, share * space.max_ratio)
    even = plan.evened()
    if even == plan or len(set(plan.space.units)) > 2:
        return
    assert all(len(set(even.of(kind))) == 1 for kind in ("ffn", "attention"))
    most = max(space.layers) + 1
    assert 0 <= plan.budget - even.parameters < most * space.step


def test_the_case_of_the_paper_is_one_width():
    # 28 x 18,944 neurons at 20 %: 15,155.2 a layer
    space = Space.ffns((18_944,) * 28)
    plan = Plan.uniform(space, 0.2)
    assert set(plan.kept) == {15_155, 15_156}
    assert set(plan.evened().kept) == {15_155}
