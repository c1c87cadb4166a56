"""The pipeline flow on a small graph of its own, with a real Prefect server and a real MLflow."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import yaml

from flows.server import prefect_server

ROOT = Path(__file__).parents[2]

STAGE = """
import errno, signal, sys, time
from pathlib import Path
import yaml
from prefect import flow
from flows.common import run_stage
from lop.errors import LopError

name = sys.argv[1]
knobs = yaml.safe_load(Path("params.yaml").read_text())[name]

@flow(name=name)
def work():
    print("value", knobs["value"], flush=True)
    if knobs.get("fail"):
        raise LopError(f"{name} was given {knobs['value']}, expected something else")
    if knobs.get("crash") and not Path("crashed").exists():
        Path("crashed").touch()
        raise OSError(errno.EIO, "the disk hiccuped")
    if knobs.get("deaf"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    Path(f"{name}.started").touch()
    time.sleep(knobs.get("seconds", 0))
    Path(f"{name}.txt").write_text(str(knobs["value"]))

if name == "first":
    work.fn()
else:
    run_stage(work)
"""

STAGES = {
    "stages": {
        "last": {
            "cmd": "python stage.py last",
            "deps": ["first.txt", "stage.py"],
            "params": ["last"],
            "outs": ["last.txt"],
        },
        "first": {
            "cmd": "python stage.py first",
            "deps": ["stage.py"],
            "params": ["first"],
            "outs": ["first.txt"],
        },
    }
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    home = str(tmp_path_factory.mktemp("prefect"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", home)
        patch.delenv("PREFECT_API_URL", raising=False)
        with prefect_server() as url:
            yield url


@pytest.fixture
def repo(tmp_path, server, monkeypatch):
    """A repository with two stages, of which the first in the file is the second to run.

    On a fresh machine: git knows nobody, and the path is not plain ASCII.
    """
    place = tmp_path / "über repo"
    place.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    (place / "stage.py").write_text(STAGE)
    (place / "dvc.yaml").write_text(yaml.safe_dump(STAGES, sort_keys=False))
    (place / ".gitignore").write_text("mlflow.db*\nmlruns/\n.lop/\ncrashed\n*.started\n")
    set_params(place, first={"value": 1}, last={"value": 2})
    for command in (
        ["git", "init", "-q"],
        [sys.executable, "-m", "dvc", "init", "-q"],
        [sys.executable, "-m", "dvc", "config", "core.analytics", "false"],
    ):
        subprocess.run(command, cwd=place, check=True)
    commit(place, "begin")
    return place


def commit(place, message):
    somebody = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.com"]
    subprocess.run(["git", "add", "-A"], cwd=place, check=True)
    subprocess.run(["git", *somebody, "commit", "-qm", message], cwd=place, check=True)


def set_params(place, **sections):
    path = place / "params.yaml"
    values = yaml.safe_load(path.read_text()) if path.exists() else {}
    for name, section in sections.items():
        values[name] = values.get(name, {}) | section
    path.write_text(yaml.safe_dump(values))


def environment(server):
    env = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "DVC_ROOT")}
    return env | {"PREFECT_API_URL": server, "PYTHONPATH": str(ROOT)}


def run(place, server, *args):
    command = [sys.executable, "-m", "flows.pipeline", *args]
    return subprocess.run(
        command, cwd=place, env=environment(server), capture_output=True, text=True
    )


def ask(server, what, **body):
    return httpx.post(f"{server}/{what}/filter", json=body).raise_for_status().json()


def last_run(server):
    """The newest run of the flow `pipeline`, and its tasks' runs by name."""
    (flow,) = ask(
        server, "flow_runs", flows={"name": {"any_": ["pipeline"]}}, limit=1,
        sort="EXPECTED_START_TIME_DESC",
    )  # fmt: skip
    tasks = ask(server, "task_runs", flow_runs={"id": {"any_": [flow["id"]]}})
    return flow, {task["name"]: task for task in tasks}


def logs(server, task):
    found = ask(server, "logs", logs={"task_run_id": {"any_": [task["id"]]}})
    return [log["message"] for log in found]


def test_each_stage_is_a_task_with_state_log_child_and_outputs(repo, server):
    done = run(repo, server)
    assert done.returncode == 0, done.stdout + done.stderr
    flow, tasks = last_run(server)
    assert flow["state_name"] == "Completed"
    assert tasks["first"]["state_name"] == tasks["last"]["state_name"] == "Completed"
    assert tasks["first"]["end_time"] <= tasks["last"]["start_time"], "the graph's order"
    assert "value 1" in logs(server, tasks["first"])
    (child,) = ask(server, "flow_runs", flows={"name": {"any_": ["last"]}})
    assert child["parent_task_run_id"] == tasks["last"]["id"]
    keys = {a["key"] for a in ask(server, "artifacts")}
    assert keys == {"first-outputs", "last-outputs"}

    done = run(repo, server)
    assert done.returncode == 0, done.stdout + done.stderr
    _, tasks = last_run(server)
    assert {task["state_name"] for task in tasks.values()} == {"Cached"}


def test_a_failed_stage_fails_the_run_with_its_own_line(repo, server):
    set_params(repo, last={"value": 3, "fail": True})
    done = run(repo, server)
    line = "last was given 3, expected something else"
    assert done.returncode == 2, done.stdout
    assert done.stderr.strip() == f"lop: {line}"
    flow, tasks = last_run(server)
    assert tasks["first"]["state_name"] == "Completed"
    assert (flow["state_type"], tasks["last"]["state_type"]) == ("FAILED", "FAILED")
    assert line in flow["state"]["message"]
    assert tasks["last"]["run_count"] == 1, "bad input is not tried again"

    set_params(repo, last={"value": 4, "fail": False, "crash": True})
    assert run(repo, server).returncode == 0
    _, tasks = last_run(server)
    assert tasks["last"]["run_count"] == 2, "what may have been bad luck is"
    assert tasks["last"]["state_name"] == "Completed"
    assert tasks["first"]["state_name"] == "Cached"


@pytest.mark.parametrize("deaf", [False, True])
def test_a_cancelled_run_leaves_no_lock(repo, server, deaf):
    """Nor when its stage is in the middle of something and hears no interrupt."""
    set_params(repo, last={"value": 5, "seconds": 600, "deaf": deaf})
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.pipeline"], cwd=repo, env=environment(server)
    )
    while not (repo / "last.started").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    flow, _ = last_run(server)
    assert flow["state_type"] in ("CRASHED", "CANCELLED")
    assert not any(yaml.safe_load((repo / ".dvc/tmp/rwlock").read_text()).values())
    set_params(repo, last={"value": 5, "seconds": 0})
    again = subprocess.run(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=repo, env=environment(server), capture_output=True, text=True,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert (repo / "last.txt").read_text() == "5"


def test_overrides_touch_nothing_here_and_end_in_an_experiment(repo, server):
    assert run(repo, server).returncode == 0
    commit(repo, "made")
    same = run(repo, server, "-S", "last.value=2")
    assert same.returncode == 0, same.stdout + same.stderr
    _, tasks = last_run(server)
    assert {task["state_name"] for task in tasks.values()} == {"Cached"}, "the cache is shared"
    (repo / "stage.py").write_text(STAGE + "\n# changed, not committed\n")
    kinds = (".py", ".yaml", ".txt", ".lock")
    before = {p: p.read_bytes() for p in repo.iterdir() if p.suffix in kinds}
    done = run(repo, server, "-S", "last.value=9")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {p: p.read_bytes() for p in before} == before
    _, tasks = last_run(server)
    assert tasks["last"]["state_name"] == "Completed"
    shown = subprocess.run(
        [sys.executable, "-m", "dvc", "exp", "show", "--json"],
        cwd=repo, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert '"value": 9' in shown
    assert not list((repo / ".dvc/tmp/lop").iterdir()), "the copy is gone"
    done = run(repo, server, "-S", "nothing.like.it=9")
    assert done.returncode == 2
    assert done.stderr.startswith("lop: params.yaml: cannot set nothing.like.it=9")
