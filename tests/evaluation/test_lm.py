"""Likelihoods must be the model's own, and remembered pictures must change no answer."""

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.hf_vlms import HFMultimodalLM
from short import memory_for

from lop.data.encoding import prompt
from lop.data.samples import decode_images
from lop.evaluation.lm import LikelihoodLM
from lop.models.vision import seeing_once

REFERENCE = "data/reference"


@pytest.fixture(scope="module")
def lm(reference_model):
    return LikelihoodLM(pretrained=reference_model[0], batch_size=7)


def requests_of(samples, processor, choices):
    """A multiple-choice request a (sample, choice), as lm-eval makes them with a chat template."""
    found = []
    for row in samples.to_dict("records"):
        visual = {"visual": decode_images(row)}
        for i, choice in enumerate(choices):
            arguments = (prompt(processor, row), choice, visual)
            found.append(Instance("loglikelihood", row, arguments, i))
    return found


def one_by_one(model, processor, request):
    """The same likelihood, of one unpadded sequence through the stock model."""
    context, continuation, visual = request.args
    count = len(processor.tokenizer.encode(continuation, add_special_tokens=False))
    inputs = processor(
        text=[context + continuation], images=[visual["visual"]], return_tensors="pt"
    )
    with torch.inference_mode():
        logits = model(**inputs).logits[0].float().log_softmax(-1)
    ids = inputs["input_ids"][0, -count:]
    of = logits[-count - 1 : -1]
    return float(of.gather(1, ids[:, None]).sum()), bool((of.argmax(-1) == ids).all())


def test_likelihoods_are_those_of_single_sequences(lm, reference_model, reference_samples):
    # of one, two and three tokens, and of several words
    choices = ["yes", "gray", "rectangle", "sub-saharan africa"]
    requests = requests_of(reference_samples.iloc[::4], reference_model[1], choices)
    found = lm.loglikelihood(requests)
    expected = [one_by_one(*reference_model, request) for request in requests]
    np.testing.assert_allclose([f[0] for f in found], [e[0] for e in expected], atol=2e-4)
    assert [f[1] for f in found] == [e[1] for e in expected]


def test_answers_that_begin_alike_share_a_pass(lm, reference_model, reference_samples, monkeypatch):
    passes = []
    answer_logits = lm._answer_logits

    def counting(keys, pictures):
        passes.extend(keys)
        return answer_logits(keys, pictures)

    monkeypatch.setattr(lm, "_answer_logits", counting)
    samples = reference_samples.head(5)
    lm.loglikelihood(requests_of(samples, reference_model[1], ["no", "red", "gray"]))
    assert len(passes) == 5, "one or two tokens each: gray's pass tells the others' too"
    passes.clear()
    lm.loglikelihood(requests_of(samples, reference_model[1], ["rectangle", "triangle"]))
    assert len(passes) == 10


def test_a_picture_is_seen_once(lm, reference_model, reference_samples):
    model, processor = reference_model
    samples = reference_samples.head(6)
    requests = requests_of(samples, processor, ["yes", "gray", "circle"])
    expected = lm.loglikelihood(requests)
    seen = []
    hook = model.model.visual.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["grid_thw"])), with_kwargs=True
    )
    try:
        with seeing_once(model):
            first, second = lm.loglikelihood(requests), lm.loglikelihood(requests)
    finally:
        hook.remove()
    assert sum(seen) == samples["image_id"].nunique()
    for found in (first, second):
        np.testing.assert_allclose([f[0] for f in found], [e[0] for e in expected], atol=1e-5)
    assert "get_image_features" not in vars(model.model), "the model is as it was"


def test_memory_of_pictures_is_bounded(lm, reference_model, reference_samples, monkeypatch):
    model, processor = reference_model
    requests = requests_of(reference_samples.head(20), processor, ["yes"])
    expected = lm.loglikelihood(requests)
    monkeypatch.setattr("lop.models.vision.FEATURE_BYTES", 3 * 16 * 128 * 4)  # three pictures
    with seeing_once(model):
        remembered = model.model.get_image_features
        found = lm.loglikelihood(requests)
        assert len(remembered.known) == 3
    np.testing.assert_allclose([f[0] for f in found], [e[0] for e in expected], atol=1e-5)


@pytest.mark.parametrize("kind", ["loglikelihood", "generate_until"])
def test_smaller_batches_where_memory_is_short(lm, reference_model, reference_samples, kind):
    model, processor = reference_model
    requests = requests_of(reference_samples.head(9), processor, ["yes", "gray"])
    if kind == "generate_until":
        for request in requests:
            options = {"until": ["\n"], "max_gen_toks": 4}
            request.arguments = (request.args[0], options, request.args[2])
    expected = getattr(lm, kind)(requests)
    short = LikelihoodLM(pretrained=model, batch_size=7)
    with memory_for(model.get_input_embeddings(), 3) as seen:
        found = getattr(short, kind)(requests)
        assert seen.count(7) == 1, "what was too large is not tried again"
    if kind == "loglikelihood":
        np.testing.assert_allclose([f[0] for f in found], [e[0] for e in expected], atol=1e-5)
    else:
        assert found == expected
        assert found == HFMultimodalLM.generate_until(lm, requests), "as upstream by itself"
