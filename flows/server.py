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

START_LIMIT = 120  # seconds


@contextmanager
def prefect_server() -> Iterator[str]:
    """The API address of a server: the one in PREFECT_API_URL, else a local one for the block."""
    if url := os.environ.get("PREFECT_API_URL"):
        yield url
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "prefect", "server", "start", "--no-services"]
    server = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}/api"
        _wait_until_up(server, url)
        yield url
    finally:
        server.terminate()
        server.wait()


def _wait_until_up(server: subprocess.Popen[bytes], url: str) -> None:
    end = time.monotonic() + START_LIMIT
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeError(
                "the Prefect server stopped while starting: try `prefect server start`"
            )
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"the Prefect server was not up within {START_LIMIT} s")


def main() -> int:
    """Run the command given as arguments; its exit code is ours."""
    with prefect_server() as url:
        return subprocess.run(sys.argv[1:], env=os.environ | {"PREFECT_API_URL": url}).returncode


if __name__ == "__main__":
    sys.exit(main())
