"""Pruned models in a real MLflow registry on sqlite: registered, sorted by, loaded and asked."""

import json
import os
import shutil

import pandas as pd
import pytest

from flows import common
from lop import tracking
from lop.cli import main
from lop.data.samples import write_samples
from lop.evaluation.answers import evaluate
from lop.steps import pruning, scoring
from lop.tracking import checkpoints

VALUES = {
    "accuracy": 0.75,
    "stderr": 0.1,
    "count": 12,
    "latency_ms": 7.5,
    "by_category": {"a": 1.0},
    "peak_of": "rss",
    "tasks": {"easyvqa_pope": {"metrics": {"f1": {"value": 0.8, "stderr": 0.02}}}},
}


TAGS = {"git_commit": "abc", "dvc:data/pruned": "123.dir"}


@pytest.fixture
def pruned(model_dir, samples, tmp_path):
    """A checkpoint that lop cut out of a model directory called `model`."""
    write_samples(samples, tmp_path / "samples.parquet")
    scoring.importance(tmp_path / "scores", str(model_dir), tmp_path / "samples.parquet", 12)
    cutter = pruning.Cutter(str(model_dir), tmp_path / "scores", "flap")
    pruning.prune_one(tmp_path / "uniform-0.5", "uniform", 0.5, cutter)
    return tmp_path / "uniform-0.5"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
        patch.chdir(root)  # artifacts land beside the database
        yield root


def registered(checkpoint, values=VALUES, **options):
    """Register a checkpoint in a run; returns MLflow, the version and the logged model."""
    import mlflow

    with tracking.run("evaluate", {}, {}) as run:
        figures = checkpoints.flat(values)
        number = run.register_checkpoint(checkpoint, figures, TAGS, **options)
    version = mlflow.MlflowClient().get_model_version("lop-pruned-model", number)
    return mlflow, version, mlflow.get_logged_model(version.source.removeprefix("models:/"))


def ask(mlflow, version, samples, **params):
    model = mlflow.pyfunc.load_model(f"models:/{version.name}/{version.version}")
    rows = [{"image": i[0]["bytes"], "question": q} for i, q in zip(*_asked(samples), strict=True)]
    return model.predict(pd.DataFrame(rows), params=params or None)["answer"].tolist()


def _asked(samples):
    return samples["images"], samples["question"]


def test_a_version_says_what_it_is_and_answers_like_the_checkpoint(store, pruned, samples):
    mlflow, version, model = registered(pruned)
    assert (
        version.tags.items()
        >= {
            "method": "uniform",
            "ratio": "0.5",
            "kept": "[20,20,20]",
            "accuracy": "0.75",
            "easyvqa_pope/f1": "0.8",
            "latency_ms": "7.5",
            "git_commit": "abc",
            "dvc:data/pruned": "123.dir",
            "checkpoint": "artifacts/checkpoint",
        }.items()
    )
    assert "FFN neurons pruned" in version.description
    figures = {metric.key: metric.value for metric in model.metrics}
    assert figures == checkpoints.flat(VALUES), "the list of models can be sorted by each"
    assert mlflow.get_run(version.run_id).data.metrics == figures
    expected = evaluate(pruned, pruned.parent / "samples.parquet").samples["prediction"]
    shortest = ask(mlflow, version, samples, max_new_tokens=24)  # as the task asks these samples
    assert shortest == expected.str.strip().tolist()
    longer = ask(mlflow, version, samples)
    assert all(long.startswith(short) for long, short in zip(longer, shortest, strict=True))


def test_nothing_is_a_pickle_and_card_and_plan_are_artifacts(store, pruned):
    mlflow, version, _ = registered(pruned)
    uri = f"models:/{version.name}/{version.version}"
    path = mlflow.artifacts.download_artifacts(uri)
    names = {f for _, _, files in os.walk(path) for f in files}
    assert names >= {"model.safetensors", "pruning.json", "README.md"}
    assert not [n for n in names if n.endswith((".pkl", ".pickle", ".bin", ".pt"))]
    listed = mlflow.artifacts.list_artifacts(run_id=version.run_id, artifact_path="uniform-0.5")
    assert {f.path for f in listed} == {"uniform-0.5/README.md", "uniform-0.5/pruning.json"}


def test_a_large_checkpoint_is_named_and_not_copied(store, pruned, samples):
    mlflow, version, _ = registered(pruned, copied_mb=0.01)
    assert version.tags["checkpoint"] == str(pruned)
    path = mlflow.artifacts.download_artifacts(f"models:/{version.name}/{version.version}")
    names = {f for _, _, files in os.walk(path) for f in files}
    assert not [n for n in names if n.endswith(".safetensors")]
    assert len(ask(mlflow, version, samples.head(2))) == 2


def test_versions_are_found_by_any_metric(store, pruned):
    better = VALUES | {"accuracy": 0.9}
    mlflow, _, model = registered(pruned, better)
    best = mlflow.search_logged_models(
        filter_string="metrics.accuracy > 0.8",
        order_by=[{"field_name": "metrics.accuracy", "ascending": False}],
        output_format="list",
    )
    assert [one.model_id for one in best] == [model.model_id]


@pytest.mark.parametrize("copied_mb", [512, 0.01])
def test_what_could_not_be_registered_is_later(store, pruned, samples, monkeypatch, copied_mb):
    monkeypatch.setenv(tracking.QUEUE, str(pruned.parent / "queue"))
    with monkeypatch.context() as outage:
        outage.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/no/such/place.db")
        with pytest.warns(UserWarning, match="lop track"), tracking.run("late", {}, {}) as run:
            assert run.register_checkpoint(pruned, {"accuracy": 0.5}, TAGS, copied_mb) is None
    if copied_mb == 512:
        shutil.rmtree(pruned)  # the queue has it as it was
    assert main(["track"]) == 0
    import mlflow

    (newest, *_) = mlflow.MlflowClient().search_model_versions(
        "name = 'lop-pruned-model'", order_by=["creation_timestamp DESC"]
    )
    assert newest.tags.items() >= {"accuracy": "0.5", "method": "uniform", **TAGS}.items()
    told = mlflow.get_run(newest.run_id)
    assert (told.info.run_name, told.data.metrics) == ("late", {"accuracy": 0.5})
    assert len(ask(mlflow, newest, samples.head(2))) == 2


@pytest.mark.parametrize(("method", "is_lops"), [("lop", 1), ("lop_recovered", 1), ("flap", 0)])
def test_what_lop_cut_may_be_deployed_and_a_baseline_not(pruned, method, is_lops):
    record = json.loads((pruned / "pruning.json").read_text()) | {"method": method}
    (pruned / "pruning.json").write_text(json.dumps(record))
    assert checkpoints.deployable(pruned) == bool(is_lops)
    assert not checkpoints.deployable(pruned.parent), "not a checkpoint"


def test_data_versions_are_what_the_lock_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert common.data_versions() == {}
    lock = "schema: '2.0'\nstages:\n  prune:\n    cmd: x\n    outs:\n    - path: data/pruned\n"
    (tmp_path / "dvc.lock").write_text(lock + "      hash: md5\n      md5: 12ab.dir\n")
    assert common.data_versions() == {"dvc:data/pruned": "12ab.dir"}
