"""A real MLflow registry on sqlite: a kit is registered, loaded and asked for plans."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest
from kits import kit_for

from lop import tracking
from lop.errors import LopError
from lop.files import content_digest
from lop.plan import Space
from lop.predictor import Predictor
from lop.steps.pruning import kit_at
from lop.tracking import queue

SPACE = Space.ffns((64,) * 4)


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    import mlflow

    root = tmp_path_factory.mktemp("mlflow")
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{root}/mlflow.db"
    before = os.getcwd()
    os.chdir(root)  # artifacts land beside the database
    kit = kit_for(root, SPACE, "model-a")
    kit.path.rename(root / "kit")
    with tracking.run("train", {"lr": 1e-3}, {"samples": "abc"}) as run:
        run.curve(pd.DataFrame({"epoch": [0, 1], "mse": [0.5, 0.25]}), step="epoch")
        run.metrics({"final": 0.25})
        version = run.register_kit(root / "kit")
    yield mlflow, version, kit.predictor
    os.chdir(before)
    del os.environ["MLFLOW_TRACKING_URI"]


def runs(mlflow, stage):
    return mlflow.search_runs(
        experiment_names=[tracking.EXPERIMENT],
        filter_string=f"tags.stage = '{stage}'",
        output_format="list",
    )


def test_the_registered_kit_gives_the_same_plans(registered):
    mlflow, version, predictor = registered
    model = mlflow.pyfunc.load_model(f"models:/{tracking.KIT_NAME}/{version}")
    plans = model.predict(pd.DataFrame({"ratio": [0.2, 0.37]}))
    assert [tuple(k) for k in plans["kept"]] == [predictor.plan(r).kept for r in (0.2, 0.37)]
    assert sum(plans["kept"][1]) == SPACE.budget(0.37)


def test_nothing_in_the_registry_is_a_pickle(registered):
    mlflow, version, _ = registered
    path = mlflow.artifacts.download_artifacts(f"models:/{tracking.KIT_NAME}/{version}")
    names = [f for _, _, files in os.walk(path) for f in files]
    assert {"model.safetensors", "kit.json", "flap.safetensors"} <= set(names)
    assert not [n for n in names if n.endswith((".pkl", ".pickle", ".bin", ".pt"))]


def test_a_kit_by_its_alias_is_the_one_that_was_registered(registered, tmp_path):
    _, version, predictor = registered
    uri = f"models:/{tracking.KIT_NAME}@champion"
    found = kit_at(uri)
    assert content_digest(found.path) == content_digest("kit")
    assert found.predictor.plan(0.3) == predictor.plan(0.3)
    at = tracking.predictor_path(f"models:/{tracking.KIT_NAME}/{version}")
    assert Predictor.from_pretrained(at).plan(0.3) == predictor.plan(0.3)


def test_what_an_older_lop_registered_is_read_or_refused_with_the_way_out(registered):
    mlflow, _, predictor = registered
    code = Path("old.py")
    code.write_text("import mlflow\nmlflow.models.set_model(mlflow.pyfunc.PythonModel())\n")
    artifacts, name = {"predictor": "kit/predictor"}, "lop-predictor"
    with mlflow.start_run():
        mlflow.pyfunc.log_model(
            name="predictor", python_model=str(code), artifacts=artifacts,
            pip_requirements=["lop"], registered_model_name=name,
        )  # fmt: skip
    at = tracking.predictor_path(f"models:/{name}/1")
    assert Predictor.from_pretrained(at).plan(0.3) == predictor.plan(0.3)
    with pytest.raises(LopError, match="not a kit: give it as --predictor, with its --scores"):
        kit_at(f"models:/{name}/1")


def test_the_run_holds_params_curve_and_tags(registered):
    mlflow, _, _ = registered
    (run,) = runs(mlflow, "train")
    assert run.data.params == {"lr": "0.001"}
    assert run.data.metrics == {"mse": 0.25, "final": 0.25}
    assert run.data.tags["samples"] == "abc"
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "mse")
    assert [(m.step, m.value) for m in history] == [(0, 0.5), (1, 0.25)]


def test_each_search_is_logged_once_with_its_steps(registered):
    mlflow, _, _ = registered
    samples = pd.DataFrame({"simulation": [0, 1], "reward": [-2.0, -1.0], "seconds": [0.5, 1.0]})
    samples = samples.assign(searcher="mcts", share=1.0, target=0.3, seed=0, fingerprint="f0")
    more = pd.concat([samples, samples.assign(seed=1, fingerprint="f1", reward=[-1.0, -2.0])])
    mcts = {"mcts": {"simulations": 2}}
    for table in (samples, more, more):
        tracking.searches(table, {"score": "flap"}, mcts, {"git_commit": "abc"})
    logged = runs(mlflow, "search")  # the newest comes first
    second, first = (run for run in logged if "fingerprint" in run.data.tags)
    stages = {run.info.run_id for run in logged if "fingerprint" not in run.data.tags}
    assert len(stages) == 3
    assert {run.data.tags["mlflow.parentRunId"] for run in (first, second)} <= stages
    assert first.info.run_name == "search mcts 0.3 seed 0"
    assert first.data.params == {
        "score": "flap",
        "simulations": "2",
        "searcher": "mcts",
        "target": "0.3",
        "seed": "0",
    }
    assert second.data.tags.items() >= {"fingerprint": "f1", "git_commit": "abc"}.items()
    assert second.data.metrics == {
        "reward": -2.0,
        "best_reward": -1.0,
        "simulations_per_second": 2.0,
    }
    history = mlflow.MlflowClient().get_metric_history(first.info.run_id, "best_reward")
    assert [(m.step, m.value) for m in history] == [(0, -2.0), (1, -1.0)]


def test_a_missing_server_costs_a_warning_not_the_stage(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/no/such/place.db")
    monkeypatch.setenv(tracking.QUEUE, str(tmp_path / "queue"))
    with (
        pytest.warns(UserWarning, match="cannot log to MLflow"),
        tracking.run("train", {"a": 1}, {}) as run,
    ):
        run.metrics({"x": 1.0})
        (tmp_path / "result").write_text(json.dumps("kept"))
    assert not run.active
    searched = {"simulation": 0, "reward": -1.0, "seconds": 1.0, "target": 0.3, "seed": 0}
    searched["share"] = 1.0
    table = pd.DataFrame({"fingerprint": ["a", "b"], "searcher": "mcts", **searched})
    with pytest.warns(UserWarning, match="cannot log to MLflow") as warned:
        tracking.searches(table, {}, {"mcts": {}}, {})
    assert len(warned) == 1, "said once, not once a search"
    assert (tmp_path / "result").exists()
    assert len(list((tmp_path / "queue").iterdir())) == 1 + 3


def test_what_failed_halfway_goes_on_in_the_same_runs(registered, tmp_path, monkeypatch):
    mlflow, _, _ = registered
    there = os.environ["MLFLOW_TRACKING_URI"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/no/such/place.db")
    monkeypatch.setenv(tracking.QUEUE, str(tmp_path / "queue"))
    with (
        pytest.warns(UserWarning, match="cannot log to MLflow"),
        tracking.run("halfway", {"a": 1}, {}) as run,
        run.child("inside", {"b": 2}, {"stage": "inside"}) as child,
    ):
        child.metrics({"x": 1.0})
        child.artifact("kit")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", there)
    calls = dict(queue.CALLS)

    def fail(*values):
        raise RuntimeError("no more room")

    monkeypatch.setattr(queue, "CALLS", calls | {"artifact": fail})
    for _ in range(2):
        with pytest.raises(LopError, match="cannot log it to .*: no more room"):
            tracking.replay()
    monkeypatch.setattr(queue, "CALLS", calls)
    assert tracking.replay() == 1, "the parent run was logged completely before"
    (outer,), (inner,) = runs(mlflow, "halfway"), runs(mlflow, "inside")
    assert inner.data.tags["mlflow.parentRunId"] == outer.info.run_id
    assert (inner.data.params, inner.data.metrics) == ({"b": "2"}, {"x": 1.0})
    assert inner.info.status == "FINISHED"
    assert len(mlflow.MlflowClient().get_metric_history(inner.info.run_id, "x")) == 1
    assert mlflow.artifacts.list_artifacts(run_id=inner.info.run_id)
