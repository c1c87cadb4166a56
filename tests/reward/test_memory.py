"""Rewards where memory is short: smaller batches, the same values."""

import numpy as np
import pytest
import torch
from short import memory_for, pictures_seen
from test_reward import PLAN

from lop.models.space import decoder_layers
from lop.reward import Reward
from lop.reward.captured import capture


@pytest.mark.parametrize("kind", ["loglik", "kl_text"])
@pytest.mark.parametrize("shared", [False, True])
def test_plans_are_judged_in_smaller_batches(model, processor, samples, scores, kind, shared):
    if shared:
        samples = samples.assign(images=[samples["images"][i // 2 * 2] for i in range(12)])
    with Reward(model, processor, samples, scores, kind, parts=2) as reward:
        expected = [reward.values(PLAN, part) for part in (0, 1)]
    with Reward(model, processor, samples, scores, kind, parts=2) as reward:
        other = reward.ranked(scores)
        with memory_for(decoder_layers(model)[1], 2):
            found = [reward.values(PLAN, part) for part in (0, 1)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert [part.batch_size for part in other.parts] == ([3, 3] if shared else [1, 1])


def test_layers_below_are_still_run_once(model, processor, samples, scores):
    plan = PLAN.space.dense
    with Reward(model, processor, samples, scores) as reward:
        expected = reward.values(plan, 0)
        reward._known.clear()
        with reward.dense_below(1), memory_for(decoder_layers(model)[2], 3) as seen:
            np.testing.assert_allclose(reward.values(plan, 0), expected, atol=1e-5)
            assert seen == [12, 6, 3, 3, 3, 3]
            with memory_for(decoder_layers(model)[0].mlp, 0):
                reward._known.clear()
                np.testing.assert_allclose(reward.values(plan, 0), expected, atol=1e-5)


def test_memory_for_a_single_sample_is_told(model, processor, samples, scores):
    with (
        Reward(model, processor, samples, scores) as reward,
        memory_for(decoder_layers(model)[1], 0),
        pytest.raises(torch.OutOfMemoryError),
    ):
        reward(PLAN)


def test_captures_are_made_in_smaller_batches(model, processor, samples):
    whole = capture(model, processor, samples, 12)
    with memory_for(model.get_input_embeddings(), 5):
        parts = capture(model, processor, samples, 12)
    assert [len(part.pictures) for part in parts] == [3, 3, 3, 3]
    assert [p for part in parts for p in part.pictures] == whole[0].pictures
    owners = torch.cat([part.batch.owners for part in parts])
    assert owners.tolist() == whole[0].batch.owners.tolist()
    embedded = torch.cat([part.batch.decoder_inputs["inputs_embeds"][:, :20] for part in parts])
    expected = whole[0].batch.decoder_inputs["inputs_embeds"][:, :20]
    torch.testing.assert_close(embedded, expected)


def test_pictures_are_seen_once_in_a_capture(model, processor, samples):
    twice = samples.assign(images=[samples["images"][i // 2 * 2] for i in range(12)])
    with pictures_seen(model) as seen:
        capture(model, processor, twice, 5)
    assert sum(seen) == 6
