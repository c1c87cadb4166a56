"""Stage 8: one page with a table and plots, and the same numbers for `dvc metrics` and `plots`."""

from prefect import flow

from flows.common import (
    EVALUATION,
    IMPORTANCE,
    PRUNED,
    REPORT,
    SAMPLES,
    SEARCH,
    TRAINING,
    run_stage,
)
from lop.steps import reporting


@flow
def report() -> None:
    """Write data/report/ and data/report.json."""
    reporting.report(REPORT, EVALUATION, PRUNED, SEARCH, TRAINING, SAMPLES, IMPORTANCE)


if __name__ == "__main__":
    run_stage(report)
