"""Pruned models in vLLM itself, in an environment of its own: `make vllm` sets it up."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import shapes

PYTHON = Path(os.environ.get("LOP_VLLM_PYTHON", ".venv-vllm/bin/python"))
pytestmark = pytest.mark.skipif(
    not PYTHON.is_file(), reason=f"no {PYTHON}, which `make vllm` sets up with vLLM"
)


def served(tmp_path, paths, **variables):
    """What transformers and vLLM generate from checkpoints, in that environment."""
    out = tmp_path / "found.json"
    command = [PYTHON, "benchmarks/engines/served.py", "tokens", out, *paths]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())


@pytest.mark.parametrize("name", shapes.SHAPES)
def test_its_tokens_are_those_of_transformers(tmp_path, name):
    cases = shapes.write(tmp_path, shapes.SHAPES[name])
    found = served(tmp_path, [tmp_path / case for case in cases])
    for case, each in zip(cases, found, strict=True):
        assert each.get("vllm") == each["transformers"], f"{case}: {each.get('refused')}"
    answers = [json.dumps(each["vllm"]) for each in found]
    assert len(set(answers)) == len(cases)  # what is cut matters


def test_without_the_plugin_they_are_refused(tmp_path):
    shapes.write(tmp_path, shapes.SHAPES["Llama"], ["neurons"])
    paths = [tmp_path / case for case in ("dense", "neurons")]
    dense, pruned = served(tmp_path, paths, VLLM_PLUGINS="none")
    assert dense["vllm"] == dense["transformers"]
    assert "AmbiguousGlobalPerLayerAttributeError" in pruned["refused"]
