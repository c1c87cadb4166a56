"""The content of a path, in a form that is the same for two runs of the same command."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

# Times and paths, which differ between runs.
TIMED = {
    "seconds", "predict_ms", "latency_ms", "peak_bytes", "prefill_tokens_per_s", "created",
    "decode_tokens_per_s", "answers_per_s", "speedup", "speedup_low", "speedup_high",
    "batch_speedup", "batch_speedup_low", "batch_speedup_high", "finished", "begun", "ended",
}  # fmt: skip

State = dict[str, str]


def print_state(names: Sequence[str]) -> int:
    """Print the state of files and folders in this folder, as JSON."""
    found: State = {}
    for name in names:
        path = Path(name)
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        hidden = {f for f in files if any(p.startswith(".") for p in f.relative_to(path).parts)}
        found |= {str(f): _digest(f) for f in files if f.is_file() and f not in hidden}
    print(json.dumps(found))
    return 0


def _digest(path: Path) -> str:
    """A digest of what a file says, or why it cannot be read."""
    try:
        said = _said(path)
    except Exception as error:
        return f"broken: {type(error).__name__}"
    return hashlib.sha256(said).hexdigest()[:16]


def _said(path: Path) -> bytes:
    if path.suffix == ".parquet":
        table = pd.read_parquet(path)
        kept = table.drop(columns=[name for name in TIMED if name in table])
        return repr(kept.to_dict("records")).encode()
    if path.suffix == ".json":
        return json.dumps(_timeless(json.loads(path.read_text())), sort_keys=True).encode()
    if path.suffix == ".db":
        return _runs(path)
    return path.read_bytes()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in TIMED}
    return [_timeless(each) for each in value] if isinstance(value, list) else value


def _runs(path: Path) -> bytes:
    """MLflow's runs with their metrics."""
    with sqlite3.connect(path) as database:
        runs = database.execute("select name, status from runs order by name").fetchall()
        metrics = database.execute("select key, value from metrics order by key").fetchall()
    return repr((runs, metrics)).encode()
