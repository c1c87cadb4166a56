"""Both user interfaces on this machine: `make ui` runs Prefect's and MLflow's until interrupted.

Prefect's database is in PREFECT_HOME, MLflow's at MLFLOW_TRACKING_URI. If that is a server already,
no other is started.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from flows.server import started
from lop import errors, tracking


def main() -> int:
    """Start the missing servers, print both addresses, and wait."""
    parser = argparse.ArgumentParser(prog="python -m flows.ui", description=__doc__)
    parser.add_argument("--prefect-port", type=int, default=4200)
    parser.add_argument("--mlflow-port", type=int, default=5000)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uri = tracking.default_uri(Path.cwd())
    with ExitStack() as servers:
        server = ["prefect", "server", "start", "--host", "127.0.0.1"]
        prefect = f"http://127.0.0.1:{args.prefect_port}"
        os.environ["PREFECT_UI_API_URL"] = f"{prefect}/api"  # the default is port 4200
        processes = [
            servers.enter_context(
                started([*server, "--port", str(args.prefect_port)], f"{prefect}/api/health")
            )
        ]
        if not uri.startswith("http"):
            tracking.create(uri)
            # the same file locations as a run without the server, so that both find each other's
            # files
            store = ["--backend-store-uri", uri, "--no-serve-artifacts"]
            store += ["--default-artifact-root", str(Path("mlruns").resolve())]
            server = ["mlflow", "server", "--host", "127.0.0.1", "--workers", "1", *store]
            server += ["--port", str(args.mlflow_port)]
            uri = f"http://127.0.0.1:{args.mlflow_port}"
            processes.append(servers.enter_context(started(server, f"{uri}/health")))
        print(f"Prefect  {prefect}   (export PREFECT_API_URL={prefect}/api)")
        print(f"MLflow   {uri}   (export MLFLOW_TRACKING_URI={uri})", flush=True)
        try:
            return _first_end(processes)
        except KeyboardInterrupt:
            return 0


def _first_end(processes: list[subprocess.Popen[bytes]]) -> int:
    while True:
        for process in processes:
            if (code := process.poll()) is not None:
                return code
        time.sleep(0.5)


if __name__ == "__main__":
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    sys.exit(errors.run(main))
