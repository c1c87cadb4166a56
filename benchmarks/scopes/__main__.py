"""Attention and FFNs pruned together against FFNs alone: `python -m benchmarks.scopes`.

Both at as many parameters less of the whole model, and then at equal latency on this machine, for
both models, over draws of samples and seeds. It can be stopped and goes on from where it was;
`--model reference` computes one of them, `--without-search` compares the knapsack's plans and the
baselines, in a third of the time, and `--latency` adds equal latency to the draws that are there.
Models are timed: run nothing else beside it until "latency" has been said for each.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

import pandas as pd

from benchmarks.common import RESULTS
from benchmarks.grid import progress
from benchmarks.scopes import page
from benchmarks.scopes.compared import MODELS, Compared, values
from benchmarks.scopes.latency import Timed
from benchmarks.speed import BATCHES
from lop.errors import LopError
from lop.files import replacing


def there(names: Iterable[str], draws: int) -> list[Compared]:
    """What has been judged, of each model what tells most; LopError where nothing has."""
    every = [[Compared.of(name, draws, searched) for searched in (True, False)] for name in names]
    found = [of for each in every if (of := next((e for e in each if e.draws()), None))]
    if not found:
        raise LopError("no draw has been judged yet")
    return found


def timed(compared: Iterable[Compared]) -> list[Timed]:
    """The same at equal latency, of each request."""
    return [Timed(each, batch) for each in compared for batch in BATCHES]


def write(compared: list[Compared]) -> None:
    """The page and its figures, of what is there."""
    found = pd.concat([values(each) for each in compared])
    every = timed(compared)
    later = pd.concat([each.values() for each in every])
    for name, table in (("scopes", found), ("scopes_latency", later)):
        if len(table):
            with replacing(RESULTS / f"{name}.csv") as tmp:
                table.to_csv(tmp, index=False, float_format="%.5f")
    with replacing(RESULTS / "scopes.md") as tmp:
        tmp.write_text(page.text(found, compared, every))


def main() -> None:
    """Compute what is not there yet, and write page and CSVs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, action="append", help="only this one")
    parser.add_argument("--draws", type=int, default=3, help="of samples and seeds")
    parser.add_argument("--without-search", action="store_true", help="no LOP: the knapsack's")
    parser.add_argument("--latency", action="store_true", help="no further draws: equal latency")
    parser.add_argument("--page", action="store_true", help="only the page, of what is there")
    args = parser.parse_args()
    try:
        names = args.model or list(MODELS)
        if not args.page:
            for name in names:
                MODELS[name].ready()
        if not (args.page or args.latency):
            for name in names:
                for step in Compared.of(name, args.draws, not args.without_search).steps():
                    progress.run([step])
        compared = there(names, args.draws)
        if not args.page:
            every = timed(compared)
            progress.run([next(each.steps()) for each in every])  # all that is timed
            for each in every:
                for step in each.steps():
                    progress.run([step])
        write(compared)
        print(RESULTS / "scopes.md")
    except LopError as error:
        sys.exit(f"scopes: {error}")


if __name__ == "__main__":
    main()
