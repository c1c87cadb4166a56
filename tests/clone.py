"""One real run, small, as an operator has it: in a temporary clone, under `make ui`'s servers."""

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from benchmarks.clone import copy, set_params
from flows.server import free_port, started


def wait_for(condition, what, seconds=180):
    """What `condition` gives once it is true; fails after so many seconds."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"no {what} within {seconds} s"
        time.sleep(0.2)
    return found


@dataclass(frozen=True)
class Clone:
    """A copy of the repository with a small pipeline, and the servers it speaks to."""

    path: Path
    prefect: str
    mlflow: str

    @property
    def env(self):
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        home = {"PREFECT_HOME": str(self.path / ".prefect"), "PYTHONPATH": str(self.path)}
        servers = {"PREFECT_API_URL": f"{self.prefect}/api", "MLFLOW_TRACKING_URI": self.mlflow}
        return os.environ | home | servers | {"PATH": path}

    def sh(self, *command, check=True):
        run = subprocess.run(command, cwd=self.path, env=self.env, capture_output=True, text=True)
        assert not check or run.returncode == 0, run.stdout + run.stderr
        return run

    def reset(self):
        """Back to how its first run left it, whatever other tests have changed since."""
        self.sh("git", "checkout", "params.yaml")
        self.sh("dvc", "checkout", "--force")

    def set_params(self, section, **values):
        set_params(self.path, section, **values)


@pytest.fixture(scope="session")
def clone(tmp_path_factory):
    """The clone, after the whole pipeline has run in it once."""
    path = tmp_path_factory.mktemp("clone")
    copy(path)
    ports = free_port(), free_port()
    clone = Clone(path, *(f"http://127.0.0.1:{port}" for port in ports))
    clone.set_params("prepare", calibration=20, reward=20, validation=20, train=24, benchmark=40)
    settings = yaml.safe_load((path / "params.yaml").read_text())["search"]["settings"]
    few = {"simulations": 4}
    small = {"targets": [0.2, 0.5], "settings": settings | few, "spacing": 0.2, "workers": 1}
    clone.set_params("profile", shares=[0.5])
    clone.set_params("search", **small)
    clone.set_params("recover", steps=3, batch_size=12)
    clone.set_params("prune", ratios=[0.3], methods=["lop_recovered", "lop", "flap"])
    clone.set_params("evaluate", tasks=["lop_vqa"], workers=1, latency_samples=2)
    identity = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.com"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "begin"]):
        clone.sh("git", *command)
    options = ["--prefect-port", str(ports[0]), "--mlflow-port", str(ports[1])]
    with ExitStack() as servers:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(path)
            patch.delenv("MLFLOW_TRACKING_URI", raising=False)  # that one would be taken for it
            patch.setenv("PREFECT_HOME", clone.env["PREFECT_HOME"])
            patch.setenv("PYTHONPATH", str(path))
            servers.enter_context(started(["flows.ui", *options], f"{clone.mlflow}/health"))
        clone.sh(sys.executable, "-m", "flows.pipeline")
        yield clone
