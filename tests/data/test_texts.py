"""Models of text alone, texts, and questions without pictures or answers become tensors."""

import numpy as np
import pandas as pd
import pytest
import texts
import torch

from lop.data.encoding import IGNORE, encode, prompt
from lop.data.prepare import prepare_samples
from lop.data.samples import COLUMNS, fingerprint, read_samples
from lop.data.windows import cut
from lop.errors import LopError
from lop.importance import collect
from lop.models import fingerprints
from lop.models.checkpoint import load, load_processor, load_spread, save
from lop.models.space import find_ffns
from lop.models.stored import Stored
from lop.plan import Plan
from lop.reward import Reward


def table(*rows):
    base = dict.fromkeys(COLUMNS) | {"images": [], "question": "", "category": "all"}
    whole = [base | {"id": f"s{i}", "image_id": f"d{i}"} | row for i, row in enumerate(rows)]
    return pd.DataFrame(whole, columns=list(COLUMNS), dtype=object)


DOCUMENTS = table(*({"text": line} for line in [*texts.LINES, "the dog"]))
QUESTION = {"question": "what is it?", "answer": "a cat"}


def told(targets):
    return [row[row != IGNORE].tolist() for row in targets]


def log_likelihood(model, batch, targets):
    """Of all targets of each row, by one plain forward pass."""
    with torch.inference_mode():
        logits = model(**batch.inputs).logits.float().log_softmax(-1)
    of = logits.gather(2, targets.clamp_min(0)[..., None])[..., 0]
    return (of * (targets != IGNORE)).sum(1).numpy()


@pytest.mark.parametrize("kind", texts.KINDS)
def test_a_model_of_text_is_saved_loaded_scored_and_judged(tmp_path, kind):
    save(texts.model(kind), texts.tokenizer(), tmp_path / "m")
    model, tokenizer = load(tmp_path / "m"), load_processor(tmp_path / "m")
    assert Stored(tmp_path / "m").fingerprint == fingerprints.fingerprint(
        load_spread(tmp_path / "m")
    )
    samples = pd.concat([DOCUMENTS, table(QUESTION | {"id": "q"})], ignore_index=True)
    batches = list(encode(samples, model, tokenizer, 2))
    expected = np.concatenate([log_likelihood(model, b, b.targets) for b in batches])
    scores = collect(model, encode(samples, model, tokenizer, 2))["activation_l2"]
    with Reward(model, tokenizer, samples, scores, batch_size=3) as reward:
        loglik = reward.per_sample(reward.space.dense)[1]
        np.testing.assert_allclose(loglik, expected, atol=1e-3)
        less = reward.per_sample(Plan.uniform(reward.space, 0.5))[1]
    assert np.abs(less - expected).min() > 1e-3


@pytest.mark.parametrize("bos", [True, False])
def test_all_tokens_of_a_text_are_to_be_predicted(bos):
    model, tokenizer = texts.model(), texts.tokenizer(bos)
    (batch,) = encode(DOCUMENTS, model, tokenizer, 8)
    assert torch.equal(batch.targets, batch.text_targets)
    for row, mask, of, text in zip(
        batch.inputs["input_ids"], batch.inputs["attention_mask"], told(batch.targets),
        DOCUMENTS["text"], strict=True,
    ):  # fmt: skip
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert row[mask.bool()].tolist() == [0] * bos + ids
        assert of == ids[not bos :]


def test_a_tokenizer_that_ends_texts_ends_none_of_these():
    tokenizer = texts.tokenizer()
    ending = texts.processors.TemplateProcessing(
        "<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer.backend_tokenizer.post_processor = ending
    assert tokenizer.encode("the cat")[-1] == 1
    (batch,) = encode(DOCUMENTS, texts.model(), tokenizer, 8)
    (other,) = encode(DOCUMENTS, texts.model(), texts.tokenizer(), 8)
    assert told(batch.targets) == told(other.targets)


def test_special_tokens_in_a_text_are_text():
    (batch,) = encode(table({"text": "a <|end|> of </s>"}), texts.model(), texts.tokenizer(), 1)
    assert not set(told(batch.targets)[0]) & {0, 1, 2, 3}


def test_without_a_template_a_question_is_a_line_and_its_answer_the_next():
    model, tokenizer = texts.model(), texts.tokenizer()
    (batch,) = encode(table(QUESTION), model, tokenizer, 1)
    ids = tokenizer.encode("what is it?\na cat", add_special_tokens=False)
    assert batch.inputs["input_ids"].tolist() == [[0, *ids]]
    (targets,), (all_text,) = told(batch.targets), told(batch.text_targets)
    assert tokenizer.decode(targets) == "a cat</s>"
    assert all_text == [*ids, 1], "the question's tokens, the answer's and its end"


def test_a_tokenizers_own_template_asks():
    model, tokenizer = texts.model(), texts.tokenizer(template=texts.TEMPLATE)
    row = table(QUESTION)
    asked = prompt(tokenizer, row.iloc[0].to_dict())
    turns = [{"role": "user", "content": "what is it?"}]
    whole = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    (batch,) = encode(row, model, tokenizer, 1)
    assert batch.inputs["input_ids"][0, : len(whole)].tolist() == whole
    assert tokenizer.decode(whole) == asked
    assert tokenizer.decode(told(batch.targets)[0]) == "a cat<|end|>"
    said = tokenizer.decode(told(batch.text_targets)[0])
    assert said == "user\nwhat is it?\nassistant\na cat<|end|>"


def test_without_an_answer_there_is_a_prompt_and_nothing_to_say():
    model, tokenizer = texts.model(), texts.tokenizer()
    rows = table(QUESTION | {"answer": None}, QUESTION)
    (batch,) = encode(rows, model, tokenizer, 2)
    assert told(batch.targets)[0] == []
    ids = tokenizer.encode("what is it?\n", add_special_tokens=False)
    assert told(batch.text_targets)[0] == ids
    scores = [torch.arange(float(ffn.units)) for ffn in find_ffns(model)]
    for kind in ("loglik", "accuracy"):
        with pytest.raises(LopError, match=f"sample s0: no answer, and the reward {kind} needs"):
            Reward(model, tokenizer, rows, scores, kind)
    with pytest.raises(LopError, match="sample s0: a text, and the reward accuracy needs questio"):
        Reward(model, tokenizer, DOCUMENTS, scores, "accuracy")


def test_what_a_model_of_text_cannot_read_is_named(samples):
    model, tokenizer = texts.model(), texts.tokenizer()
    with pytest.raises(LopError, match="sample s0: a picture, and the model has a tokenizer only"):
        next(encode(samples, model, tokenizer, 2))
    with pytest.raises(LopError, match=r"row 1 \(id s1\): \d+ tokens .* takes at most 256"):
        next(encode(table({"text": "a"}, {"text": "x" * 300}), model, tokenizer, 2))
    with pytest.raises(LopError, match="the model has a CLIPImageProcessor.* and no tokenizer"):
        from transformers import CLIPImageProcessor

        next(encode(samples, model, CLIPImageProcessor(), 2))


def test_a_model_of_pictures_takes_samples_without_them(model, processor, samples, scores):
    mixed = pd.concat(
        [samples.head(3), DOCUMENTS.head(2), table({"question": "is it red?", "answer": "no"}),
         samples.tail(3)], ignore_index=True,
    )  # fmt: skip
    mixed["id"] = [f"s{i}" for i in range(len(mixed))]
    batches = list(encode(mixed, model, processor, 4))
    assert [len(batch.targets) for batch in batches] == [3, 3, 3]
    assert ["pixel_values" in batch.inputs for batch in batches] == [True, False, True]
    image = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    for batch in batches:
        assert not (batch.text_targets == image).any()
        asked = batch.targets != IGNORE
        assert torch.equal(batch.targets[asked], batch.text_targets[asked])
    expected = np.concatenate([log_likelihood(model, b, b.targets) for b in batches])
    with Reward(model, processor, mixed, scores, batch_size=4) as reward:
        loglik = reward.per_sample(reward.space.dense)[1]
    np.testing.assert_allclose(loglik, expected, atol=1e-3)


@pytest.fixture
def documents(tmp_path):
    """Thirty documents of one to five times as many lines, and the model whose tokenizer counts."""
    save(texts.model(), texts.tokenizer(), tmp_path / "model")
    (tmp_path / "texts").mkdir()
    for i in range(30):
        lines = [f"{line}, {i}.\n" for line in texts.LINES * (1 + i % 5)]
        (tmp_path / "texts" / f"{i:02}.txt").write_text("".join(lines))
    return tmp_path


SIZES = {"calibration": 20, "reward": 20, "validation": 10, "benchmark": 10}


def test_documents_are_cut_into_windows_and_split_by_document(documents):
    model, source = str(documents / "model"), str(documents / "texts")
    tables = prepare_samples(source, 0, SIZES, 16, model)
    assert {name: len(of) for name, of in tables.items()} == SIZES
    seen = [name for of in tables.values() for name in of["image_id"].unique()]
    assert len(seen) == len(set(seen))
    again = prepare_samples(source, 0, SIZES, 16, model)
    assert all(fingerprint(again[name]) == fingerprint(tables[name]) for name in SIZES)
    rest = prepare_samples(source, 0, SIZES | {"benchmark": None}, 16, model)["benchmark"]
    assert len(rest) > 10
    with pytest.raises(LopError, match="texts, to be cut by a model's tokenizer; name the model"):
        prepare_samples(source, 0, SIZES)


def test_windows_are_what_stands_in_the_document(documents):
    tokenizer, whole = texts.tokenizer(), read_samples(documents / "texts")
    windows = cut(whole, tokenizer, 16)
    for row in whole.to_dict("records"):
        own = windows[windows["image_id"] == row["image_id"]]
        assert row["text"].startswith("".join(own["text"]))
        assert own["id"].tolist() == [f"{row['id']}-{i}" for i in range(len(own))]
        lengths = [len(tokenizer.encode(of, add_special_tokens=False)) for of in own["text"]]
        assert set(lengths[:-1]) == {16}
        assert 8 <= lengths[-1] <= 16
        lost = len(tokenizer.encode(row["text"], add_special_tokens=False)) - sum(lengths)
        assert 0 <= lost < 8


def test_a_short_document_is_a_window_and_a_question_stays():
    rows = table({"text": "the cat"}, QUESTION)
    assert cut(rows, texts.tokenizer(), 16)["text"].tolist() == ["the cat", None]
    assert cut(rows, texts.tokenizer(), 16)["question"].tolist() == ["", "what is it?"]
    with pytest.raises(LopError, match="has no character offsets"):
        from transformers import CanineTokenizer

        cut(rows, CanineTokenizer(), 16)
