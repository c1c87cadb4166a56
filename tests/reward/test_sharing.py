"""Samples of one picture in one row, their beginning once, are judged as each alone."""

import contextlib
import copy
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_samples
from test_reward import PLAN, reference_loglik
from tiny import ARCHITECTURES, build

from benchmarks.reward import tokens_in
from lop.data.encoding import IGNORE, Batch
from lop.models import fingerprints
from lop.models.space import decoder_layers, find_ffns
from lop.plan import Plan, Space
from lop.pruning import masked
from lop.reward import Reward, captured, sharing

DOCS = Path("docs/models.md").read_text()
SHARED = re.findall(r"^\| ([^|]+?) \|.*\| yes \|$", DOCS.split("pictures shared")[1], re.M)


@pytest.fixture(scope="module")
def questions(samples):
    """One to seven questions about each of four pictures, and one with nothing else like it."""
    rows = []
    for picture, count in enumerate((1, 2, 3, 7)):
        for i in range(count):
            row = samples.iloc[(picture + i) % len(samples)]
            rows.append({**row, "images": samples["images"][picture], "id": f"{picture}-{i}"})
    return pd.DataFrame(rows).sample(frac=1, random_state=0).reset_index(drop=True)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_shared_rows_are_judged_as_each_sample_alone(
    model, processor, questions, scores, batch_size
):
    with masked(model, PLAN, scores):
        expected = reference_loglik(model, processor, questions)
    with Reward(model, processor, questions, scores, batch_size=batch_size) as reward:
        _, loglik = reward.per_sample(PLAN)
    np.testing.assert_allclose(loglik, expected, atol=1e-4)
    plain = [b for b in reward.parts[0].batches if not isinstance(b, sharing.Shared)]
    assert [len(batch.decoder_inputs["inputs_embeds"]) for batch in plain] == [1]
    assert all(
        len(set(batch.owners.tolist())) <= max(batch_size, 7) for batch in reward.parts[0].batches
    )


def test_bfloat16_is_shared_within_its_rounding(model, processor, questions, scores):
    model.bfloat16()
    with masked(model, PLAN, scores):
        expected = reference_loglik(model, processor, questions)
    with Reward(model, processor, questions, scores) as reward:
        _, loglik = reward.per_sample(PLAN)
    assert isinstance(reward.parts[0].batches[-1], sharing.Shared)
    np.testing.assert_allclose(loglik, expected, rtol=0.02)


def test_fewer_tokens_are_read(model, processor, questions, scores, monkeypatch):
    few = tokens_in(Reward(model, processor, questions, scores, batch_size=4).parts[0].batches)
    monkeypatch.setattr(
        "lop.reward.share", lambda model, parts, size: [[c.batch for c in of] for of in parts]
    )
    whole = tokens_in(Reward(model, processor, questions, scores, batch_size=4).parts[0].batches)
    assert few < 0.8 * whole


def test_without_a_common_picture_batches_stay_as_captured(model, processor, scores):
    reward = Reward(model, processor, make_samples(), scores)
    assert not any(isinstance(batch, sharing.Shared) for batch in reward.parts[0].batches)


def masks_of(model, reward):
    """The masks that the layers of a model are given, batch by batch."""
    seen = []
    hook = decoder_layers(model)[0].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True
    )
    with reward, contextlib.ExitStack() as after:
        after.callback(hook.remove)
        reward(PLAN)
    return seen


def test_rows_that_share_nothing_need_no_mask(model, processor, scores):
    samples = make_samples()
    with masked(model, PLAN, scores):
        expected = reference_loglik(model, processor, samples)
    reward = Reward(model, processor, samples, scores, batch_size=5)
    with reward:
        _, loglik = reward.per_sample(PLAN)
    np.testing.assert_allclose(loglik, expected, atol=1e-4)
    lengths = {int(c) for b in reward.parts[0].batches for c in b.columns}
    assert len(lengths) > 1, "some are padded"
    assert masks_of(model, reward) == [None] * 3


def test_masks_of_shared_rows_are_booleans(model, processor, questions, scores):
    reward = Reward(model, processor, questions, scores, batch_size=4)
    masks = masks_of(model, reward)
    assert sum(mask is None for mask in masks) == 1, "the picture with one question"
    assert {mask.dtype for mask in masks if mask is not None} == {torch.bool}


def test_attention_that_adds_masks_gives_the_same(model, processor, questions, scores):
    with Reward(model, processor, questions, scores) as reward:
        expected = reward(PLAN)
    model.set_attn_implementation("eager")
    with Reward(model, processor, questions, scores) as reward:
        assert reward(PLAN) == pytest.approx(expected, abs=1e-5)
        assert any(isinstance(batch, sharing.Shared) for batch in reward.parts[0].batches)


def test_a_decoder_with_other_uses_for_padding_keeps_its_mask(
    model, processor, scores, monkeypatch
):
    def moved(batch):
        inputs = {"inputs_embeds": batch.decoder_inputs["inputs_embeds"] + 1}
        return replace(batch, decoder_inputs=batch.decoder_inputs | inputs)

    monkeypatch.setattr(sharing, "_free", moved)
    reward = Reward(model, processor, make_samples(), scores)
    assert not all(b.decoder_inputs["attention_mask"].all() for b in reward.parts[0].batches)
    with masked(model, PLAN, scores):
        expected = reference_loglik(model, processor, make_samples())
    with reward:
        np.testing.assert_allclose(reward.per_sample(PLAN)[1], expected, atol=1e-4)


def test_a_decoder_that_takes_the_mask_otherwise_is_left_alone(
    model, processor, questions, scores, monkeypatch
):
    wrong = sharing._mask
    monkeypatch.setattr(sharing, "_mask", lambda *args: torch.ones_like(wrong(*args)))
    reward = Reward(model, processor, questions, scores)
    assert not any(isinstance(batch, sharing.Shared) for batch in reward.parts[0].batches)


def two_questions(name):
    """A model and two rows that differ after their pictures, with two places to judge each."""
    model, inputs = build(name)
    for key, value in inputs.items():
        if value.shape[0] == 2 or key == "pixel_values":  # one picture for both
            value[len(value) // 2 :] = value[: len(value) // 2]
    ids = inputs["input_ids"]
    ids[1, -4:] = torch.tensor([5, 6, 7, 8])
    targets = torch.full_like(ids, IGNORE)
    targets[:, -2:] = ids[:, -2:]
    return model, inputs, targets


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_shares_or_is_left_alone(name, samples, monkeypatch):
    model, inputs, targets = two_questions(name)
    scores = [torch.arange(float(ffn.units)) for ffn in find_ffns(model)]
    plan = Plan.from_ratios([0.2, 0.5, 0.8], Space.ffns(list(map(len, scores))), 0.5)
    batch = Batch(copy.deepcopy(inputs), targets, targets)
    monkeypatch.setattr(captured, "encode", lambda *args: iter([copy.deepcopy(batch)]))
    one_picture = samples.iloc[[0, 0]]
    with masked(model, plan, scores), torch.inference_mode():
        places = targets != IGNORE
        right = torch.log_softmax(model(**inputs).logits.float(), -1)[places]
        expected = right.gather(1, targets[places][:, None]).reshape(2, 2).sum(1)
    monkeypatch.setattr(fingerprints, "how_asked", lambda model, processor: "no processor")
    with Reward(model, None, one_picture, scores) as reward:
        _, loglik = reward.per_sample(plan)
    np.testing.assert_allclose(loglik, expected, atol=1e-4)
    shared = isinstance(reward.parts[0].batches[0], sharing.Shared)
    assert shared == (name in SHARED)
