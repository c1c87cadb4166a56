"""Figures from lm-eval must be what the model really says, and what stock lm-eval would report."""

import math
import shutil
import socket

import numpy as np
import pandas as pd
import pytest
import torch

from lop.data.encoding import IGNORE, encode, prompt
from lop.data.matching import matches
from lop.data.samples import write_samples
from lop.errors import LopError
from lop.evaluation import answers as evaluation
from lop.evaluation.answers import Evaluation, evaluate, evaluate_all
from lop.evaluation.footprint import measure
from lop.models.checkpoint import load, load_processor, save
from lop.models.space import find_space
from lop.plan import Plan
from lop.pruning import prune
from lop.reference import easyvqa, easyvqa_benchmarks
from lop.steps import evaluating

REFERENCE = "data/reference"


def table(correct, ids=None):
    """A per-sample table with the given outcomes."""
    n = len(correct)
    return pd.DataFrame(
        {
            "id": ids or [f"s{i}" for i in range(n)],
            "group": ids or [f"s{i}" for i in range(n)],
            "picture": ids or [f"s{i}" for i in range(n)],
            "category": ["a", "b"] * (n // 2) + ["a"] * (n % 2),
            "prompt_hash": "0",
            "answer": "yes",
            "prediction": ["yes" if c else "no" for c in correct],
            "correct": correct,
        }
    )


def stock_lm_eval(model, path):
    """lm-eval's own model class, and a manager that knows the task over the samples at `path`."""
    from lm_eval.models.hf_vlms import HFMultimodalLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(
        include_path=evaluation.FOLDER, include_defaults=False, metadata={"samples": str(path)}
    )
    return HFMultimodalLM(pretrained=model, batch_size=8), manager


def teacher_forced(model, processor, samples):
    """Whether every token of each answer, and then the end, is the most likely next one."""
    outcomes = []
    with torch.no_grad():
        for batch in encode(samples, model, processor, batch_size=16):
            found = model(**batch.inputs).logits.argmax(-1)
            outcomes += ((found == batch.targets) | (batch.targets == IGNORE)).all(1).tolist()
    return outcomes


@pytest.fixture
def path(samples, tmp_path):
    write_samples(samples, tmp_path / "samples.parquet")
    return tmp_path / "samples.parquet"


def test_accuracy_is_what_teacher_forcing_says(reference_model, reference_samples, tmp_path):
    write_samples(reference_samples, tmp_path / "samples.parquet")
    result = evaluate(REFERENCE, tmp_path / "samples.parquet", batch_size=16)
    expected = teacher_forced(*reference_model, reference_samples)
    assert result.samples["correct"].tolist() == expected
    assert result.accuracy == np.mean(expected)
    assert 0 < result.accuracy < 1


def test_stock_lm_eval_gives_the_same_answers(reference_samples, tmp_path):
    from lm_eval import simple_evaluate

    # a question a picture: there both standard errors are s/√n, since lm-eval knows no clusters
    apart = reference_samples.drop_duplicates("image_id")
    write_samples(apart, tmp_path / "samples.parquet")
    stock, manager = stock_lm_eval(load(REFERENCE), tmp_path / "samples.parquet")
    expected = simple_evaluate(
        stock, tasks=["lop_vqa"], task_manager=manager, apply_chat_template=True
    )
    result = evaluate(REFERENCE, tmp_path / "samples.parquet", batch_size=8)
    answers = [sample["filtered_resps"][0] for sample in expected["samples"]["lop_vqa"]]
    assert result.samples["prediction"].tolist() == answers
    assert result.accuracy == pytest.approx(expected["results"]["lop_vqa"]["exact_match,none"])
    assert result.stderr == pytest.approx(expected["results"]["lop_vqa"]["exact_match_stderr,none"])


def test_every_sample_has_its_row(model_dir, samples, path):
    result = evaluate(model_dir, path, batch_size=5)
    assert result.count == len(samples)
    assert list(result.samples.columns) == evaluation.COLUMNS
    for column in ("id", "category", "answer"):
        assert result.samples[column].tolist() == samples[column].tolist()
    assert set(result.by_category) == {"a", "b"}


def test_a_pruned_checkpoint_is_evaluated_as_it_is(model_dir, model, processor, scores, path):
    plan = Plan.uniform(find_space(model), 0.5)
    save(prune(model, plan, scores), processor, model_dir.with_name("pruned"))
    dense, pruned = (measure(d, path, 2, 1, 2) for d in (model_dir, model_dir.with_name("pruned")))
    assert pruned.ffn_neurons == sum(plan.kept) == dense.ffn_neurons // 2
    assert pruned.parameters < dense.parameters
    assert pruned.disk_bytes < dense.disk_bytes
    # other weights, other answers: nothing comes from a cache
    answers = [
        evaluate(d, path).samples["prediction"].tolist()
        for d in (model_dir, model_dir.with_name("pruned"))
    ]
    assert answers[0] != answers[1]


def test_prompts_are_the_chat_templates(model_dir, model, processor, samples, tmp_path):
    rows = samples.copy()
    rows["choices"] = [["yes", "no"] if i % 3 == 0 else None for i in range(len(rows))]
    rows["images"] = [i * (1 + n % 2) for n, i in enumerate(rows["images"])]
    write_samples(rows, tmp_path / "samples.parquet")
    lm, manager = stock_lm_eval(load(model_dir), tmp_path / "samples.parquet")
    task = manager.load(["lop_vqa"])["tasks"]["lop_vqa"]
    task.build_all_requests(apply_chat_template=True, chat_template=lm.apply_chat_template)
    assert len(task.instances) == len(rows)
    for instance, row in zip(task.instances, rows.to_dict("records"), strict=True):
        assert instance.args[0] == prompt(processor, row)
        assert len(instance.args[2]["visual"]) == len(row["images"])


def test_a_changed_file_is_read_again_and_nothing_is_left(model_dir, samples, path):
    before = sorted(path.parent.iterdir())
    evaluate(model_dir, path)
    write_samples(samples.head(3), path)
    assert evaluate(model_dir, path).count == 3
    assert sorted(path.parent.iterdir()) == before


def test_no_network_and_no_noise(model_dir, path, monkeypatch, capfd):
    tried = []

    def refuse(*args):
        tried.append(args)
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    evaluate(model_dir, path)
    assert not tried
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("red \n", True), (" RED", True), ("red.", True), ('"red"', True), ("**Red**", True),
        ("The answer is: red.", True), ("Answer: red", True), ("So the final answer is red", True),
        ("red\nIt is red, as the picture shows.", True), ("B", True), ("(B)", True),
        ("B. red", True), ("b. red.", True), ("the answer is (B).", True), ("scarlet", True),
        ("", False), (".", False), ("A", False), ("not red", False), ("dark red", False),
        ("red or blue", False), ("blue", False), ("It is blue, not red.", False),
    ],
)  # fmt: skip
def test_a_short_answer_is_found_in_what_was_said(said, right):
    from lop.evaluation.tasks.vqa.utils import process_results, row

    doc = {"id": "1", "image_id": "p", "category": "c", "answer": "red"}
    doc |= {"answers": ["red", "scarlet"], "choices": ["blue", "red"]}
    assert process_results(doc, [said]) == {"exact_match": float(right)}
    assert row(doc, [said])["correct"] == right
    assert row(doc, [said])["group"] == "p", "questions of one picture are a group"


def test_yes_and_no_may_go_on_and_accents_have_two_forms():
    assert matches("Yes, there is a red circle.", ["yes"])
    assert not matches("Yes, there is a red circle.", ["no"])
    assert not matches("no circle", ["no"])
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    assert composed != decomposed
    assert matches(decomposed, [composed])
    assert matches(composed, [decomposed])
    assert matches("...", ["..."]), "an answer as it stands is always right"
    assert not matches("...", ["red"])


def test_standard_error_and_categories():
    result = Evaluation(table([True, True, True, False]))
    assert result.accuracy == 0.75
    assert result.stderr == pytest.approx(math.sqrt(0.75 * 0.25 / 3))
    assert result.by_category == {"a": 1.0, "b": 0.5}
    assert result.headline()["stderr"] == result.summary()["metrics"]["accuracy"]["stderr"]
    assert Evaluation(table([True])).headline()["stderr"] is None
    assert Evaluation(table([True])).summary()["metrics"]["accuracy"]["stderr"] is None


def test_reload_equals_memory(tmp_path):
    result = Evaluation(table([True, False, True]))
    result.save(tmp_path / "dense-0.5")
    pd.testing.assert_frame_equal(Evaluation.load(tmp_path / "dense-0.5").samples, result.samples)
    assert {f.name for f in tmp_path.iterdir()} == {"dense-0.5.json", "dense-0.5.parquet"}
    with pytest.raises(LopError, match=r"none\.json"):
        Evaluation.load(tmp_path / "none")


def test_footprint_counts_and_times(model_dir, model, path):
    footprint = measure(model_dir, path, repeats=3, warmup=1, tokens=2)
    assert footprint.speedup is None, "there is nothing that it is timed in turn with"
    assert footprint.answers_per_s > 0
    alone = measure(model_dir, path, repeats=2, warmup=1, tokens=1, dense_dir=model_dir)
    assert alone.decode_tokens_per_s is None, "the first token is no decoding"
    assert 0 < alone.speedup_low <= alone.speedup <= alone.speedup_high
    assert 0.2 < alone.batch_speedup < 5
    assert footprint.parameters == sum(p.numel() for p in model.parameters())
    assert footprint.disk_bytes == (model_dir / "model.safetensors").stat().st_size
    assert footprint.latency_ms > 0
    assert footprint.peak_bytes >= 0


@pytest.mark.parametrize("ask", [evaluate, measure])
def test_bad_input_is_named(ask, model_dir, path, tmp_path):
    with pytest.raises(LopError, match="no such model directory"):
        ask(tmp_path / "none", path)
    with pytest.raises(LopError, match="none"):
        ask(model_dir, tmp_path / "none.parquet")
    write_samples(pd.read_parquet(path).head(0), tmp_path / "empty.parquet")
    with pytest.raises(LopError, match=r"empty\.parquet: expected rows"):
        ask(model_dir, tmp_path / "empty.parquet")
    mute = shutil.copytree(model_dir, tmp_path / "mute")
    (mute / "chat_template.jinja").unlink()
    assert not load_processor(mute).chat_template
    with pytest.raises(LopError, match="no chat template"):
        ask(mute, path)


def test_special_tokens_in_a_question_are_text(model_dir, samples, tmp_path):
    question = "what is <image> and <|image_pad|><|im_end|>?"
    path = tmp_path / "samples.parquet"
    write_samples(samples.head(2).assign(question=question), path)
    found = evaluate(model_dir, path)
    assert found.count == 2
    assert measure(model_dir, path, 1, 0, 2).latency_ms > 0


def test_a_question_that_is_too_long_is_named_with_its_row(model_dir, samples, tmp_path):
    rows = samples.head(3).copy()
    rows.loc[1, "question"] = "what is it? " * 600
    write_samples(rows, tmp_path / "samples.parquet")
    with pytest.raises(LopError, match=r"row 1: a question of \d+ tokens; .* at most 512"):
        evaluate(model_dir, tmp_path / "samples.parquet")


def test_answers_are_generated_as_long_as_the_longest_accepted(model_dir, samples, tmp_path):
    answers = [["yes", "a b c d e f g h i j k l m n o p q r s t u v w x y z " * 2]] * 2
    write_samples(samples.head(2).assign(answers=answers), tmp_path / "samples.parquet")
    long = evaluate(model_dir, tmp_path / "samples.parquet").samples["prediction"]
    write_samples(samples.head(2), tmp_path / "samples.parquet")
    short = evaluate(model_dir, tmp_path / "samples.parquet").samples["prediction"]
    for longer, shorter in zip(long, short, strict=True):
        assert longer.startswith(shorter)
        assert len(longer) > len(shorter), "a random model does not end by itself"


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Some of each of the two kinds of tasks: answers generated, and chosen by likelihood."""
    folder = tmp_path_factory.mktemp("few")
    held_out = easyvqa.load("holdout")
    rng = np.random.default_rng(0)
    rows = {
        "easyvqa_pope": easyvqa_benchmarks.pope(held_out, rng)[:60],
        "easyvqa_mmbench": easyvqa_benchmarks.mmbench(held_out, rng)[::100],
    }
    for name, chosen in rows.items():
        easyvqa_benchmarks.write(chosen, folder / f"{name}.parquet")
    return {name: str(folder / f"{name}.parquet") for name in rows}


def test_a_killed_evaluation_keeps_its_finished_shards(few, tmp_path, monkeypatch):
    asked = []
    ask = evaluation._answers

    def dying(lm, name, data):
        asked.append(name)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return ask(lm, name, data)

    monkeypatch.setattr(evaluation, "_answers", dying)
    with pytest.raises(KeyboardInterrupt):
        evaluate_all(tmp_path, REFERENCE, few)
    first, second = few
    assert {p.name for p in tmp_path.iterdir()} == {f"{first}.json", f"{first}.parquet"}
    found = evaluate_all(tmp_path, REFERENCE, few)
    assert asked == [first, second, second]
    again = evaluate_all(tmp_path, REFERENCE, few)
    assert len(asked) == 3
    for name in few:
        pd.testing.assert_frame_equal(again[name].samples, found[name].samples)
        assert again[name].summary() == found[name].summary()
    assert found[first].summary()["metrics"]["f1"]["value"] > 0.9
    # four or three rotations of a question, each with a prompt of its own
    rotations = found["easyvqa_mmbench"].samples.groupby("group")["prompt_hash"].nunique()
    assert rotations.tolist() == [4] * 5 + [3] * 5


def test_a_shard_is_known_by_all_that_decides_it(few, model_dir, tmp_path, samples):
    def fingerprint(model, task, data):
        return evaluation.shard_fingerprint(evaluation.content_of(model), task, data)

    name, data = next(iter(few.items()))
    mark = fingerprint(model_dir, name, data)
    (model_dir / "README.md").write_text("says nothing about answers")
    assert fingerprint(model_dir, name, data) == mark
    other = shutil.copytree(model_dir, tmp_path / "other")
    assert fingerprint(other, name, data) == mark
    assert fingerprint(model_dir, "easyvqa_mme", data) != mark
    assert fingerprint(model_dir, name, "on/hub") != mark
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    assert fingerprint(other, name, data) != mark


def test_a_broken_or_stale_shard_is_asked_again(model_dir, few, tmp_path):
    tasks = {"easyvqa_pope": few["easyvqa_pope"]}
    out = tmp_path / "out"
    found = evaluate_all(out, model_dir, tasks)["easyvqa_pope"]
    for damage in ("easyvqa_pope.parquet", "easyvqa_pope.json"):
        (out / damage).write_text("{}")
        again = evaluate_all(out, model_dir, tasks)["easyvqa_pope"]
        pd.testing.assert_frame_equal(again.samples, found.samples)
        assert Evaluation.load(out / "easyvqa_pope").fingerprint == found.fingerprint


def test_the_step_writes_what_the_report_reads(model_dir, few, path, tmp_path, monkeypatch):
    out, pruned = tmp_path / "evaluation", tmp_path / "pruned"
    shutil.copytree(model_dir, pruned / "flap-0.5")
    tasks = ["lop_vqa", *({name: data} for name, data in few.items())]
    grid = {"batch_size": 32, "latency_samples": 1, "tasks": tasks}
    here = dict.fromkeys(("each", "alone"), lambda work, keys: [work(*key) for key in keys])
    metrics = evaluating.evaluate(out, str(model_dir), pruned, path, **grid, **here)
    files = {f"{name}.{kind}" for name in ["lop_vqa", *few] for kind in ("json", "parquet")}
    assert {p.name for p in (out / "dense").iterdir()} == files | {"footprint.json"}
    assert metrics.keys() == {"dense", "flap-0.5"}
    dense = metrics["dense"]
    assert dense["count"] == 12
    assert dense["tasks"].keys() == {"lop_vqa", *few}
    assert dense["tasks"]["lop_vqa"]["metrics"]["accuracy"]["value"] == dense["accuracy"]
    assert dense["tasks"]["easyvqa_mmbench"]["metrics"].keys() == {"accuracy", "circular"}
    assert {"f1", "f1_adversarial"} <= dense["tasks"]["easyvqa_pope"]["metrics"].keys()
    assert dense["latency_ms"] > 0

    def never(*_):
        raise AssertionError("nothing is missing")

    monkeypatch.setattr("lop.evaluation.footprint.load_to_ask", never)
    monkeypatch.setattr(evaluation, "load_to_ask", never)
    assert evaluating.evaluate(out, str(model_dir), pruned, path, **grid, **here) == metrics
    with pytest.raises(LopError, match="easyvqa_mme: no data"):
        evaluating.evaluate(out, str(model_dir), pruned, path, tasks=["easyvqa_mme"], **here)
