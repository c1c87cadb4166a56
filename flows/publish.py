"""Copies the last run's report into the repository, with commit, command and date at the top."""

import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

from flows.common import REPORT, git_commit
from lop.errors import LopError, run
from lop.files import replacing_dir
from lop.report.html import write_page
from lop.steps.reporting import REPORT as KIND


def publish(out: Path, command: str) -> None:
    """Write data/report to `out`, with a line about its origin at the top of the page."""
    date = datetime.now(UTC).date()
    origin = f"Made by `{command}` at commit {git_commit()[:12]} on {date}."
    page = (REPORT / "report.md").read_text()
    title, rest = page.split("\n", 1)
    with replacing_dir(out, KIND) as tmp:
        shutil.copytree(REPORT, tmp, dirs_exist_ok=True)
        shutil.copy("params.yaml", tmp / "params.yaml")
        write_page(tmp, f"{title}\n\n{origin}\n{rest}")


def main() -> None:
    """The command line: the target directory, and the command that made the report."""
    if len(sys.argv) != 3:
        raise LopError("expected python -m flows.publish OUT COMMAND")
    publish(Path(sys.argv[1]), sys.argv[2])


if __name__ == "__main__":
    sys.exit(run(main))
