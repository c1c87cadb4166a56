"""What several processes do at once to one registry, one queue and one database, some killed."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lop import files, tracking
from lop.errors import LopError
from lop.tracking import queue, registry

NAME = "tested"
HOLD = f"""
import sys, time
from lop.tracking import registry, store
client = store.quiet().MlflowClient()
with registry._lock(client, "{NAME}"):
    print("held", flush=True)
    time.sleep(600)
"""
CREATE = """
from lop.tracking import store
print("ready", flush=True)
store.connect().search_experiments()
"""


@pytest.fixture
def client(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return registry._client()


def started(code):
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
    )


def locks(client):
    return [model.name for model in client.search_registered_models()]


def test_a_lock_that_a_killed_promotion_held_is_taken_away(client):
    holder = started(HOLD)
    assert holder.stdout.readline() == b"held\n"
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(LopError, match="another promotion is under way"),
    ):
        patch.setattr(registry, "PATIENCE", 0.5)
        with registry._lock(client, NAME):
            pass
    holder.kill()
    holder.wait()
    with registry._lock(client, NAME):
        assert f"{NAME}-{registry.LOCK}" in locks(client)
    assert f"{NAME}-{registry.LOCK}" not in locks(client)


@pytest.mark.parametrize("holder", ["0123abcd-1-1", "", "somebody"])
def test_a_lock_of_elsewhere_is_taken_away_when_it_is_old(client, holder, monkeypatch):
    lock = f"{NAME}-{registry.LOCK}"
    client.create_registered_model(
        lock, description=f"{registry.HELD_BY}{holder}" if holder else ""
    )
    assert not registry._break(client, lock)
    monkeypatch.setattr(registry, "ABANDONED", 0.0)
    time.sleep(0.01)
    seen = client.get_registered_model(lock)
    assert registry._break(client, lock)
    assert lock not in locks(client)
    assert registry._break(client, lock), "another was faster"
    # one that saw the old lock comes late, when a new one is held
    client.create_registered_model(lock, description="a new one")
    monkeypatch.setattr(client, "get_registered_model", lambda name: seen)
    assert registry._break(client, lock)
    assert lock in locks(client), "the new lock is not touched"


def test_the_first_champion_is_made_one_inside_the_lock(client, monkeypatch):
    """Of two that are first, one is the champion, and stays it."""
    client.create_registered_model(NAME)
    for _ in range(2):
        client.create_model_version(NAME, "file:///nowhere")
    locked = registry._lock

    def meanwhile(*args):
        monkeypatch.setattr(registry, "_lock", locked)
        client.set_registered_model_alias(NAME, "champion", "2")
        return locked(*args)

    monkeypatch.setattr(registry, "_lock", meanwhile)
    registry.enlist("1", NAME)
    assert tracking.version_of("champion", NAME).number == "2"
    assert tracking.version_of("challenger", NAME).number == "1"


def test_a_promoted_challenger_is_no_challenger_any_more(client):
    client.create_registered_model(NAME)
    for _ in range(2):
        client.create_model_version(NAME, "file:///nowhere")
    registry.enlist("1", NAME)
    registry.enlist("2", NAME)
    old, new = (tracking.version_of(alias, NAME) for alias in ("champion", "challenger"))
    assert (old.number, new.number) == ("1", "2")
    tracking.promote(old, new, {})
    aliases = client.get_registered_model(NAME).aliases
    assert {alias: str(number) for alias, number in aliases.items()} == {"champion": "2"}


def test_one_process_at_a_time_replays_a_queue(client, tmp_path, monkeypatch):
    monkeypatch.setenv(queue.QUEUE, str(tmp_path / "queue"))
    assert tracking.replay() == 0
    queue.keep(queue.Record("stage", {}, status="FINISHED", ended=queue.now()))
    with queue._alone(), pytest.raises(LopError, match="another `lop track` is logging it"):
        tracking.replay()
    assert tracking.replay() == 1
    assert tracking.replay() == 0


def test_a_database_is_whole_however_its_creation_ends(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    draw = random.Random(0)
    for _ in range(3):
        process = started(CREATE)
        assert process.stdout.readline() == b"ready\n"
        time.sleep(draw.uniform(2, 6))  # importing MLflow, then its migrations
        process.send_signal(signal.SIGKILL)
        process.wait()
    both = [started(CREATE) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0], both[0].stderr.read()
    with tracking.run("stage", {}, {}) as run:
        assert run.active
    files.clear_leftovers(tmp_path)
    assert not list(tmp_path.glob(".lop-*")), "what the killed left is gone"
