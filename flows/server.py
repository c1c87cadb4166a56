"""Runs a command with one Prefect server: `python -m flows.server dvc repro`.

Without a server, every stage starts and stops a temporary one, which takes about ten seconds each.
If PREFECT_API_URL is set, that server is used and none is started.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows import git
from flows.reasons import reason
from lop import errors
from lop.errors import LopError

START_LIMIT = 300  # seconds
KEPT_LINES = 200  # last lines of a server's output that are kept


@contextmanager
def prefect_server() -> Iterator[str]:
    """The API address of a server: PREFECT_API_URL, else a local server for the block."""
    if url := os.environ.get("PREFECT_API_URL"):
        yield url
        return
    port = free_port()
    # no schedules here, but keep the service that records task runs
    options = ["--no-scheduler", "--no-late-runs", "--host", "127.0.0.1", "--port", str(port)]
    url = f"http://127.0.0.1:{port}/api"
    with started(["prefect", "server", "start", *options], f"{url}/health"):
        yield url


def free_port() -> int:
    """A free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(command: list[str], health: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in the block: a Python module and its arguments, ready when `health` answers."""
    server = subprocess.Popen(
        [sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said: deque[bytes] = deque(maxlen=KEPT_LINES)
    # a server's output must be read all the time, or it blocks
    reader = threading.Thread(target=said.extend, args=(server.stdout,), daemon=True)
    reader.start()
    try:
        _wait_until_up(server, health)
        yield server
    except NotUp as problem:
        server.kill()
        reader.join(1)  # until the end of its output
        line = reason(b"".join(said).decode(errors="replace"))
        raise LopError(f"`{' '.join(command)}` {problem}: {line}") from None
    finally:
        server.terminate()
        server.wait()


class NotUp(Exception):
    """A server that did not start; its output has the reason."""


def _wait_until_up(server: subprocess.Popen[bytes], health: str) -> None:
    end = time.monotonic() + START_LIMIT
    while time.monotonic() < end:
        if (code := server.poll()) is not None:
            raise NotUp(f"stopped while starting, exit code {code}")
        try:
            with urllib.request.urlopen(health, timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise NotUp(f"was not up within {START_LIMIT} s")


def main() -> int:
    """Run the command given as arguments; returns its exit code.

    `dvc exp run` commits, so the command gets a git identity.
    """
    with prefect_server() as url:
        env = git.identity(Path.cwd()) | os.environ | {"PREFECT_API_URL": url}
        return subprocess.run(sys.argv[1:], env=env).returncode


if __name__ == "__main__":
    sys.exit(errors.run(main))
