"""Models of text are evaluated on texts, on questions without pictures and on lm-eval's tasks."""

import json

import numpy as np
import pandas as pd
import pytest
import texts
import torch
from conftest import make_samples

from lop.data.encoding import encode
from lop.data.samples import read_samples, write_samples
from lop.errors import LopError
from lop.evaluation.answers import Evaluation, evaluate
from lop.evaluation.tasks.benchmarks import locate
from lop.models.checkpoint import load, load_processor, save
from lop.steps.evaluating import evaluate_one


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
        monkeypatch.setattr("lop.evaluation.tasks.text.utils.LOGITS", 1)  # a text at once
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


MINE = """
task: mine
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/questions.json}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{q}}\\n"
doc_to_choice: choices
doc_to_target: gold
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
ROLLING = """
task: rolling
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/questions.json}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{q}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
"""
GROUP = "group: both\ntask: [mine]\naggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """A folder with tasks of one's own as lm-eval has them, and their data."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "tasks"
    folder.mkdir()
    docs = [{"q": f"is it {i}?", "choices": ["yes", "no"], "gold": i % 2} for i in range(6)]
    (folder / "questions.json").write_text("\n".join(map(json.dumps, docs)))
    for name, text in (("mine", MINE), ("rolling", ROLLING), ("both", GROUP)):
        (folder / f"{name}.yaml").write_text(text.replace("FOLDER", str(folder)))
    return folder


def test_lm_evals_own_tasks_are_asked_by_name(place, tasks, tmp_path):
    names = [f"lm_eval.{name}" for name in ("mine", "rolling", "both")]
    places = locate([{name: str(tasks)} for name in names], None)
    found = evaluate_one(tmp_path / "out", place / "model", None, 4, 2, places)["tasks"]
    model, tokenizer = load(place / "model"), load_processor(place / "model")
    right = []
    for i in range(6):
        asked = tokenizer(f"is it {i}?\n").input_ids
        with torch.inference_mode():
            logits = model(torch.tensor([asked])).logits[0, -1].log_softmax(-1)
        # lm-eval puts the space before an answer: its first tokens tell the two apart
        yes, no = (tokenizer(f" {w}", add_special_tokens=False).input_ids for w in ("yes", "no"))
        assert yes[0] != no[0]
        right.append((len(yes), len(no), float(logits[yes[0]] - logits[no[0]])))
    mine = found["lm_eval.mine"]
    assert mine["primary"] == "acc"
    assert mine["count"] == 6
    rows = pd.read_parquet(tmp_path / "out" / "lm_eval.mine.parquet")
    assert mine["metrics"]["acc"]["value"] == pytest.approx(rows["acc"].mean())
    assert mine["metrics"]["acc"]["stderr"] == pytest.approx(rows["acc"].sem())
    if all(yes == no == 1 for yes, no, _ in right):
        gold = [int(i % 2 == (apart < 0)) for i, (_, _, apart) in enumerate(right)]
        assert rows["acc"].tolist() == gold
    assert found["lm_eval.both"]["metrics"]["acc"]["value"] == mine["metrics"]["acc"]["value"]
    rolling = found["lm_eval.rolling"]["metrics"]
    assert set(rolling) == {"word_perplexity", "bits_per_byte"}
    assert all(figure["stderr"] > 0 for figure in rolling.values()), "by the jackknife"
    again = Evaluation.load(tmp_path / "out" / "lm_eval.rolling")
    assert again.summary() == found["lm_eval.rolling"]


def test_tasks_that_cannot_be_had_are_one_line(place, tasks):
    with pytest.raises(LopError, match="task lm_eval.x: no data at nowhere/tasks"):
        locate([{"lm_eval.x": "nowhere/tasks"}], None)
    with pytest.raises(LopError, match="lm_eval.x: .* has no such task"):
        evaluate(place / "model", tasks, task="lm_eval.x")
    hub = MINE.replace("dataset_path: json", "dataset_path: someone/something")
    (tasks / "mine.yaml").write_text(hub[: hub.index("dataset_kwargs")] + "test_split: test\n")
    with pytest.raises(LopError, match="lm_eval.mine: cannot be loaded: .*someone/something"):
        evaluate(place / "model", tasks, task="lm_eval.mine")
