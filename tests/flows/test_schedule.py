"""What runs by itself, for real: `make schedule` and its worker, and MLflow's server of plans."""

import json
import os
import re
import shlex
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import yaml
from clone import wait_for

from flows.server import free_port
from lop.predictor import Predictor

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


def line(begin):
    """The command of docs/operations.md that begins so, in words."""
    return shlex.split(re.search(rf"^{begin}.*", PAGE, re.M)[0])


@pytest.fixture(scope="module")
def worker(clone):
    """As after `make ui` in another terminal: told of Prefect, and of MLflow nothing."""
    env = {k: v for k, v in clone.env.items() if k != "MLFLOW_TRACKING_URI"}
    command = ["make", "-o", ".venv/.installed", "schedule"]
    with subprocess.Popen(command, cwd=clone.path, env=env, start_new_session=True) as made:
        pool = f"{clone.prefect}/api/work_pools/lop/workers/filter"
        wait_for(lambda: any(w["status"] == "ONLINE" for w in ask(pool)), "worker")
        yield
        os.killpg(made.pid, signal.SIGINT)


def ask(url, **body):
    answer = httpx.post(url, json=body, timeout=60)
    return answer.json() if answer.is_success else []


def processes_in(place):
    """The processes whose working folder is `place`: number and command."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # of another user, or gone
            if (process / "cwd").readlink() == place:
                found[process.name] = (process / "cmdline").read_text().replace("\0", " ")
    return found


def test_a_form_cuts_a_checkpoint(clone, worker):
    clone.sh(*line("prefect deployment run"), "--watch")
    assert (clone.path / "data/on-demand/reference-0.37/pruning.json").exists()


def test_a_run_cancelled_in_the_ui_leaves_the_repository_usable(clone, worker):
    clone.reset()
    api = f"{clone.prefect}/api"
    before = yaml.safe_load((clone.path / "params.yaml").read_text())["search"]
    long = {"targets": [0.4], "settings": before["settings"] | {"simulations": 100_000}}
    clone.set_params("search", **long)
    there = processes_in(clone.path)
    said = clone.sh("prefect", "deployment", "run", "pipeline/nightly").stdout
    run = f"{api}/flow_runs/" + re.search(r"UUID: (\S+)", said)[1]
    running = {"state": {"type": {"any_": ["RUNNING"]}}, "name": {"like_": "surrogate-"}}
    wait_for(lambda: ask(f"{api}/task_runs/filter", task_runs=running), "search")
    httpx.post(f"{run}/set_state", json={"state": {"type": "CANCELLING"}}).raise_for_status()
    wait_for(lambda: httpx.get(run).json()["state_type"] == "CANCELLED", "end of the run")
    wait_for(lambda: processes_in(clone.path).keys() <= there.keys(), "end of its processes")
    assert not any(yaml.safe_load((clone.path / ".dvc/tmp/rwlock").read_text()).values())
    clone.set_params("search", **before)
    assert "up to date" in clone.sh("dvc", "repro").stdout


def test_mlflow_serves_the_champion(clone):
    port = free_port()
    command = [word if word != "5001" else str(port) for word in line("mlflow models serve")]
    asked = re.search(r'`(\{"dataframe_split".*?\})` to `(.*?)`', PAGE)
    with subprocess.Popen(command, cwd=clone.path, env=clone.env, start_new_session=True) as made:
        try:
            wait_for(lambda: answers(f"http://127.0.0.1:{port}/ping"), "server")
            body = json.loads(asked[1])
            said = httpx.post(f"http://127.0.0.1:{port}{asked[2]}", json=body, timeout=60).json()
        finally:
            os.killpg(made.pid, signal.SIGTERM)
    (plan,) = said["predictions"]
    predictor = Predictor.from_pretrained(clone.path / "data/predictor")
    assert tuple(plan["kept"]) == predictor.plan(0.37).kept


def answers(url):
    with suppress(httpx.TransportError):
        return httpx.get(url).is_success
