"""The real thing, small: the pipeline in a temporary clone, killed, resumed and repeated."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

README = Path(__file__).parents[2] / "README.md"


def test_the_pipeline_goes_from_samples_to_a_report(clone):
    report = (clone.path / "data" / "report" / "report.md").read_text()
    assert "| 30 % |" in report
    assert "40 benchmark samples" in report
    for picture in ("accuracy", "plans", "search", "times"):
        assert (clone.path / "data" / "report" / f"{picture}.png").stat().st_size > 5000
    metrics = json.loads(clone.sh("dvc", "metrics", "show", "--json").stdout)
    assert metrics[""]["data"]["data/report.json"]["data"]["predict_ms"] > 0
    shown = json.loads(clone.sh("dvc", "plots", "show", "--json").stdout)
    assert shown["data"].keys() == {"accuracy", "search", "predictor"}
    assert "errors" not in shown


def test_lops_checkpoints_are_registered_and_baselines_are_runs(clone):
    api = f"{clone.mlflow}/api/2.0/mlflow"
    found = httpx.get(f"{api}/model-versions/search").json()["model_versions"]
    pruned = [one for one in found if one["name"] == "lop-pruned-reference"]
    methods = [tag["value"] for one in pruned for tag in one["tags"] if tag["key"] == "method"]
    assert sorted(methods) == ["lop", "lop_recovered"]
    named = httpx.get(f"{api}/experiments/get-by-name", params={"experiment_name": "lop"}).json()
    asked = {"experiment_ids": [named["experiment"]["experiment_id"]]}
    asked["filter"] = "tags.model = 'flap-0.3'"
    (run,) = httpx.post(f"{api}/runs/search", json=asked).json()["runs"]
    assert "accuracy" in {metric["key"] for metric in run["data"]["metrics"]}


def test_make_repro_then_does_nothing(clone):
    said = clone.sh("make", "-o", ".venv/.installed", "repro").stdout
    assert "Data and pipelines are up to date" in said


def test_the_readmes_commands_run_on_what_it_made(clone):
    shell = "".join(re.findall(r"```sh\n(.*?)```", README.read_text(), re.S)).replace("\\\n", " ")
    for line in re.findall("^lop .*", shell, re.M):
        clone.sh(*shlex.split(line))
    assert (clone.path / "small/pruning.json").exists()


def test_new_ratios_leave_search_and_train_alone(clone):
    clone.set_params("prune", ratios=[0.3, 0.4])
    status = json.loads(clone.sh("dvc", "status", "--json").stdout)
    assert "prune" in status
    assert not {"prepare", "importance", "search", "train"} & status.keys()


def test_a_killed_search_keeps_its_finished_shards(clone):
    """SIGKILL after the first of three new shards; the next run pays for the missing ones only."""
    search = clone.path / "data" / "search"
    old = {p.name for p in search.glob("surrogate-*.parquet")}
    clone.set_params("search", seeds=[7, 8, 9], targets=[0.3])
    command = [sys.executable, "-m", "flows.search"]
    run = subprocess.Popen(command, cwd=clone.path, env=clone.env, start_new_session=True)
    while not (new := {p.name for p in search.glob("surrogate-*.parquet")} - old):
        assert run.poll() is None
        time.sleep(0.02)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    done = {name: (search / name).stat().st_mtime_ns for name in new}
    clone.sh(*command)
    assert all((search / name).stat().st_mtime_ns == t for name, t in done.items())
    shards = json.loads((search / "index.json").read_text())
    assert sum(name.startswith("surrogate-") for name in shards) == 3
    assert new <= set(shards)
    assert not list(search.glob(".*.*")), "a killed run's half-written files are cleared away"


def test_a_stage_fails_with_one_line(clone):
    clone.set_params("search", targets=[0.97])
    run = clone.sh(sys.executable, "-m", "flows.search", check=False)
    assert run.returncode == 2
    assert run.stderr.strip().startswith("lop: pruning ratio 0.97 cannot be met")
    assert "\n" not in run.stderr.strip()
