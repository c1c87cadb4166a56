"""Checkpoints over HTTP, real pruning jobs included."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from service import refused, serving

from lop.models.checkpoint import load
from lop.models.space import find_space
from lop.models.stored import Stored
from lop.serving.jobs import Job, Jobs, Limits, Refused
from lop.steps.pruning import Cutter

pytest_plugins = ["service"]


def test_a_checkpoint_is_cut_found_again_and_removed(made, tmp_path):
    out = tmp_path / "out"
    with serving(made, out) as client:
        _, plan = client.ask("POST", "/plans", {"ratio": 0.37})
        status, job = client.ask("POST", "/checkpoints", {"ratio": 0.37, "name": "small"})
        assert (status, job["id"]) == (202, "small")
        assert job["state"] in ("queued", "running")
        assert "already exists" in refused(
            client.ask("POST", "/checkpoints", {"ratio": 0.3, "name": "small"}), 409
        )
        job = client.finished("small")
        assert (job["state"], job["error"]) == ("done", None)
        got = tmp_path / "got"
        got.mkdir()
        for file in job["files"]:
            status, content = client.ask("GET", f"/checkpoints/small/files/{file['name']}")
            assert (status, len(content)) == (200, file["bytes"])
            (got / file["name"]).write_bytes(content)
        assert list(find_space(load(got)).units) == plan["kept"]
        assert json.loads((got / "pruning.json").read_text())["parameters"] == plan["parameters"]
        assert {k: job[k] for k in ("parameters", "reduction")} == (
            {k: plan[k] for k in ("parameters", "reduction")}
        )
    with serving(made, out) as client:
        assert client.ask("GET", "/checkpoints/small") == (200, job)
        assert client.ask("DELETE", "/checkpoints/small")[0] == 204
        refused(client.ask("GET", "/checkpoints/small"), 404)
    assert list((out / "checkpoints").iterdir()) == list((out / "jobs").iterdir()) == []


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_the_documented_commands_work(made, tmp_path):
    page = Path("docs/serving.md").read_text()
    commands = "".join(re.findall(r"```sh\n(.*?)```", page, re.S))
    commands = re.sub(r"^(pip|lop) .*\n", "", commands, flags=re.M)
    assert commands.count("curl") == 12
    model = Stored(made / "model")
    small = model.parameters - 40 * model.space().grain
    commands = commands.replace("1.8M", str(small))
    with serving(made, tmp_path / "out") as client:
        commands = commands.replace("localhost:8080", f"localhost:{client.port}")
        run = ["bash", "-euc", commands]
        said = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert said.returncode == 0, said
    assert "per_layer_config" in (tmp_path / "config.json").read_text()
    assert '"state":"done"' in said.stdout


def test_no_file_outside_a_checkpoint_is_given_out(made, tmp_path):
    out = tmp_path / "out"
    place = out / "checkpoints" / "mine"
    (place / "sub").mkdir(parents=True)
    (place / "pruning.json").write_text('{"ratio": 0.3}')
    (place / "sub" / "file").write_text("deeper")
    (tmp_path / "secret").write_text("secret")
    (place / "link").symlink_to(tmp_path / "secret")
    (out / "checkpoints" / "elsewhere").symlink_to(made / "model")
    with serving(made, out) as client:
        _, job = client.ask("GET", "/checkpoints/mine")
        assert (job["state"], [f["name"] for f in job["files"]]) == ("done", ["pruning.json"])
        for name in ("link", "sub", "..", "../../jobs", "%2e%2e%2f.lock", "sub%2ffile", "%00"):
            refused(client.ask("GET", f"/checkpoints/mine/files/{name}"), 404)
        refused(client.ask("GET", "/checkpoints/elsewhere"), 404)
        refused(client.ask("POST", "/checkpoints", {"ratio": 0.3, "name": "elsewhere"}), 409)
    assert (made / "model" / "config.json").exists()


def test_a_failed_job_says_why_and_may_be_asked_for_again(made, tmp_path):
    scores = tmp_path / "scores"
    scores.mkdir()
    (scores / "flap.safetensors").symlink_to(made / "scores" / "flap.safetensors")
    with serving(made, tmp_path / "out", scores=scores) as client:  # the other scores are missing
        for _ in range(2):
            assert client.ask("POST", "/checkpoints", {"ratio": 0.3, "name": "x"})[0] == 202
            job = client.finished("x")
            assert (job["state"], job["files"]) == ("failed", [])
            assert "cannot read scores" in job["error"]
            assert job["error"].isprintable()
    assert list((tmp_path / "out" / "checkpoints").iterdir()) == []


class Held(Jobs):
    """Jobs that last until they are let go."""

    def __init__(self, *args):
        self.go = threading.Event()
        super().__init__(*args)

    def _cut(self, job, cutter):
        self.go.wait()


def test_no_more_is_taken_on_than_the_limits_say(tmp_path):
    jobs = Held(tmp_path, lambda: (None, "1"), Limits(workers=1, queue=2, keep=4))
    try:
        jobs.submit("a", 0.3)
        while jobs.get("a").state == "queued":
            time.sleep(0.01)
        jobs.submit("b", 0.3)
        jobs.submit("c", 0.3)
        with pytest.raises(Refused, match="2 jobs are waiting") as told:
            jobs.submit("d", 0.3)
        assert told.value.status == 429
        jobs.delete("b")
        jobs.submit("d", 0.3)
        jobs.delete("c")
        jobs.go.set()
        while jobs.count("done") < 2:
            time.sleep(0.01)
        for name in ("e", "f"):
            jobs.submit(name, 0.3)
        with pytest.raises(Refused, match="4 checkpoints are kept") as told:
            jobs.submit("g", 0.3)
        assert told.value.status == 507
    finally:
        jobs.go.set()
        jobs.close()


def test_what_was_not_done_is_begun_again(made, tmp_path):
    cutter = Cutter(str(made / "model"), made / "scores", "flap", False, made / "predictor")
    jobs = Jobs(tmp_path, lambda: (cutter, "1"))
    for name in ("first", "second"):
        jobs.submit(name, 0.3)
    jobs.close()
    ended = subprocess.run(
        [sys.executable, "-c", "from lop.files import owner; print(owner())"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    (tmp_path / "checkpoints" / f".lop-tmp-{ended}-01234567-").mkdir()
    (tmp_path / "checkpoints" / ".somebodys").mkdir()
    (tmp_path / "jobs" / "broken.json").write_text("{")
    again = Jobs(tmp_path, lambda: (cutter, "1"))
    try:
        end = time.monotonic() + 300
        while again.count("done") < 2:
            assert time.monotonic() < end, again.all()
            time.sleep(0.05)
        assert [job.name for job in again.all()] == ["first", "second"]
        names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
        assert names == [".somebodys", "first", "second"], "what others made is left alone"
    finally:
        again.close()


def test_a_running_job_can_be_stopped(made, tmp_path):
    with serving(made, tmp_path) as client:
        client.ask("POST", "/checkpoints", {"ratio": 0.3, "name": "x"})
        assert client.ask("DELETE", "/checkpoints/x")[0] == 204
        end = time.monotonic() + 60
        while client.ask("GET", "/checkpoints/x")[0] == 200 and time.monotonic() < end:
            time.sleep(0.05)
        assert client.ask("GET", "/checkpoints") == (200, {"checkpoints": []})
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_record_of_a_job_survives_being_read(tmp_path):
    jobs = Held(tmp_path, lambda: (None, "1"))
    try:
        jobs.go.set()
        jobs.submit("a", 0.25)
        while jobs.get("a").state != "done":
            time.sleep(0.01)
        record = json.loads((tmp_path / "jobs" / "a.json").read_text())
        assert Job(**record) == jobs.get("a")
    finally:
        jobs.close()


JOB = {"name": "odd", "ratio": 0.3, "state": "queued", "created": 1.0}


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "[]",
        "null",
        *(
            json.dumps(JOB | change)
            for change in (
                {"name": "../odd"},
                {"name": 3},
                {"name": "other"},
                {"ratio": float("nan")},
                {"ratio": "0.3"},
                {"ratio": 1.5},
                {"ratio": -0.1},
                {"ratio": None},
                {"state": "lost"},
                {"created": None},
                {"created": float("inf")},
                {"finished": "yesterday"},
                {"error": ["x"]},
            )
        ),
    ],
    ids=lambda text: text[:60],
)
def test_a_jobs_record_from_elsewhere_is_left_alone(tmp_path, text):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "odd.json").write_text(text)
    jobs = Held(tmp_path, lambda: (None, "1"))
    try:
        assert jobs.all() == []
    finally:
        jobs.go.set()
        jobs.close()


@pytest.mark.parametrize("text", ['{"ratio": NaN}', '{"ratio": "x"}', "[1]", "{", "[" * 100_000])
def test_a_checkpoint_from_elsewhere_is_found_whole_or_not_at_all(made, tmp_path, text):
    for name in ("odd", "whole"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "pruning.json").write_text('{"ratio": 0.3}')
    with serving(made, tmp_path) as client:
        (tmp_path / "checkpoints" / "odd" / "pruning.json").write_text(text)  # while it runs
        assert client.ask("GET", "/checkpoints/odd")[0] == 200
    (tmp_path / "jobs" / "pipe.json").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "jobs" / "fifo.json")
    with serving(made, tmp_path) as client:
        status, found = client.ask("GET", "/checkpoints")
        assert (status, [job["id"] for job in found["checkpoints"]]) == (200, ["whole"])
