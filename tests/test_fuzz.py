"""A small fuzz campaign, and what holds of the campaign itself."""

import os
import re
import subprocess
import sys
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import fuzz
from benchmarks.reliability import cases, options, page
from benchmarks.reliability.sandbox import Ended

CASES = 36
LINE = "lop: model: no such directory\n"


def test_a_small_campaign_finds_no_fault():
    command = [sys.executable, "-m", "benchmarks.fuzz", "--cases", str(CASES), "--seed", "7"]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.endswith(f"{CASES} cases, 0 faults\n")


def test_every_option_and_file_is_a_target():
    commands = {target.command for target in cases.targets()}
    assert commands == {*options.parsers(), cases.PARAMS}
    known = {str(target) for target in cases.targets()}
    assert {"prune --ratio", "diff A", "serve --poll", "train data/search/index.json"} <= known


def test_the_same_seed_gives_the_same_cases_and_another_seed_others():
    few, many = (list(islice(cases.cases(3), count)) for count in (6, 12))
    assert many[:6] == few
    assert list(islice(cases.cases(4), 6)) != few


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(options.RATIOS)), st.floats())
def test_a_ratio_is_nonsense_unless_it_is_in_0_1(dest, value):
    assert options.is_nonsense(dest, str(value)) == (not 0 <= value < 1)


CASE = cases.Case(0, cases.Target("prune", "--model", False), "path", ("prune",))


@pytest.mark.parametrize(
    ("ended", "refuse", "outcome"),
    [
        (Ended(0, 1, "done\n", ""), False, fuzz.ACCEPTED),
        (Ended(0, 1, "done\n", ""), True, "nonsense accepted"),
        (Ended(2, 1, "", LINE), True, fuzz.REFUSED),
        (Ended(2, 1, "", LINE), False, fuzz.REFUSED),
        (Ended(2, 1, "", ""), True, "not one line"),
        (Ended(2, 1, "", "usage: lop\n" + LINE), True, "not one line"),
        (Ended(2, 1, "", "lop prune: error: x\n"), True, "not one line"),
        (Ended(1, 1, "", LINE), True, "exit code 1"),
        (Ended(-11, 1, "", ""), True, "exit code -11"),
        (Ended(1, 1, "", "Traceback (most recent call last):\nKeyError: 1"), True, "traceback"),
        (Ended(1, 1, "", "MemoryError"), True, "out of memory"),
        (Ended(-9, 60, "", "", late=True), True, "hang"),
    ],
)
def test_what_counts_as_a_fault(ended, refuse, outcome):
    assert fuzz.judged(CASE, ended, refuse) == outcome


def test_the_page_counts_and_lists(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "PAGE", tmp_path / "reliability.md")
    good = fuzz.Result(CASE, "path", fuzz.REFUSED, LINE)
    bad = fuzz.Result(CASE, "a | b", "traceback", "KeyError: 1")
    page.write_section("Kills", "old")
    page.write_section("Malformed inputs", fuzz.page([good, bad], seed=5))
    page.write_section("Kills", "new")
    text = (tmp_path / "reliability.md").read_text()
    assert [*re.findall("^## (.+)", text, re.MULTILINE)] == ["Malformed inputs", "Kills"]
    assert "2 cases: 0 accepted, 1 refused in one line with exit code 2, 1 faults." in text
    assert "| 0 | traceback | `prune` | a \\| b | KeyError: 1 |" in text
    assert text.endswith("## Kills\n\nnew\n")
