"""The real thing, small: `dvc repro` in a temporary clone, killed, resumed and repeated."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COPIED = ["dvc.yaml", "params.yaml", "flows", "lop", "data/reference", ".dvc/config", ".dvcignore"]


def sh(clone, *command, check=True):
    run = subprocess.run(command, cwd=clone, env=clone_env(clone), capture_output=True, text=True)
    assert not check or run.returncode == 0, run.stdout + run.stderr
    return run


def clone_env(clone):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    home = {"PREFECT_HOME": str(clone / ".prefect"), "PATH": path, "PYTHONPATH": str(clone)}
    return {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | home


def set_params(clone, section, **values):
    params = yaml.safe_load((clone / "params.yaml").read_text())
    params[section] |= values
    (clone / "params.yaml").write_text(yaml.safe_dump(params))


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    clone = tmp_path_factory.mktemp("clone")
    for name in COPIED:
        target = clone / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target)
    sh(clone, "git", "init", "-q")
    set_params(clone, "prepare", calibration=20, reward=20, validation=20, benchmark=40)
    settings = yaml.safe_load((clone / "params.yaml").read_text())["search"]["settings"]
    small = {"targets": [0.2, 0.5], "settings": settings | {"simulations": 4}, "workers": 1}
    set_params(clone, "search", **small)
    set_params(clone, "prune", ratios=[0.3], methods=["lop", "flap"])
    set_params(clone, "evaluate", tasks=["lop_vqa"], workers=1, latency_samples=2)
    server = [sys.executable, "-m", "flows.server"]
    sh(clone, *server, "dvc", "repro")
    return clone


def test_repro_goes_from_samples_to_a_report(clone):
    report = (clone / "data" / "report" / "report.md").read_text()
    assert "| 30 % |" in report
    assert "40 benchmark questions" in report
    for picture in ("accuracy", "plans", "search", "times"):
        assert (clone / "data" / "report" / f"{picture}.png").stat().st_size > 5000
    metrics = json.loads(sh(clone, "dvc", "metrics", "show", "--json").stdout)
    assert metrics[""]["data"]["data/report.json"]["data"]["predict_ms"] > 0
    shown = json.loads(sh(clone, "dvc", "plots", "show", "--json").stdout)
    assert shown["data"].keys() == {"accuracy", "search", "predictor"}
    assert "errors" not in shown


def test_a_second_repro_does_nothing(clone):
    assert "Data and pipelines are up to date" in sh(clone, "dvc", "repro").stdout


def test_new_ratios_leave_search_and_train_alone(clone):
    set_params(clone, "prune", ratios=[0.3, 0.4])
    status = json.loads(sh(clone, "dvc", "status", "--json").stdout)
    assert "prune" in status
    assert not {"prepare", "importance", "search", "train"} & status.keys()


def test_a_killed_search_keeps_its_finished_shards(clone):
    """SIGKILL after the first of three new shards; the next run pays for the missing ones only."""
    search = clone / "data" / "search"
    old = {p.name for p in search.glob("mcts-*.parquet")}
    set_params(clone, "search", seeds=[7, 8, 9], targets=[0.3])
    command = [sys.executable, "-m", "flows.search"]
    run = subprocess.Popen(command, cwd=clone, env=clone_env(clone), start_new_session=True)
    while not (new := {p.name for p in search.glob("mcts-*.parquet")} - old):
        assert run.poll() is None
        time.sleep(0.02)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    done = {name: (search / name).stat().st_mtime_ns for name in new}
    sh(clone, *command)
    assert all((search / name).stat().st_mtime_ns == t for name, t in done.items())
    shards = json.loads((search / "index.json").read_text())
    assert len(shards) == 3
    assert new <= set(shards)
    assert not list(search.glob(".*.*")), "a killed run's half-written files are cleared away"


def test_a_stage_fails_with_one_line(clone):
    set_params(clone, "search", targets=[0.97])
    run = sh(clone, sys.executable, "-m", "flows.search", check=False)
    assert run.returncode == 2
    assert run.stderr.strip().startswith("lop: pruning ratio 0.97 cannot be met")
    assert "\n" not in run.stderr.strip()
