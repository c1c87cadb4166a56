"""A small kill campaign, and what holds of the campaign itself."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import kills
from benchmarks.reliability import scenarios, states, watch
from benchmarks.reliability.sandbox import Running

QUICK = ["prune, over another", "search", "train, over another"]
OLD, NEW = {"out/a": "1"}, {"out/a": "2", "out/b": "3"}


def test_a_few_kills_cost_nothing():
    command = [sys.executable, "-m", "benchmarks.kills", "--count", "6", "--seed", "7"]
    command += ["--scenarios", *QUICK]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.endswith("6 kills, 0 with faults\n")


@pytest.mark.parametrize(
    ("state", "grows", "found"),
    [
        ({}, False, "gone"),
        (OLD, False, "old"),
        (NEW, False, "new"),
        ({"out/a": "2"}, False, "broken"),
        ({"out/a": "2"}, True, "part"),
        ({"out/a": "x"}, True, "broken"),
        ({"out/b": "3"}, True, "gone"),
        (NEW, True, "new"),
    ],
)
def test_what_may_lie_under_a_name(state, grows, found):
    scenario = scenarios.Scenario("a", ("prune",), grows=grows)
    assert kills.found(state, kills.Measured(scenario, Path(), OLD, NEW, 1.0)) == found


def test_nothing_yet_is_whole_where_nothing_was():
    scenario = scenarios.Scenario("a", ("prune",))
    assert kills.found({}, kills.Measured(scenario, Path(), {}, NEW, 1.0)) == "nothing"


def test_others_files_and_leftovers_are_seen(tmp_path):
    watch.put_bystanders(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("1")
    before = watch.listing(tmp_path)
    (tmp_path / ".env.local").unlink()
    (tmp_path / "out" / "old").write_text("22")
    (tmp_path / "out" / ".half.x1").write_text("")
    (tmp_path / ".out.x2").mkdir()
    after = watch.listing(tmp_path)
    assert watch.touched(before, after, ["out"]) == [".env.local"]
    assert watch.touched(before, after) == [".env.local", "out/old"]
    assert watch.leftovers(before, tmp_path) == [".out.x2", "out/.half.x1"]


def test_processes_that_stay_are_found_and_ended(tmp_path):
    def start_another():
        subprocess.Popen(["sleep", "600"])
        return 0

    running = Running.start(tmp_path, start_another, tmp_path / "log")
    assert running.wait(20).code == 0
    (left,) = running.family()
    running.end_family()
    end = time.monotonic() + 20
    while running.family() and time.monotonic() < end:
        time.sleep(0.01)
    assert running.family() == []
    assert running.pid != left


def test_times_do_not_count_and_broken_files_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = []
    for text in ('{"seconds": 1, "a": 2}', '{"a": 2, "seconds": 9}', '{"a": 3}', '{"a"'):
        Path("x.json").write_text(text)
        states.print_state(["x.json"])
        found.append(capsys.readouterr().out)
    assert found[0] == found[1] != found[2]
    assert "broken" in found[3]
