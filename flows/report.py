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
    origin,
    run_stage,
)
from lop import tracking
from lop.report import lead
from lop.steps import reporting


@flow
def report() -> None:
    """Write data/report/ and data/report.json; log its sentence, its first picture and itself."""
    said = reporting.report(REPORT, EVALUATION, PRUNED, SEARCH, TRAINING, SAMPLES, IMPORTANCE)
    with tracking.run("report", {}, origin() | {"tradeoff": said}) as run:
        for name in (lead.FILE, "tradeoff.csv", "report.html"):
            run.artifact(REPORT / name)


if __name__ == "__main__":
    run_stage(report)
