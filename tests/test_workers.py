"""Real processes that die: each costs the call it was at, and nothing else."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lop.errors import LopError
from lop.workers import TRIES, in_processes, processes


def count(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def note(log: Path) -> int:
    with log.open("a") as file:
        file.write(".")
    return count(log)


def dies(log: Path, times: int) -> int:
    if note(log) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def outlives(log: Path, other: Path) -> int:
    note(log)
    while count(other) < 2:
        time.sleep(0.02)
    return os.getpid()


@pytest.mark.parametrize("fresh", [False, True])
def test_a_dead_worker_costs_its_call_and_no_other(tmp_path, fresh):
    bad, good = tmp_path / "bad", tmp_path / "good"
    with processes(2, ["torch"], fresh) as run, ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(run, outlives, good, bad), threads.submit(run, dies, bad, 1)]
        pids = {call.result(timeout=120) for call in calls}
        pids.add(run(os.getpid))
    assert count(bad) == 2, "died once, called again"
    assert count(good) == 1, "never interrupted"
    assert os.getpid() not in pids
    assert len(pids) == (3 if fresh else 2)


def test_work_that_always_kills_its_worker_is_given_up(tmp_path):
    log = tmp_path / "log"
    each = in_processes(1, "calls", ["torch"], fresh=True)
    with pytest.raises(LopError, match=f"a worker process died {TRIES} times"):
        each(dies, [(log, 99)])
    assert count(log) == TRIES


def threads() -> int:
    import torch

    return torch.get_num_threads()


def test_workers_share_the_threads_that_torch_would_have():
    code = "from test_workers import *; print(*in_processes(2, '', ['torch'])(threads, [(), ()]))"
    for alone, each in (("8", "4 4"), ("1", "1 1")):
        told = os.environ | {"OMP_NUM_THREADS": alone, "PYTHONPATH": str(Path(__file__).parent)}
        run = subprocess.run([sys.executable, "-c", code], env=told, capture_output=True, text=True)
        assert run.stdout.strip() == each, run.stderr


def sees(seconds: float = 0.5) -> tuple[int, str]:
    time.sleep(seconds)  # so that each worker gets a call
    return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES", "all")


@pytest.mark.parametrize(
    ("there", "shown", "workers", "expected"),
    [
        (2, None, 4, {"0", "1"}),  # never two models on one GPU
        (8, None, 2, {"0,1,2,3", "4,5,6,7"}),
        (3, None, 2, {"0", "1,2"}),
        (2, "5, GPU-7", 2, {"5", "GPU-7"}),
        (0, None, 2, {"all"}),
    ],
)
def test_every_worker_has_gpus_of_its_own(monkeypatch, there, shown, workers, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if shown:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    monkeypatch.setattr("torch.cuda.device_count", lambda: there)
    found = set(in_processes(workers, "", ["torch"])(sees, [()] * 6))
    assert {devices for _, devices in found} == expected
    assert len(found) == min(workers, there or workers)


def test_one_worker_has_all_gpus(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert in_processes(1, "", [])(sees, [(0,)]) == [(os.getpid(), "all")]


def test_a_gpu_has_one_model_with_threads_too(monkeypatch):
    from flows.tasks import Place

    assert Place("threads", 3).task_runner()._max_workers == 3
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert Place("threads", 3).task_runner()._max_workers == 1
    assert Place("processes", 3).task_runner()._max_workers == 3


ORPHANS = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, os.path.dirname(sys.argv[1]))
from test_workers import note_pids
from lop.workers import in_processes
if __name__ == "__main__":
    in_processes(2, "", ["torch"])(note_pids, [(Path(sys.argv[2]),)] * 2)
"""


def note_pids(log: Path) -> None:
    with log.open("a") as file:  # this worker, and the server that it was forked from
        file.write(f"{os.getpid()} {os.getppid()}\n")
    time.sleep(300)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_workers_and_their_server_end_with_a_parent_that_is_killed(tmp_path):
    log, script = tmp_path / "log", tmp_path / "parent.py"
    script.write_text(ORPHANS)
    parent = subprocess.Popen([sys.executable, str(script), __file__, str(log)])
    end = time.monotonic() + 120
    while not (log.exists() and len(log.read_text().splitlines()) == 2):
        assert time.monotonic() < end
        time.sleep(0.05)
    pids = {int(pid) for pid in log.read_text().split()}
    assert len(pids) == 3
    assert all(map(alive, pids))
    parent.kill()
    parent.wait()
    end = time.monotonic() + 20
    while (left := {pid for pid in pids if alive(pid)}) and time.monotonic() < end:
        time.sleep(0.05)
    assert not left
