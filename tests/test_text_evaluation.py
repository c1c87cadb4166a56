"""Models of text are evaluated on texts, on questions without pictures and on lm-eval's tasks."""

import json

import numpy as np
import pandas as pd
import pytest
import texts
import torch
from conftest import make_samples

from lop.errors import LopError
from lop.evaluation import Evaluation, evaluate
from lop.models.checkpoint import load, load_processor, save
from lop.steps.evaluating import evaluate_one
from lop.tasks.benchmarks import locate
from lop.tasks.encoding import encode
from lop.tasks.samples import read_samples, write_samples


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model of text, six texts of three documents, and four questions, two about a picture."""
    root = tmp_path_factory.mktemp("texts")
    save(texts.model(), texts.tokenizer(), root / "model")
    rows = [{"text": line, "image_id": f"d{i % 3}"} for i, line in enumerate(texts.LINES * 2)]
    (root / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    write_samples(read_samples(root / "rows.jsonl"), root / "texts.parquet")
    asked = [{"question": f"is it {i}?", "answer": "yes"} for i in range(3)]
    (root / "questions.jsonl").write_text("\n".join(map(json.dumps, asked)))
    return root


@pytest.mark.parametrize("batch_size", [1, 4])
def test_perplexity_is_that_of_all_tokens(place, batch_size, monkeypatch):
    model, tokenizer = load(place / "model"), load_processor(place / "model")
    if batch_size == 1:
        monkeypatch.setattr("lop.tasks.text.utils.LOGITS", 1)  # a text at once
    found = evaluate(place / "model", place / "texts.parquet", 4, task="lop_text")
    loglik, tokens = [], []
    for batch in encode(read_samples(place / "texts.parquet"), model, tokenizer, 1):
        ids = batch.inputs["input_ids"]
        with torch.inference_mode():
            loss = model(input_ids=ids, labels=ids).loss  # transformers' own mean over tokens
        tokens.append(ids.shape[1] - 1)
        loglik.append(-float(loss) * tokens[-1])
    np.testing.assert_allclose(found.samples["loglik"], loglik, rtol=1e-4)
    assert found.samples["tokens"].tolist() == tokens
    metrics = found.summary()["metrics"]
    assert metrics["perplexity"]["value"] == pytest.approx(np.exp(-sum(loglik) / sum(tokens)))
    assert metrics["loglik"]["value"] == pytest.approx(sum(loglik) / sum(tokens))
    # the jackknife over documents, written out
    by = pd.DataFrame({"d": found.samples["group"], "l": loglik, "t": tokens}).groupby("d").sum()
    left = [(by["l"].sum() - r["l"]) / (by["t"].sum() - r["t"]) for _, r in by.iterrows()]
    error = np.sqrt(2 / 3 * np.square(np.array(left) - np.mean(left)).sum())
    assert metrics["loglik"]["stderr"] == pytest.approx(error, rel=1e-3)


def test_what_a_model_of_text_is_worth_is_kept_and_read(place, tmp_path):
    places = locate(["lop_text"], place / "texts.parquet")
    found = evaluate_one(tmp_path, place / "model", place / "texts.parquet", 4, 2, places)
    assert found["perplexity"] == found["tasks"]["lop_text"]["metrics"]["perplexity"]["value"]
    assert found["parameters"] > 0
    assert found["latency_ms"] > 0
    again = Evaluation.load(tmp_path / "lop_text")
    assert again.summary() == found["tasks"]["lop_text"]
    before = (tmp_path / "lop_text.parquet").stat().st_mtime_ns
    evaluate_one(tmp_path, place / "model", place / "texts.parquet", 4, 2, places)
    assert (tmp_path / "lop_text.parquet").stat().st_mtime_ns == before


@pytest.mark.parametrize("template", [None, texts.TEMPLATE])
def test_questions_without_pictures_are_asked(place, tmp_path, template):
    save(texts.model(), texts.tokenizer(template=template), tmp_path / "m")
    found = evaluate(tmp_path / "m", place / "questions.jsonl", 2)
    assert found.samples["answer"].tolist() == ["yes"] * 3
    model, tokenizer = load(tmp_path / "m"), load_processor(tmp_path / "m")
    (batch,) = encode(read_samples(place / "questions.jsonl").assign(answer=None), model,
                      tokenizer, 8)  # fmt: skip
    ids = batch.inputs["input_ids"][:1, : int(batch.inputs["attention_mask"][0].sum())]
    told = model.generate(input_ids=ids, do_sample=False, max_new_tokens=24, pad_token_id=1)
    expected = tokenizer.decode(told[0, ids.shape[1] :], skip_special_tokens=True)
    assert found.samples["prediction"][0] == expected


def test_a_model_of_pictures_is_asked_with_and_without(model_dir, tmp_path):
    samples = make_samples(4)
    samples["images"] = [of if i % 2 else [] for i, of in enumerate(samples["images"])]
    write_samples(samples, tmp_path / "mixed.parquet")
    mixed = evaluate(model_dir, tmp_path / "mixed.parquet", 3).samples.set_index("id")
    for name, rows in samples.groupby([bool(len(of)) for of in samples["images"]]):
        write_samples(rows, tmp_path / f"{name}.parquet")
        alone = evaluate(model_dir, tmp_path / f"{name}.parquet", 3).samples.set_index("id")
        assert mixed.loc[alone.index, "prediction"].tolist() == alone["prediction"].tolist()


def test_tasks_take_what_they_are_for(place):
    with pytest.raises(LopError, match="only texts and no question; lop_text reads texts"):
        evaluate(place / "model", place / "texts.parquet")
    with pytest.raises(LopError, match="only questions and no text; lop_vqa asks questions"):
        evaluate(place / "model", place / "questions.jsonl", task="lop_text")
    (place / "log.jsonl").write_text('{"question": "what?"}')
    with pytest.raises(LopError, match="sample 0: no answer, and lop_vqa needs one"):
        evaluate(place / "model", place / "log.jsonl")
