"""A target is met by the checkpoint that is cut, whatever is in it."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from lop.errors import LopError
from lop.methods import Method
from lop.models.checkpoint import load
from lop.models.stored import Stored
from lop.plan import Plan
from lop.pruning import prune_checkpoint
from lop.sizes import COSTS, parameters_of, ratio_for


def cut(source, ratio, out, compensate):
    stored = Stored(source)
    rule = Method("flap", lambda ratio, widths, _: Plan.uniform(widths, ratio), compensate)
    scores = [torch.rand(width) for width in stored.widths]
    both = {"flap": scores, "mean_activation": scores}
    prune_checkpoint(stored, rule, "mine", ratio, both, out)
    return Stored(out)


@pytest.mark.parametrize("compensate", [False, True])
@pytest.mark.parametrize("kind", COSTS)
def test_a_target_is_met_and_missed_by_less_than_a_neuron(kind, compensate, model_dir, tmp_path):
    model = Stored(model_dir)
    cost = COSTS[kind](model, compensate)
    for neurons in (0.5, 20.5, 50):
        aim = cost.dense - neurons * cost.neuron
        ratio = ratio_for(model, kind, str(aim), compensate)
        small = cut(model_dir, ratio, tmp_path / f"{kind}{neurons}", compensate)
        assert aim - cost.neuron < COSTS[kind](small).dense <= aim
    assert ratio_for(model, kind, str(cost.dense), compensate) == 0
    assert cut(model_dir, 0, tmp_path / kind, compensate).parameters == model.parameters


def test_what_compensation_adds_is_out_of_reach_of_none(model_dir, tmp_path):
    model = Stored(model_dir)
    plain, more = (COSTS["params"](model, compensate) for compensate in (False, True))
    assert more.biases == 3 * 32
    least = plain.dense - (120 - 12) * plain.neuron
    assert ratio_for(model, "params", str(least)) == pytest.approx(0.9)
    with pytest.raises(LopError, match=f"reaches {least + 96:,} to"):
        ratio_for(model, "params", str(least), compensate=True)
    plan = Plan.uniform(model.widths, 0.5)
    small = cut(model_dir, 0.5, tmp_path / "small", compensate=True)
    assert parameters_of(model, compensate=True)(plan) == small.parameters
    # biases are there now: they add nothing the next time
    assert COSTS["params"](small, compensate=True).biases == 0


def test_a_size_is_met_in_mixed_dtypes(model_dir, tmp_path):
    load(model_dir, dtype=torch.bfloat16).save_pretrained(model_dir)
    file = model_dir / "model.safetensors"
    tensors = load_file(file)
    wide = {k: v.float() for k, v in tensors.items() if "layers.0.mlp" in k}
    assert len(wide) == 3
    save_file(tensors | wide, file, {"format": "pt"})
    model = Stored(model_dir)
    aim = COSTS["size"](model).dense - 5000
    small = cut(model_dir, ratio_for(model, "size", str(aim)), tmp_path / "small", False)
    assert COSTS["size"](small).dense <= aim
