"""Runs a command with one Prefect server for all of it: `python -m flows.server dvc repro`.

Without a server every stage starts and stops a temporary one, which costs about ten seconds a
stage. Where PREFECT_API_URL is set, that server is used and none is started.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

START_LIMIT = 300  # seconds


@contextmanager
def prefect_server() -> Iterator[str]:
    """The API address of a server: the one in PREFECT_API_URL, else a local one for the block."""
    if url := os.environ.get("PREFECT_API_URL"):
        yield url
        return
    port = free_port()
    # no schedules here, but the service stays that writes down task runs
    options = ["--no-scheduler", "--no-late-runs", "--host", "127.0.0.1", "--port", str(port)]
    url = f"http://127.0.0.1:{port}/api"
    with started(["prefect", "server", "start", *options], f"{url}/health"):
        yield url


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(command: list[str], health: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server for the block: a module of Python's and its arguments, up once `health` answers."""
    server = subprocess.Popen(
        [sys.executable, "-m", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_until_up(server, " ".join(command), health)
        yield server
    finally:
        server.terminate()
        server.wait()


def _wait_until_up(server: subprocess.Popen[bytes], command: str, health: str) -> None:
    end = time.monotonic() + START_LIMIT
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeError(f"a server stopped while starting: try `{command}`")
        try:
            with urllib.request.urlopen(health, timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"`{command}` was not up within {START_LIMIT} s")


def main() -> int:
    """Run the command given as arguments; its exit code is ours."""
    with prefect_server() as url:
        return subprocess.run(sys.argv[1:], env=os.environ | {"PREFECT_API_URL": url}).returncode


if __name__ == "__main__":
    sys.exit(main())
