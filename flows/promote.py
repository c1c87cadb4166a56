"""Makes the registry's challenger its champion, if it is better: `python -m flows.promote`."""

import argparse
import sys

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.common import SAMPLES, params
from lop.errors import run
from lop.steps import promoting


@flow(name="promote")
def promote(force: bool = False, reason: str = "") -> bool:
    """Judge the challenger on validation samples, at the ratios of params.yaml's `promote`.

    Args:
        force: Promote it whatever the numbers say; needs a reason.
        reason: Why; it is kept with the numbers on the version.
    """
    chosen, model = params(), params().model.path
    same = chosen.search.model_dump(include={"batch_size", "targets"})
    options = {**same, **chosen.promote.model_dump(), "force": force, "reason": reason}
    verdict = promoting.promote(model, SAMPLES / "validation.parquet", **options)
    title = f"{'Promoted' if verdict.promoted else 'Not promoted'}: {verdict.reason}"
    create_table_artifact(verdict.table.to_dict("records"), "promotion", title)
    print(f"{title}\n{verdict.table.to_string(index=False)}")
    return verdict.promoted


def parser() -> argparse.ArgumentParser:
    """What the command line takes."""
    parser = argparse.ArgumentParser(prog="python -m flows.promote", description=__doc__)
    parser.add_argument("--force", action="store_true", help="whatever the numbers say")
    parser.add_argument("--reason", default="", help="why; kept on the version")
    return parser


def main() -> int:
    """The command line; exit code 0 when promoted, 1 when not, 2 for bad input."""
    options = vars(parser().parse_args())
    return run(lambda: 0 if promote(**options) else 1)


if __name__ == "__main__":
    sys.exit(main())
