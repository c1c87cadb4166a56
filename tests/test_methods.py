"""Baselines against small cases worked by hand."""

import numpy as np
import pytest
import torch

from lop.errors import LopError
from lop.methods import BASELINES, NAMES, TRAINED, PlanInputs, flap_plan, method, plans_of
from lop.plan import Space, checkpoint_name, per_cent
from lop.predictor import Predictor, PredictorConfig
from lop.profile import measure

SPACE = Space.ffns((4, 4))


def standardised(scores):
    return {"flap_standard": [(s - s.mean()) / s.std() for s in scores]}


def test_flap_standardises_each_layer_then_cuts_globally():
    # Layer 0: three poor neurons and one that stands out; layer 1: evenly spread. Standardised,
    # layer 0 is (-.5, -.5, -.5, 1.5), layer 1 about (-1.16, -.39, .39, 1.16): half of all stays.
    scores = [torch.tensor([1.0, 1, 1, 9]), torch.tensor([10.0, 20, 30, 40])]
    assert flap_plan(0.5, SPACE, standardised(scores)).kept == (1, 3)


def test_flap_ignores_the_scale_of_a_layer():
    layer = torch.tensor([1.0, 2, 3, 4])
    assert flap_plan(0.5, SPACE, standardised([layer, 1000 * layer])).kept == (2, 2)


def test_flap_counts_a_head_as_the_neurons_that_it_costs():
    # the two heads cost 3 neurons each; of 14 neurons' worth 7 stay: the best head, then four
    # neurons in order, of which the other head is not one
    space = Space.of((2, 8), (300, 100), ("attention", "ffn"), (0, 0))
    standard = [torch.tensor([2.0, -2.0]), torch.arange(8.0) / 8]
    plan = flap_plan(0.5, space, {"flap_standard": standard})
    assert plan.kept == (1, 4)
    assert plan.parameters == space.budget(0.5) == 700


def test_every_baseline_keeps_as_many_neurons():
    space = Space.ffns((40, 40, 40))
    generator = torch.Generator().manual_seed(0)
    scores = standardised([torch.rand(40, generator=generator) for _ in space.units])
    profile = measure(lambda plan: -sum(r * r for r in plan.ratios), space)
    inputs = PlanInputs("activation_l2", profile=profile)
    for ratio in (0.2, 0.37, 0.9):
        methods = [method(name, inputs) for name in NAMES if plans_of(name) != "lop"]
        kept = {sum(m.plan(ratio, space, scores).kept) for m in methods}
        most = 120 - round(ratio * 120)
        # uniform ones have one width, and so up to a neuron a layer less
        assert kept <= {most, most // 3 * 3}


def test_our_methods_share_score_and_compensation():
    profile = measure(lambda plan: 0.0, SPACE)
    predictor = Predictor(PredictorConfig(SPACE, "model", 0.1, 0.9))
    for compensate in (False, True):
        inputs = PlanInputs("wanda_sp", compensate, predictor, profile)
        for name in ("lop", "knapsack", "uniform", "random"):
            assert method(name, inputs).score == "wanda_sp"
            assert method(name, inputs).compensate == compensate
        others = {name: method(name, inputs).compensate for name in BASELINES}
        assert others == {"magnitude": False, "wanda_sp": False, "flap": True}
        for name in TRAINED:  # whose weights have learned what a bias would restore
            found, same = method(name, inputs), method(plans_of(name), inputs)
            assert (found.recovered, found.compensate, found.score) == (True, False, "wanda_sp")
            assert found.plan(0.5, SPACE, {}) == same.plan(0.5, SPACE, {})


def test_a_random_plan_is_the_same_each_time_and_not_uniform():
    random, uniform = (method(name, PlanInputs("flap")).plan for name in ("random", "uniform"))
    space = Space.ffns((40, 40, 40))
    assert random(0.5, space, {}) == random(0.5, space, {}) != uniform(0.5, space, {})


def test_names_of_checkpoints_are_short_and_never_shared():
    ordinary = [checkpoint_name("lop", ratio) for ratio in (0, 0.2, 0.25, 0.3, 1e-3, 1.0)]
    assert ordinary == ["lop-0", "lop-0.2", "lop-0.25", "lop-0.3", "lop-0.001", "lop-1"]
    near = [0.2, 0.2000001, 0.1 + 0.1 + 1e-16, 0.1234567, 0.12345671]
    assert len({checkpoint_name("lop", ratio) for ratio in near}) == len(set(near))
    assert checkpoint_name("lop", np.float64(0.2000001)) == "lop-0.2000001"
    assert [per_cent(ratio) for ratio in (0, 0.3, 0.55)] == ["0 %", "30 %", "55 %"]
    assert per_cent(0.2000001) == "20.00001 %"


def test_the_mean_ranks_no_neurons():
    for score in ("mean_activation", "beauty"):
        with pytest.raises(LopError, match=f"score '{score}': expected one of activation_l2, magn"):
            method("uniform", PlanInputs(score))


def test_what_is_missing_is_named():
    with pytest.raises(LopError, match="expected one of lop, knapsack, uniform, random, magnitude"):
        method("sparsegpt", PlanInputs("flap"))
    with pytest.raises(LopError, match="'lop' needs a predictor"):
        method("lop", PlanInputs("flap"))
    with pytest.raises(LopError, match="'knapsack' needs a profile"):
        method("knapsack", PlanInputs("flap"))
