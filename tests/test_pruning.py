import copy
import json

import pytest
import torch

from lop.errors import LopError
from lop.models.checkpoint import load, save
from lop.models.ffn import find_ffns, lost_output
from lop.plan import Plan
from lop.pruning import kept_neurons, masked, prune
from lop.tasks.encoding import encode

WIDTHS = (40, 40, 40)
PLAN = Plan.from_ratios([0.1, 0.5, 0.9], WIDTHS, 0.5)


@pytest.fixture
def batch(model, processor, samples):
    return next(encode(samples, model, processor, batch_size=6))


@torch.inference_mode()
def logits(model, batch):
    return model(**batch.inputs).logits


def test_masked_equals_sliced_equals_reloaded(model, processor, scores, batch, tmp_path):
    dense = logits(model, batch)
    with masked(model, PLAN, scores):
        expected = logits(model, batch)
    assert (dense - expected).abs().max() > 1e-2
    small = prune(copy.deepcopy(model), PLAN, scores)
    torch.testing.assert_close(logits(small, batch), expected, atol=1e-5, rtol=0)
    save(small, processor, tmp_path / "small")
    reloaded = load(tmp_path / "small")
    assert torch.equal(logits(reloaded, batch), logits(small, batch))
    torch.testing.assert_close(logits(model, batch), dense, atol=0, rtol=0)


def test_the_checkpoint_has_exactly_the_parameters_the_plan_promises(model, scores):
    dense = sum(p.numel() for p in model.parameters())
    small = prune(copy.deepcopy(model), PLAN, scores)
    removed = sum(WIDTHS) - sum(PLAN.kept)
    assert sum(PLAN.kept) == 60
    assert dense - sum(p.numel() for p in small.parameters()) == removed * 3 * 32


def test_stock_transformers_refuses_a_pruned_checkpoint(model, processor, scores, tmp_path):
    from transformers import AutoModelForImageTextToText

    save(prune(model, PLAN, scores), processor, tmp_path / "small")
    text = json.loads((tmp_path / "small" / "config.json").read_text())["text_config"]
    assert text["per_layer_config"]["2"] == {"intermediate_size": PLAN.kept[2]}
    with pytest.raises(RuntimeError, match="intermediate_size"):
        AutoModelForImageTextToText.from_pretrained(tmp_path / "small")


def test_a_pruned_checkpoint_generates(model, processor, scores, batch, tmp_path):
    save(prune(model, PLAN, scores), processor, tmp_path / "small")
    reloaded = load(tmp_path / "small")
    out = reloaded.generate(**batch.inputs, max_new_tokens=3, do_sample=False)
    assert out.shape[0] == 6


def test_highest_scores_stay_and_ties_go_to_the_lower_index():
    plan = Plan((5, 4), (2, 3))
    kept = kept_neurons([torch.tensor([3.0, 9, 1, 7, 2]), torch.ones(4)], plan)
    assert [k.tolist() for k in kept] == [[1, 3], [0, 1, 2]]


def test_compensation_adds_the_mean_output_of_pruned_neurons(model, scores, batch, tmp_path):
    ffn = find_ffns(model)[0]
    mean = torch.linspace(0, 1, 40)
    kept = torch.arange(30)
    expected = ffn.down.weight[:, 30:] @ mean[30:]
    torch.testing.assert_close(lost_output(ffn.down.weight, kept, mean), expected)


def test_a_compensated_checkpoint_survives_reloading(
    model, processor, scores, batch, samples, tmp_path
):
    means = [torch.rand(40) for _ in WIDTHS]
    small = prune(model, PLAN, scores, means)
    save(small, processor, tmp_path / "small")
    assert torch.equal(logits(load(tmp_path / "small"), batch), logits(small, batch))
    assert find_ffns(small)[0].down.bias is not None


def test_bad_scores_and_plans_are_refused(model, scores):
    with pytest.raises(LopError, match="layer 1 has scores that are not finite"):
        prune(model, PLAN, [scores[0], scores[1] * float("nan"), scores[2]])
    with pytest.raises(LopError, match="scores for 2 layers, the model has 3"):
        prune(model, PLAN, scores[:2])
    with pytest.raises(LopError, match=r"the model has \(40, 40, 40\)"):
        prune(model, Plan((30, 40, 40), (3, 40, 40)), scores)
    assert [ffn.width for ffn in find_ffns(model)] == [40, 40, 40]
