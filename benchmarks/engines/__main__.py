"""Pruned models in vLLM: `make vllm`, which sets up its environment and calls this.

Writes engines.csv and engines.md to docs/results. Run nothing else beside it: it times.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common import RESULTS
from benchmarks.engines import checkpoints, llama_cpp, page
from lop.engines import vllm
from lop.engines.gguf import export
from lop.errors import LopError
from lop.evaluation.timing import Paired
from lop.files import replacing

SCRIPT = Path(__file__).with_name("served.py")
FOUND = checkpoints.DATA / "found"
PYTHON = Path(".venv-vllm/bin/python")
COLUMNS = [
    "engine", "version", "model", "format", "same_tokens", "size_ratio", "memory_ratio",
    "speed_ratio", "speed_low", "speed_high", "prompt_speed_ratio",
]  # fmt: skip


def ask(python: Path, what: str, *paths: Path) -> Any:
    """What served.py finds out with another interpreter; kept, until it or the plugin changes.

    Raises LopError when it fails.
    """
    name = "-".join([what, *(path.as_posix().replace("/", "_") for path in paths)])
    code = hashlib.sha256(SCRIPT.read_bytes() + Path(vllm.__file__).read_bytes()).hexdigest()
    out = (FOUND / code[:8] / f"{name}.json").absolute()
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        command = [str(python), str(SCRIPT), what, str(out), *map(str, paths)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise LopError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return json.loads(out.read_text())


def version(python: Path) -> str:
    """Of the vLLM there."""
    command = [str(python), "-c", "import vllm; print(vllm.__version__)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]


def rows(python: Path, case: checkpoints.Case) -> Iterator[tuple[Any, ...]]:
    """Of the dense checkpoint and each pruned one, whether vLLM's tokens are transformers', and
    its size, memory and speed against the dense one's."""
    named = {"dense": case.dense, **case.pruned}
    same = [_same(found) for found in ask(python, "tokens", *named.values())]
    grown, of = {}, ("vllm", version(python), case.model)
    for (way, path), agrees in zip(named.items(), same, strict=True):
        size = _bytes(path) / _bytes(case.dense)
        if not case.timed:
            yield *of, way, agrees, size, *[np.nan] * 5
            continue
        grown[way] = ask(python, "memory", path)["grown"]
        whole, prompt = _speed(python, case.dense, path) if way != "dense" else (ONE, ONE)
        memory = grown[way] / grown["dense"]
        yield *of, way, agrees, size, memory, whole.ratio, whole.low, whole.high, prompt.ratio


def as_gguf(case: checkpoints.Case) -> Iterator[tuple[Any, ...]]:
    """Of each checkpoint as a GGUF file in llama.cpp, the same; its memory is the file's."""
    files = {}
    named = {"dense": case.dense, **{w: p for w, p in case.pruned.items() if "padded" not in w}}
    for way, path in named.items():
        files[way] = checkpoints.DATA / "gguf" / f"{case.dense.name}-{path.name}.gguf"
        files[way].parent.mkdir(parents=True, exist_ok=True)
        told = export(path, files[way], "f32")
        size = told["bytes"] / files["dense"].stat().st_size
        whole, prompt = llama_cpp.speed(files["dense"], files[way]) if path != case.dense else TWO
        agrees = llama_cpp.same(files[way], path)
        label = f"{way}, {told['architecture']}" + ", padded" * told["padded"]
        speeds = whole.ratio, whole.low, whole.high, prompt.ratio
        yield "llama.cpp", llama_cpp.version(), case.model, label, agrees, size, np.nan, *speeds


ONE = Paired(1.0, 1.0, 1.0)
TWO = [ONE, ONE]


def _same(found: dict[str, Any]) -> bool:
    if "refused" in found:
        raise LopError(f"{found['path']}: {found['refused']}")
    return bool(found["vllm"] == found["transformers"])


def _speed(python: Path, dense: Path, small: Path) -> tuple[Paired, Paired]:
    found = ask(python, "speed", dense, small)
    parts = (np.array(found[name]["s"]) for name in ("decode", "prefill"))
    whole, prompt = (Paired.of(seconds[:, 0], seconds[:, 1]) for seconds in parts)
    return whole, prompt


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def main() -> None:
    """Measure every case, and write the page and its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, default=PYTHON, help="interpreter that has vLLM")
    python = parser.parse_args().python.absolute()
    cases = checkpoints.make()
    found = [row for case in cases for row in rows(python, case)]
    found += [row for case in cases if case.timed for row in as_gguf(case)]
    table = pd.DataFrame(found, columns=COLUMNS)
    with replacing(RESULTS / "engines.csv") as tmp:
        table.to_csv(tmp, index=False, float_format="%.4f")
    with replacing(RESULTS / "engines.md") as tmp:
        tmp.write_text(page.text(table))
    print(RESULTS / "engines.md")


if __name__ == "__main__":
    main()
