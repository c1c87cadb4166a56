"""Baselines against small cases worked by hand."""

import pytest
import torch

from lop.errors import LopError
from lop.methods import NAMES, flap_plan, method

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
    for ratio in (0.2, 0.37, 0.9):
        methods = [method(name, None, "activation_l2", False) for name in NAMES if name != "lop"]
        kept = {sum(m.plan(ratio, widths, scores).kept) for m in methods}
        assert kept == {120 - round(ratio * 120)}


def test_lop_and_uniform_share_score_and_compensation():
    for compensate in (False, True):
        ours, uniform = (method(name, None, "wanda_sp", compensate) for name in NAMES[:2])
        assert (ours.score, ours.compensate) == (uniform.score, uniform.compensate)
        assert ours.compensate == compensate
    others = {name: method(name, None, "wanda_sp", False).compensate for name in NAMES[2:]}
    assert others == {"magnitude": False, "wanda_sp": False, "flap": True}


def test_unknown_method_is_refused():
    with pytest.raises(LopError, match="expected one of lop, uniform, magnitude, wanda_sp, flap"):
        method("sparsegpt", None, "activation_l2", False)
