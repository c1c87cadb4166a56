"""Tasks of a real Prefect flow: retried when they fail, and the same on a cluster as in turn."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from prefect import flow
from prefect.testing.utilities import prefect_test_harness

from flows.tasks import RETRIES, Place, as_tasks
from lop.data.samples import write_samples
from lop.errors import LopError, explained
from lop.predictor.training import one_thread
from lop.search import read_search
from lop.steps import scoring, searching

ROOT = Path(__file__).parents[2]
IMPORTS = [
    "lop.steps.searching",
    "flows.tasks",
    "prefect.testing.utilities",
]  # what this module needs


def called(folder: Path, name: str) -> int:
    return len(list(folder.glob(f"{name}.*")))


def work(folder: Path, name: str) -> str:
    (folder / f"{name}.{called(folder, name)}").touch()
    first = called(folder, name) == 1
    if name == "killed" and first:
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "unlucky" and first:
        raise OSError("the disk hiccuped")
    if name == "hopeless":
        raise OSError("the disk is gone")
    if name == "wrong":
        raise LopError("bad input")
    return name


@pytest.fixture(scope="module")
def server():
    with prefect_test_harness(server_startup_timeout=90):
        yield


def test_tasks_are_retried_and_the_rest_is_kept(server, tmp_path):
    place = Place("processes", workers=2)

    def run(*names):
        keys = [(tmp_path, name) for name in names]
        fan_out = flow(lambda: as_tasks(place, IMPORTS)(work, keys), name="fan-out")
        return fan_out.with_options(task_runner=place.task_runner())()

    assert run("killed", "unlucky", "fine") == ["killed", "unlucky", "fine"]
    assert [called(tmp_path, n) for n in ("killed", "unlucky", "fine")] == [2, 2, 1]
    with pytest.raises(OSError, match="the disk is gone"):
        run("hopeless", "late", "later")
    assert called(tmp_path, "hopeless") == 1 + RETRIES
    assert called(tmp_path, "late") == called(tmp_path, "later") == 1, "the rest is done"
    with pytest.raises(LopError, match="bad input"):
        run("wrong")
    assert called(tmp_path, "wrong") == 1, "what cannot succeed is not tried again"


def test_two_dask_workers_find_what_one_process_finds(model_dir, samples, tmp_path):
    pytest.importorskip("prefect_dask")
    data = tmp_path / "data"
    reward = data / "samples" / "reward.parquet"
    write_samples(samples, reward)
    scoring.importance(data / "importance", str(model_dir), reward, batch_size=12)
    grid = {"score": "flap", "targets": [0.2, 0.5], "seeds": [0, 1], "settings": {"simulations": 8}}
    grid["spacing"] = 0.15
    on_dask = {"runner": "dask", "workers": 2, "address": None}
    more = {"start": "uniform", "compensate": False, "reward": "loglik"}
    params = {"model": {"path": str(model_dir)}, "search": grid | on_dask | more}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    home = {"PREFECT_HOME": str(tmp_path / ".prefect"), "PYTHONPATH": str(ROOT)}
    env = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | home
    stage = [sys.executable, "-m", "flows.search"]
    done = subprocess.run(stage, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with one_thread():
        searching.search(tmp_path / "serial", str(model_dir), reward, data / "importance", **grid)
    found, expected = read_search(data / "search"), read_search(tmp_path / "serial")
    assert found.groupby(["target", "seed"]).ngroups == 4 + 1  # what was found, judged between
    pd.testing.assert_frame_equal(found.drop(columns="seconds"), expected.drop(columns="seconds"))
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("select count(*) from runs").fetchone() == (
            1 + found["fingerprint"].nunique(),
        )


def test_a_runner_is_what_params_say(monkeypatch):
    assert Place("threads", 3).task_runner()._max_workers == 3
    pytest.importorskip("prefect_dask")
    assert Place("dask", 2).task_runner().cluster_kwargs["n_workers"] == 2
    assert Place("dask", 2, "tcp://somewhere:8786").task_runner().address == "tcp://somewhere:8786"
    monkeypatch.setitem(sys.modules, "prefect_ray", None)
    with pytest.raises(ModuleNotFoundError) as error:
        Place("ray").task_runner()
    assert "pip install 'lop[ray]'" in str(explained(error.value))
