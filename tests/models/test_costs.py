"""A target is met by the checkpoint that is cut, whatever is in it."""

from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

from lop.errors import LopError
from lop.models.checkpoint import load
from lop.models.costs import COSTS, amount, next_ratio, parameters, smallest_ratio
from lop.models.space import space_of
from lop.models.stored import Stored
from lop.plan import Plan, Space
from lop.pruning import prune_checkpoint

SCOPES = ("ffn", "ffn+attention")


def space_of_all(model, scope):
    """A space in which attention may be skipped."""
    return space_of(model.sites(scope), {"ffn": 0.1, "attention": 0})


def cut(source, plan, out, compensate):
    stored = Stored(source)
    sites = stored.sites(plan.space.scope)
    scores = [torch.rand(site.units) for site in sites]
    means = [torch.rand(site.units * site.block) for site in sites] if compensate else None
    prune_checkpoint(stored, plan, scores, out, means)
    return Stored(out)


def ratio_for(model, kind, target, space, compensate=False):
    return COSTS[kind](model, space, compensate).ratio(amount(target))


def of(kind, model, space):
    return COSTS[kind](model, space).dense


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("compensate", [False, True])
@pytest.mark.parametrize("kind", COSTS)
def test_a_target_is_met_and_missed_by_less_than_a_neuron(
    kind, compensate, scope, model_dir, tmp_path
):
    model = Stored(model_dir)
    space = model.space(scope)
    cost = COSTS[kind](model, space, compensate)
    neuron = min(cost.units)
    for neurons in (0.5, 20.5, 50):
        aim = cost.dense - neurons * neuron
        ratio = ratio_for(model, kind, str(aim), space, compensate=compensate)
        plan = Plan.uniform(space, ratio)
        small = cut(model_dir, plan, tmp_path / f"{kind}{neurons}", compensate)
        assert aim - 2 * neuron < of(kind, small, small.space(scope)) <= aim
        if scope == "ffn":
            assert aim - neuron < of(kind, small, small.space(scope))
    assert ratio_for(model, kind, str(cost.dense), space, compensate=compensate) == 0
    assert cut(model_dir, space.dense, tmp_path / kind, compensate).parameters == model.parameters


@pytest.mark.parametrize("compensate", [False, True])
@pytest.mark.parametrize("kind", COSTS)
def test_a_cost_is_that_of_the_checkpoint_also_where_sites_are_skipped(
    kind, compensate, model_dir, tmp_path
):
    model = Stored(model_dir)
    space = space_of_all(model, "ffn+attention")
    cost = COSTS[kind](model, space, compensate)
    kept = [0 if i in (0, 2) else n // 2 for i, n in enumerate(space.units)]
    plan = Plan(space, tuple(kept))
    small = cut(model_dir, plan, tmp_path / "small", compensate)
    assert cost.of(plan) == of(kind, small, small.space("ffn"))


def test_what_compensation_adds_is_out_of_reach_of_none(model_dir, tmp_path):
    model = Stored(model_dir)
    space = model.space()
    plain, more = (COSTS["params"](model, space, compensate) for compensate in (False, True))
    assert more.biases == 3 * 32
    least = plain.dense - (120 - 12) * space.grain
    assert ratio_for(model, "params", str(least), space) == pytest.approx(0.9)
    with pytest.raises(LopError, match=f"reaches {int(least) + 96:,} to"):
        ratio_for(model, "params", str(least), space, compensate=True)
    plan = Plan.uniform(space, 0.5)
    small = cut(model_dir, plan, tmp_path / "small", compensate=True)
    assert parameters(model, space, compensate=True).of(plan) == small.parameters
    # biases are there now: they add nothing the next time
    assert COSTS["params"](small, small.space(), compensate=True).biases == 0


def test_a_size_is_met_in_mixed_dtypes(model_dir, tmp_path):
    load(model_dir, dtype=torch.bfloat16).save_pretrained(model_dir)
    file = model_dir / "model.safetensors"
    tensors = load_file(file)
    wide = {k: v.float() for k, v in tensors.items() if "layers.0.mlp" in k}
    assert len(wide) == 3
    save_file(tensors | wide, file, {"format": "pt"})
    model = Stored(model_dir)
    space = model.space()
    aim = of("size", model, space) - 5000
    plan = Plan.uniform(space, ratio_for(model, "size", str(aim), space))
    small = cut(model_dir, plan, tmp_path / "small", False)
    assert of("size", small, small.space()) <= aim


@pytest.mark.parametrize("looks", [3, 1000])
def test_the_next_ratio_is_found_wherever_others_do_not_meet(monkeypatch, looks):
    monkeypatch.setattr("lop.models.costs.LOOKS", looks)
    space = Space.ffns((50, 50))

    def among(numbers, between=(0.0, 1.0)):
        met = {round(number / 100, 9) for number in numbers}
        return next_ratio(space, lambda ratio: round(ratio, 9) in met, between)

    assert among(range(20, 91)) == pytest.approx(0.2)
    assert among(range(20, 91), (0.25, 0.9)) == pytest.approx(0.25)
    assert among([90]) == pytest.approx(0.9)
    assert among([]) is None
    assert among(range(91), (0.6, 0.5)) is None
    if looks == 1000:
        assert among([37, 50, 51]) == pytest.approx(0.37)


def test_a_bounded_width_and_a_predictors_range_bound_the_ratios(model_dir):
    model = Stored(model_dir)
    space = model.space().bounded(0.5)
    cost = parameters(model, space)
    at = partial(Plan.uniform, space)
    ratio = smallest_ratio("parameters", space, cost.of, cost.dense - 70 * space.grain, at)
    assert ratio == pytest.approx(70 / 120)
    with pytest.raises(LopError, match="cannot be met: this model reaches"):
        smallest_ratio("parameters", space, cost.of, cost.dense - 50 * space.grain, at)
    free, asked = model.space(), []

    def learned(ratio):
        asked.append(ratio)
        return Plan.uniform(free, ratio)

    cost = parameters(model, free)
    aim = cost.dense - 40 * free.grain
    assert smallest_ratio("", free, cost.of, aim, learned, (0.21, 0.49)) == pytest.approx(40 / 120)
    assert all(0.21 <= ratio <= 0.49 for ratio in asked)
