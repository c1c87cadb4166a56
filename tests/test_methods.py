"""Baselines against small cases worked by hand."""

import numpy as np
import pytest
import torch

from lop.errors import LopError
from lop.methods import NAMES, Kit, flap_plan, method
from lop.plan import checkpoint_name, per_cent
from lop.predictor import Predictor, PredictorConfig
from lop.search.knapsack import profile as search_profile

WIDTHS = (4, 4)


def test_flap_standardises_each_layer_then_cuts_globally():
    # Layer 0: three poor neurons and one that stands out; layer 1: evenly spread. Standardised,
    # layer 0 is (-.5, -.5, -.5, 1.5), layer 1 about (-1.16, -.39, .39, 1.16): half of all stays.
    scores = {"flap": [torch.tensor([1.0, 1, 1, 9]), torch.tensor([10.0, 20, 30, 40])]}
    assert flap_plan(0.5, WIDTHS, scores).kept == (1, 3)


def test_flap_ignores_the_scale_of_a_layer():
    layer = torch.tensor([1.0, 2, 3, 4])
    assert flap_plan(0.5, WIDTHS, {"flap": [layer, 1000 * layer]}).kept == (2, 2)


def test_every_baseline_keeps_the_same_number_of_neurons():
    widths = (40, 40, 40)
    generator = torch.Generator().manual_seed(0)
    scores = {"flap": [torch.rand(40, generator=generator) for _ in widths]}
    profile = search_profile(lambda plan: -sum(r * r for r in plan.ratios), widths)
    kit = Kit("activation_l2", profile=profile)
    for ratio in (0.2, 0.37, 0.9):
        methods = [method(name, kit) for name in NAMES if name != "lop"]
        kept = {sum(m.plan(ratio, widths, scores).kept) for m in methods}
        assert kept == {120 - round(ratio * 120)}


def test_our_methods_share_score_and_compensation():
    profile = search_profile(lambda plan: 0.0, WIDTHS)
    predictor = Predictor(PredictorConfig(WIDTHS, "model", 0.1, 0.9))
    for compensate in (False, True):
        kit = Kit("wanda_sp", compensate, predictor, profile)
        for name in ("lop", "knapsack", "uniform", "random"):
            assert method(name, kit).score == "wanda_sp"
            assert method(name, kit).compensate == compensate
        others = {name: method(name, kit).compensate for name in NAMES[4:]}
        assert others == {"magnitude": False, "wanda_sp": False, "flap": True}


def test_a_random_plan_is_the_same_each_time_and_not_uniform():
    random, uniform = (method(name, Kit("flap")).plan for name in ("random", "uniform"))
    widths = (40, 40, 40)
    assert random(0.5, widths, {}) == random(0.5, widths, {}) != uniform(0.5, widths, {})


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
            method("uniform", Kit(score))


def test_what_is_missing_is_named():
    with pytest.raises(LopError, match="expected one of lop, knapsack, uniform, random, magnitude"):
        method("sparsegpt", Kit("flap"))
    with pytest.raises(LopError, match="'lop' needs a predictor"):
        method("lop", Kit("flap"))
    with pytest.raises(LopError, match="'knapsack' needs a profile"):
        method("knapsack", Kit("flap"))
