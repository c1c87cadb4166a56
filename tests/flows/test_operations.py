"""What docs/operations.md and prefect.yaml say: each command is one, each deployment can run."""

import re
import shlex
import subprocess
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from prefect.flows import load_flow_from_entrypoint

from lop.cli.parser import build_parser

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text()
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
LINES = [
    line
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S)
    for line in block.strip().splitlines()
]


@pytest.mark.parametrize("line", [line for line in LINES if line.split()[0] != "export"])
def test_a_command_of_the_page_is_one(line):
    """lop's own are parsed; test_walk, test_remote and tests/tracking run them and DVC's."""
    first, *rest = shlex.split(line)
    if first == "make":
        made = ["make", "-n", "-o", ".venv/.installed", *rest]
        assert subprocess.run(made, cwd=ROOT, capture_output=True).returncode == 0
    elif first == "lop":
        assert build_parser().parse_args(rest).command
    elif first == "python":
        assert import_module(rest[1]).parser().parse_args(rest[2:])
    else:
        assert first in ("dvc", "mlflow", "prefect", "createdb") or "=" in first


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d["name"])
def test_a_deployment_can_run(deployment, monkeypatch):
    monkeypatch.chdir(ROOT)
    flow = load_flow_from_entrypoint(deployment["entrypoint"])
    given = deployment.get("parameters", {})
    needed = {"ratio": 0.37} if "ratio" in flow.parameters.required else {}
    assert flow.validate_parameters(given | needed)
    assert f"| `{deployment['name']}` |" in PAGE


def test_the_form_of_prune_on_demand_refuses_what_is_no_ratio():
    flow = load_flow_from_entrypoint("flows.prune_on_demand.prune_on_demand")
    ratio, none = flow.parameters.properties["ratio"]["anyOf"]
    assert none == {"type": "null"}  # then a size is asked for
    assert (ratio["minimum"], ratio["exclusiveMaximum"]) == (0, 1)
