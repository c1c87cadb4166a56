import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from lop.data.encoding import IGNORE, encode, prompt
from lop.data.samples import decode_images
from lop.errors import LopError
from lop.models.space import find_space
from lop.plan import Bits, Plan, Space
from lop.pruning import masked, prune
from lop.reward import Reward

PLAN = Plan.from_ratios([0.2, 0.7, 0.6], Space.ffns((40, 40, 40)), 0.5)


@torch.inference_mode()
def reference_loglik(model, processor, samples):
    out = []
    for batch in encode(samples, model, processor, batch_size=1):
        logits = torch.log_softmax(model(**batch.inputs).logits.float(), -1)[0]
        places = batch.targets[0] != IGNORE
        out.append(logits[places].gather(1, batch.targets[0][places][:, None]).sum().item())
    return np.array(out)


def test_reward_equals_a_full_forward_of_the_masked_model(model, processor, samples, scores):
    with masked(model, PLAN, scores):
        expected = reference_loglik(model, processor, samples)
    with Reward(model, processor, samples, scores, "loglik", batch_size=5) as reward:
        _, loglik = reward.per_sample(PLAN)
        assert reward(PLAN) == pytest.approx(expected.mean(), abs=1e-5)
    np.testing.assert_allclose(loglik, expected, atol=1e-4)


def test_compensation_is_that_of_the_pruned_model(model, processor, samples, scores):
    means = [torch.rand(40, generator=torch.Generator().manual_seed(2)) for _ in scores]
    small = prune(copy.deepcopy(model), PLAN, scores, means)
    expected = reference_loglik(small, processor, samples)
    with Reward(model, processor, samples, scores, mean_activation=means) as reward:
        assert reward(PLAN) == pytest.approx(expected.mean(), abs=1e-5)
        dense = reward(PLAN.space.dense)
    assert dense == pytest.approx(reference_loglik(model, processor, samples).mean(), abs=1e-5)


def test_accuracy_is_what_greedy_generation_gets(reference_model, reference_samples):
    model, processor = reference_model
    scores = [torch.arange(float(d)) for d in find_space(model).units]
    plan = Plan.uniform(find_space(model), 0.3)
    with Reward(model, processor, reference_samples, scores, "accuracy") as reward:
        correct, _ = reward.per_sample(plan)
    small = prune(copy.deepcopy(model), plan, scores)
    for row, expected in zip(reference_samples.to_dict("records"), correct, strict=True):
        inputs = processor(
            text=[prompt(processor, row)], images=[decode_images(row)], return_tensors="pt"
        )
        new = small.generate(**inputs, max_new_tokens=24)[0, inputs["input_ids"].shape[1] :]
        answer = processor.tokenizer.decode(new, skip_special_tokens=True)
        assert (answer == row["answer"]) == bool(expected)
    assert 0 < correct.mean() < 1


def test_the_model_is_as_before_on_exit(model, processor, samples, scores):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with Reward(model, processor, samples, scores) as reward:
        reward(PLAN)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_a_plan_is_evaluated_once(model, processor, samples, scores, monkeypatch):
    with Reward(model, processor, samples, scores) as reward:
        first = reward(PLAN)
        monkeypatch.setattr(reward, "_answers", lambda plan, part: pytest.fail("evaluated again"))
        assert reward(Plan(PLAN.space, PLAN.kept)) == first


def test_layers_below_the_first_cut_one_run_once(model, processor, samples, scores):
    runs, (first, last) = [], (model.get_decoder().layers[0], model.get_decoder().layers[2])
    plans = [Plan(PLAN.space, (40, 40, kept)) for kept in (10, 20, 30)]
    with Reward(model, processor, samples, scores) as reward:
        expected = [reward.per_sample(plan) for plan in plans]
        hooks = [of.input_layernorm.register_forward_hook(lambda m, *_: runs.append(m))
                 for of in (first, last)]  # fmt: skip
        with reward.dense_below(2):
            found = [reward.per_sample(plan) for plan in plans]
            with pytest.raises(LopError, match="expected whole layers below 2"):
                reward.per_sample(PLAN)
    for hook in hooks:
        hook.remove()
    np.testing.assert_array_equal(found, expected)
    batches = runs.count(first.input_layernorm)
    assert runs.count(last.input_layernorm) == batches * len(plans)


def test_misuse_is_refused(model, processor, samples, scores):
    with pytest.raises(LopError, match="expected one of loglik, accuracy, kl"):
        Reward(model, processor, samples, scores, "bleu")
    with pytest.raises(LopError, match="inside its `with` block"):
        Reward(model, processor, samples, scores)(PLAN)


def test_fingerprint_names_samples_scores_and_kind(model, processor, samples, scores):
    def name(*args):
        return Reward(model, processor, *args).fingerprint

    base = name(samples, scores, "loglik")
    assert base == name(samples, scores, "loglik")
    others = {
        name(samples[1:], scores, "loglik"),
        name(samples, scores[::-1], "loglik"),
        name(samples, scores, "accuracy"),
    }
    assert len(others | {base}) == 4


@torch.inference_mode()
def reference_divergence(dense, small, batch, places):
    """KL by torch's own function, summed over a sample's places."""
    p, q = (m(**batch.inputs).logits.float().log_softmax(-1)[0, places] for m in (dense, small))
    return torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum").item()


@pytest.mark.parametrize("kind", ["kl", "kl_text"])
def test_divergence_is_that_from_the_dense_model_at_the_places_asked_for(
    kind, model, processor, samples, scores
):
    small = prune(copy.deepcopy(model), PLAN, scores)
    expected = []
    for batch in encode(samples, model, processor, batch_size=1):
        targets = batch.targets if kind == "kl" else batch.text_targets
        expected.append(reference_divergence(model, small, batch, targets[0] != IGNORE))
    with Reward(model, processor, samples, scores, kind, batch_size=5) as reward:
        assert reward(PLAN.space.dense) == pytest.approx(0, abs=1e-5)
        np.testing.assert_allclose(-reward.values(PLAN, 0), expected, rtol=1e-3, atol=1e-5)


def test_divergence_needs_no_answers(model, processor, samples, scores):
    asked = samples.assign(answer=None, answers=None)
    with Reward(model, processor, asked, scores, "kl") as reward:
        assert reward(PLAN) < reward(PLAN.space.dense)
    with pytest.raises(LopError, match="answer"):
        Reward(model, processor, asked, scores, "loglik")


def test_a_large_vocabulary_is_compared_on_its_likely_tokens(
    model, processor, samples, scores, monkeypatch
):
    def rewards():
        with Reward(model, processor, samples, scores, "kl_text") as reward:
            return reward.values(PLAN, 0), reward.parts[0].expected[0][0]

    exact, whole = rewards()
    monkeypatch.setattr("lop.reward.kinds.LARGE", 10)
    narrowed, likely = rewards()
    assert whole.tokens is None
    assert likely.narrow
    assert len(likely.tokens) < whole.loglik.shape[1]
    np.testing.assert_allclose(narrowed, exact, rtol=0.5)
    monkeypatch.setattr("lop.reward.kinds._can_narrow", lambda *_: False)
    np.testing.assert_allclose(rewards()[0], narrowed, rtol=1e-3, atol=1e-5)


def test_parts_hold_whole_pictures_and_give_the_same_values(model, processor, samples, scores):
    pictures = pd.Series([f"picture {i // 2}" for i in range(len(samples))], samples.index)
    samples = samples.assign(image_id=pictures)
    with Reward(model, processor, samples, scores) as whole:
        expected, reward_of_all = whole.values(PLAN, 0), whole(PLAN)
    with Reward(model, processor, samples, scores, parts=3) as reward:
        for i, part in enumerate(reward.parts):
            np.testing.assert_allclose(
                reward.values(PLAN, i), expected[part.numbers], rtol=1e-4, atol=1e-5
            )
        assert reward(PLAN) == pytest.approx(reward_of_all, abs=1e-5)
        seen = [set(part.pictures) for part in reward.parts]
        sizes = [len(part.numbers) for part in reward.parts]
    assert not seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2]
    assert sum(sizes) == len(samples)
    assert max(sizes) - min(sizes) <= 2
    with pytest.raises(LopError, match="expected 1 to"):
        Reward(model, processor, samples, scores, parts=len(samples))


QUANTIZED = Bits((4, 16, 8), (("embeddings", 4), ("vision", 8)), group=8)


@pytest.mark.parametrize("kind", ["loglik", "kl"])
def test_bits_count_as_in_the_checkpoint(kind, model, processor, samples, scores):
    plan = Plan(PLAN.space, PLAN.kept, QUANTIZED)
    small = prune(copy.deepcopy(model), plan, scores)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with Reward(model, processor, samples, scores, kind, batch_size=5, parts=2) as reward:
        found = reward(plan)
        assert len({round(of, 4) for of in (found, reward(PLAN), reward(PLAN.space.dense))}) == 3
        again = Plan(PLAN.space, PLAN.kept, replace(QUANTIZED, others=()))
        assert reward(again) != pytest.approx(found, abs=1e-4)
        if kind == "loglik":
            expected = reference_loglik(small, processor, samples)
            assert found == pytest.approx(expected.mean(), abs=1e-5)
    after = model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_what_layers_below_give_is_not_remembered_across_bits(model, processor, samples, scores):
    of_attention = Plan(PLAN.space, PLAN.kept, Bits((16,) * 3, (("attention", 4),), group=8))
    with Reward(model, processor, samples, scores) as reward:
        expected = reward(of_attention)
        other = reward.ranked(scores)
    with other, other.dense_below(1):
        dense = (40, *PLAN.kept[1:])
        whole = other(Plan(PLAN.space, dense))
        quantized = other(Plan(PLAN.space, dense, of_attention.bits))
        assert whole != pytest.approx(quantized, abs=1e-4)
        with pytest.raises(LopError, match="expected whole layers below 1"):
            other(Plan(PLAN.space, dense, Bits((8, 16, 16), (), group=8)))
    with other:
        assert other(of_attention) == pytest.approx(expected, abs=1e-6)
        again = other(Plan(PLAN.space, dense, of_attention.bits))
        assert again == pytest.approx(quantized, abs=1e-5)
