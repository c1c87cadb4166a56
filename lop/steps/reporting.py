"""The step from all earlier results to the report."""

from __future__ import annotations

import json
from pathlib import Path

from lop.errors import LopError
from lop.files import (
    Kind,
    check_dir,
    check_file,
    has_keys,
    replacing,
    replacing_dir,
)

REPORT = Kind("a report", ("report.md", "report.html"))
NUMBERS = {"dense", "lop", "search_over_predict"}  # required keys of `<out>.json`


def report(
    out: Path,
    evaluation: Path,
    pruned: Path,
    search_dir: Path,
    training: Path,
    samples: Path | None = None,
    scores: Path | None = None,
) -> str:
    """Write report.md, report.html, plots and tables to `out`, and the numbers to `<out>.json`.

    With the directory `samples`, the page shows questions whose answers pruning changed; with the
    directory `scores`, which score `auto` chose. Returns the page's first sentence.
    """
    from lop.report import write_report

    check_dir(out, REPORT, (evaluation, pruned, search_dir, training, samples, scores))
    numbers = out.with_suffix(".json")
    check_file(numbers)
    if numbers.exists() and not has_keys(numbers, NUMBERS):
        raise LopError(
            f"{numbers}: already exists and is not the numbers of a report; not replacing it"
        )
    with replacing_dir(out, REPORT) as tmp:
        metrics = write_report(evaluation, pruned, search_dir, training, tmp, samples, scores)
    with replacing(numbers) as tmp:
        tmp.write_text(json.dumps(metrics, indent=2) + "\n")
    return claim(evaluation, pruned)


def claim(evaluation: Path, pruned: Path) -> str:
    """One sentence: what the smallest LOP checkpoint with a small loss saves."""
    from lop.evaluation.comparison import Comparison
    from lop.report import lead

    compared = Comparison.read(evaluation, pruned)
    return lead.claim(compared, lead.table(compared))
