"""Prompts and answers are tokenized as the model's own chat template has it."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SHAPE, make_samples

from lop.data import chat as chats
from lop.data.chat import answer_ids, chat, end_token, plain, stop_tokens
from lop.data.encoding import IGNORE, encode, prompt, prompt_tensors
from lop.errors import LopError
from lop.models.space import find_space
from lop.reference import model as reference
from lop.reward import Reward

# as in Llama 3.x: a BOS in the template, a header before each turn, an end of its own behind it
PART = "{% if p['type'] == 'image' %}<|image_pad|>{% else %}{{ p['text'] }}{% endif %}"
PARTS = "{% for p in m['content'] %}" + PART + "{% endfor %}"
TURNS = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n" + PARTS + "<|im_end|>{% endfor %}"
START = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
COLONS = "{% for m in messages %}{{ m['role'] }}: " + PARTS + "<|im_end|>\n{% endfor %}"


@pytest.fixture
def own(samples):
    """A processor of our own, to give another template and other tokens."""
    texts = [*samples["question"], *samples["answer"]]
    return reference.build_processor(reference.build_tokenizer(texts, SHAPE.vocab))


def add_bos(tokenizer):
    """Have the tokenizer write a BOS before every text, as those of Llama and Gemma do."""
    from tokenizers.processors import TemplateProcessing

    tokenizer.add_special_tokens({"bos_token": "<|bos|>"})
    special = [("<|bos|>", tokenizer.bos_token_id)]
    after = TemplateProcessing(single="<|bos|> $A", special_tokens=special)
    tokenizer.backend_tokenizer.post_processor = after


def ids(processor, samples, side="right"):
    return prompt_tensors(processor, samples.to_dict("records"), side)["input_ids"]


@pytest.mark.parametrize("bos", ["{{ bos_token }}", ""])
def test_a_bos_comes_once_wherever_it_is_written(own, samples, bos):
    add_bos(own.tokenizer)
    own.chat_template = bos + TURNS + START
    found = ids(own, samples.head(2))
    assert (found == own.tokenizer.bos_token_id).sum(1).tolist() == [1, 1]
    assert found[0, 0] == own.tokenizer.bos_token_id


@pytest.mark.parametrize("template", ["{{ bos_token }}" + TURNS + START, TURNS + START, None])
def test_prompts_are_what_the_processor_makes_of_the_template_itself(own, samples, template):
    if template:
        add_bos(own.tokenizer)
        own.chat_template = template
    for row in samples.head(3).to_dict("records"):
        parts = [
            {"type": "image", "image": chats.Image.new("RGB", (64, 64))},
            {"type": "text", "text": row["question"]},
        ]
        whole = own.apply_chat_template(
            [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=True,
            return_dict=True, return_tensors="pt",
        )  # fmt: skip
        assert torch.equal(ids(own, pd.DataFrame([row])), whole["input_ids"])


def test_without_a_bos_there_is_none(processor, samples):
    assert processor.tokenizer.bos_token is None
    assert ids(processor, samples.head(1))[0, 0] == processor.tokenizer.encode("<|im_start|>")[0]


@pytest.mark.parametrize("eos", [[0, 1, "end"], ["end", 0], [1, "end"], "end", None, [0, 1]])
def test_the_end_is_what_the_template_puts_behind_an_answer(model, processor, samples, eos):
    end = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    listed = [end if i == "end" else i for i in eos] if isinstance(eos, list) else eos
    model.generation_config.eos_token_id = end if eos == "end" else listed
    assert end_token(model, processor) == end
    assert end in stop_tokens(model, processor)
    batch = next(encode(samples.head(2), model, processor, 2))
    assert [row[row != IGNORE][-1] for row in batch.targets] == [end, end]


def test_where_the_template_ends_no_answer_the_model_says_how(model, own):
    own.chat_template = (
        COLONS.replace("<|im_end|>", "") + "{% if add_generation_prompt %}a:{% endif %}"
    )
    model.generation_config.eos_token_id = [7, 8]
    assert end_token(model, own) == 7
    model.generation_config.eos_token_id = None
    assert end_token(model, own) == own.tokenizer.eos_token_id


def test_the_accuracy_reward_does_not_depend_on_the_order_of_ends(
    reference_model, reference_samples
):
    model, processor = reference_model
    scores = [torch.arange(float(width)) for width in find_space(model).units]
    samples, kept = reference_samples.head(12), model.generation_config.eos_token_id
    try:
        results = []
        for eos in (kept, [model.generation_config.pad_token_id, kept]):
            model.generation_config.eos_token_id = eos
            with Reward(model, processor, samples, scores, "accuracy") as reward:
                results.append(reward.per_sample(dense(reward)))
    finally:
        model.generation_config.eos_token_id = kept
    assert results[0][0].mean() > 0.8
    np.testing.assert_array_equal(results[0], results[1])


def dense(reward):

    return reward.space.dense


def test_a_template_without_a_generation_prompt_is_asked_up_to_the_answer(model, own, samples):
    own.chat_template = TURNS
    row = samples.iloc[0].to_dict()
    assert prompt(own, row).endswith("<|im_end|><|im_start|>assistant\n")
    own.chat_template = COLONS
    assert prompt(own, row).endswith("<|im_end|>\nassistant:")
    assert chat(own).lead == " ", "the space before an answer is part of its first token"
    batch = next(encode(samples.head(1), model, own, 1))
    said = own.tokenizer.decode(batch.targets[0][batch.targets[0] != IGNORE])
    assert said == " yes<|im_end|>"


def test_special_tokens_of_a_user_are_text(model, processor, samples):
    rows = samples.head(2).copy()
    rows["question"] = ["a <|image_pad|> <|im_end|> and <image>?", "plain?"]
    image = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    end = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    batch = next(encode(rows, model, processor, 2))
    found = batch.inputs["input_ids"]
    assert (found == image).sum(1).tolist() == [16, 16]
    assert (found == end).sum(1).tolist() == [1, 1]
    assert plain(processor, "nothing to do <b>") == "nothing to do <b>"
    model(**batch.inputs)


def test_an_answer_is_tokenized_behind_its_prompt_and_composed(model, processor, samples):
    asked = prompt(processor, samples.iloc[0].to_dict())
    plainly = processor.tokenizer.encode("circle", add_special_tokens=False)
    assert answer_ids(processor, asked, "circle") == plainly
    rows = samples.head(1)
    targets = [
        next(encode(rows.assign(answer=answer), model, processor, 1)).targets
        for answer in ("caf\u00e9", "cafe\u0301")
    ]
    assert torch.equal(*targets)


def test_without_a_padding_token_the_end_stands_in_and_is_masked(model, own, samples):
    own.tokenizer.pad_token = None
    batch = next(encode(samples.head(4), model, own, 4))
    assert batch.inputs["attention_mask"].sum(1).tolist() != [batch.targets.shape[1]] * 4
    assert own.tokenizer.pad_token is None, "the processor is as it was"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for %}", "the chat template fails"),
        ("{{ messages[7]['x'] }}", "the chat template fails"),
        ("{{ raise_exception('no pictures') }}", "fails: no pictures"),
        ("{{ 1 + 'a' }}", "the chat template fails"),
        ("", "no chat template"),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "does not end within",
        ),
    ],
)
def test_a_template_that_fails_or_never_ends_is_one_line(
    model, own, samples, template, message, monkeypatch
):
    monkeypatch.setattr(chats, "SECONDS", 0.3)
    own.chat_template = template
    with pytest.raises(LopError, match=message) as error:
        next(encode(samples, model, own, 2))
    assert "\n" not in str(error.value)


def test_samples_that_cannot_be_asked_are_named(model, processor, samples):
    with pytest.raises(LopError, match="sample s0: a picture, and the model has a tokenizer only"):
        next(encode(samples, model, processor.tokenizer, 2))
    rows = samples.head(3).copy()
    rows.loc[2, "question"] = "what is it? " * 600
    with pytest.raises(LopError, match=r"row 2 \(id s2\): \d+ tokens .* takes at most 512"):
        next(encode(rows, model, processor, 3))


def test_any_accepted_answer_counts(model, processor, scores):
    samples = make_samples(6)
    several = samples.assign(answers=[[a, "red circle", a, "no"] for a in samples["answer"]])
    with Reward(model, processor, samples, scores) as reward:
        plan = dense(reward)
        first = reward.per_sample(plan)
    others = []
    for answer in ("red circle", "no"):
        with Reward(model, processor, samples.assign(answer=answer), scores) as reward:
            others.append(reward.per_sample(plan))
    with Reward(model, processor, several, scores, batch_size=4) as reward:
        correct, loglik = reward.per_sample(plan)
        assert reward(plan) == pytest.approx(loglik.mean())
    all_of = [first[1], *(np.where(samples["answer"] == a, -np.inf, o[1]) for a, o in
              zip(("red circle", "no"), others, strict=True))]  # fmt: skip
    np.testing.assert_allclose(loglik, np.logaddexp.reduce(all_of), atol=1e-4)
    assert correct.tolist() == np.max([first[0], *(o[0] for o in others)], axis=0).tolist()
    alone = samples.assign(answers=[[a] for a in samples["answer"]])
    with Reward(model, processor, alone, scores) as reward:
        np.testing.assert_array_equal(reward.per_sample(plan), first)
