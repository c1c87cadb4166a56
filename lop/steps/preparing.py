"""The step that draws the samples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from lop.data.prepare import REFERENCE, WINDOW, prepare_samples
from lop.data.samples import write_samples
from lop.files import Kind, check_dir, replacing_dir
from lop.reference import easyvqa_benchmarks

SAMPLES = Kind("tables of samples", ("calibration.parquet", "tasks/index.json"), folders=("tasks",))


def prepare(
    out: Path,
    source: str,
    seed: int,
    sizes: Mapping[str, int | None],
    window: int = WINDOW,
    model_path: str | None = None,
    forms: Sequence[str] = ("open",),
) -> None:
    """Write one table of samples for each purpose: calibration, reward, validation, benchmark.

    Calibration and reward samples are asked in the question forms `forms`. Texts are cut into
    windows of `window` tokens of the model at `model_path`. For the reference, the data of its
    benchmark tasks are written too; `tasks/index.json` has their numbers of rows.
    """
    check_dir(out, SAMPLES, (source, model_path) if model_path else (source,))
    tables = prepare_samples(source, seed, sizes, window, model_path, forms)
    tasks = easyvqa_benchmarks.build(seed) if source == REFERENCE else {}
    with replacing_dir(out, SAMPLES) as tmp:
        for name, table in tables.items():
            write_samples(table, tmp / f"{name}.parquet")
        (tmp / "tasks").mkdir()
        for name, rows in tasks.items():
            easyvqa_benchmarks.write(rows, tmp / "tasks" / f"{name}.parquet")
        counts = {name: len(rows) for name, rows in tasks.items()}
        (tmp / "tasks" / "index.json").write_text(json.dumps(counts, indent=2) + "\n")
