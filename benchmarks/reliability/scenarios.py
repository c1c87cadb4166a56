"""Commands to kill while they run, with their earlier outputs, and how they resume."""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.reliability.inputs import TOKEN, VALID, arguments
from benchmarks.reliability.sandbox import Ended, Running

SECONDS = 240  # that anything may take


@dataclass(frozen=True)
class Scenario:
    """A command, the names it writes, and the call whose result they hold when it begins.

    `grows` says that files are added one by one, each whole; else all appears at once. `rare` ones
    take long.
    """

    name: str
    words: tuple[str, ...]
    names: tuple[str, ...] = ("out",)
    before: tuple[str, ...] = ()
    grows: bool = False
    rare: bool = False

    def prepare(self) -> int:
        """In a copy of the inputs: what lies there when the command begins."""
        return call(self.before) if self.before else 0

    def start(self, folder: Path, logs: Path) -> Running:
        """Begin; what can be killed is at work when this returns."""
        running = Running.start(folder, partial(call, self.words), logs)
        if self.words[0] == "serve":
            _ask(running, "POST", "/checkpoints", {"ratio": 0.3, "name": "a"})
        return running

    def finish(self, folder: Path, logs: Path) -> Ended:
        """Run it to its end, after a kill or without one."""
        if self.words[0] != "serve":
            return Running.start(folder, partial(call, self.words), logs).wait(SECONDS)
        running = Running.start(folder, partial(call, self.words), logs)
        known = _ask(running, "GET", "/checkpoints")["checkpoints"]
        if not known:
            _ask(running, "POST", "/checkpoints", {"ratio": 0.3, "name": "a"})
        end = time.monotonic() + SECONDS
        while (job := _ask(running, "GET", "/checkpoints/a"))["state"] in ("queued", "running"):
            if time.monotonic() > end:
                break
            time.sleep(0.1)
        os.kill(running.pid, signal.SIGINT)
        ended = running.wait(SECONDS)
        code = 0 if job["state"] == "done" and not ended.late else 1
        return Ended(code, ended.seconds, ended.out, f"{ended.err}{job}", ended.late)


def call(words: tuple[str, ...]) -> int:
    """lop with these words."""
    from lop.cli import main

    return main(words)


def scenarios() -> list[Scenario]:
    """Everything that is killed."""

    def words(command: str, **changes: str) -> tuple[str, ...]:
        named = {f"--{name}": value for name, value in changes.items()}
        return tuple(arguments(command, VALID[command] | named))

    search = words("search", target="0.2 0.3 0.4", simulations="12")
    train = words("train", epochs="30")
    report = words("report")
    return [
        Scenario("prune", words("prune")),
        Scenario("prune, over another", words("prune"), before=words("prune", ratio="0.4")),
        Scenario("search", search, grows=True),
        Scenario("search, gone on with", search, before=words("search", target="0.2"), grows=True),
        Scenario("train", train, ("out", "out-training")),
        Scenario("train, over another", train, ("out", "out-training"), words("train", seed="1")),
        Scenario("importance", words("importance")),
        Scenario("profile", words("profile"), ("out.parquet",)),
        Scenario("prepare, over another", words("prepare"), before=words("prepare", seed="1")),
        Scenario("evaluate", words("evaluate"), grows=True, rare=True),
        Scenario("report, over another", report, ("out", "out.json"), report, rare=True),
        Scenario("track, no database yet", ("track",), ("mlflow.db",), rare=True),
        Scenario("serve, a checkpoint", words("serve"), ("out/checkpoints/a",), rare=True),
    ]


def _ask(running: Running, method: str, path: str, body: object = None) -> dict:
    """The answer of a service, which may still be starting."""
    end = time.monotonic() + SECONDS
    while " serves " not in running.out:
        if time.monotonic() > end or running.family() == []:
            raise RuntimeError(f"does not serve: {running.logs}")
        time.sleep(0.02)
    port = int(running.out.split(" serves ")[0].rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    head = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    connection.request(method, path, json.dumps(body) if body else None, head)
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer
