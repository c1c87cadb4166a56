"""The line that says why a program failed, out of what programs really print."""

import subprocess

import pytest

from flows import git
from flows.reasons import reason
from flows.server import started
from lop.errors import LopError

DVC_STAGE = """\
Running stage 'train':
> python -m flows.train
lop: data/search: no index.json; expected search samples, run the search first
ERROR: failed to reproduce 'train': failed to run: python -m flows.train, exited with 2
"""
DVC_ITSELF = """\
ERROR: unexpected error - Git user name and email must be configured

Having any troubles? Hit us up at https://dvc.org/support, we are always happy to help!
"""
DVC_MISSING = """\
ERROR: failed to reproduce 'search': missing data 'source': data/samples/reward.parquet
"""
TRACEBACK = """\
Running stage 'prune':
> python -m flows.prune
Traceback (most recent call last):
  File "flows/prune.py", line 3, in <module>
    work()
OSError: [Errno 28] No space left on device
sys:1: ResourceWarning: unclosed file
ERROR: failed to reproduce 'prune': failed to run: python -m flows.prune, exited with 1
"""
FAILED = "lop failed, which may be a bug in lop: KeyError: 3"
GIT = """\
Cloning into 'copy'...
fatal: repository 'nowhere' does not exist
hint: look at the spelling
"""


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            DVC_STAGE,
            "lop: data/search: no index.json; expected search samples, run the search first",
        ),
        (DVC_ITSELF, "ERROR: unexpected error - Git user name and email must be configured"),
        (DVC_MISSING, DVC_MISSING.strip()),
        (TRACEBACK, "OSError: [Errno 28] No space left on device"),
        (GIT, "fatal: repository 'nowhere' does not exist"),
        ("lop failed, which may be a bug in lop: KeyError: 3\nERROR: failed to run", FAILED),
        ("out of memory\n\n", "out of memory"),
        ("", "it said nothing"),
    ],
)
def test_the_reason_is_the_error_and_not_the_last_line(said, line):
    assert reason(said) == line


def test_a_server_that_does_not_start_says_why():
    with (
        pytest.raises(
            LopError,
            match=r"`json.tool --nonsense` stopped while starting, exit code 2: .*error: ",
        ),
        started(["json.tool", "--nonsense"], "http://127.0.0.1:9/none"),
    ):
        pass


def test_experiments_are_committed_by_whom_git_knows_else_by_lop(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert set(git.identity(tmp_path).values()) == {"lop", "lop@localhost"}
    subprocess.run(["git", "config", "user.name", "Somebody"], cwd=tmp_path, check=True)
    known = git.identity(tmp_path)
    assert (known["GIT_AUTHOR_NAME"], known["GIT_COMMITTER_NAME"]) == ("Somebody", "Somebody")
    assert known["GIT_AUTHOR_EMAIL"] == "lop@localhost"
