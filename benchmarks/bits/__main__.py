"""Units and bits by a budget of bytes, against either alone: `python -m benchmarks.bits`.

For each model, stored in bf16, over draws of samples and seeds: prune only, all weights at 8 or 4
bits beside as much pruning as the budget asks for, and plans of units and bits together; then the
same of weights that recovery has trained. Plans are judged in memory at dequantized weights, on
samples that nothing else saw; a checkpoint is cut, loaded and asked the same, and how far apart its
answers are stands on the page.

It can be stopped and goes on from where it was; `--steps 0` leaves recovery out, `--quick` is a
smoke run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

from benchmarks.bits.compared import OTHERS, PLACE, Compared, ready, scale_of
from benchmarks.bits.page import page, section, values
from benchmarks.common import RESULTS
from benchmarks.grid import progress
from lop.errors import LopError
from lop.files import replacing
from lop.plan import RECOVERED


def written(models: list[str], draws: int, recovery: int, quick: bool) -> Path:
    """The page and its figures, of what is there; LopError where nothing is."""
    tables, sections = [], []
    for name in models:
        scale = scale_of(name, quick)
        if not (scale.model / "config.json").exists():
            continue
        every = [Compared(name, scale, seed, recovery) for seed in range(draws)]
        parts, counts = [], []
        for after in (False, True):
            there = [path for of in every if (path := of.answers(after)).exists()]
            if there:
                read = [pd.read_parquet(path) for path in there]
                parts.append((values(name, read, RECOVERED if after else ""), read))
                counts.append(f"{len(read)} {'after' if after else 'before'} recovery")
        if parts:
            found = pd.concat([table for table, _ in parts], ignore_index=True)
            apart = max(float(of["stored_apart"].max()) for _, read in parts for of in read)
            tables.append(found)
            sections.append(section(name, found, ", ".join(counts), apart))
    if not tables:
        raise LopError("no draw has been judged yet")
    out = PLACE / "page" if quick else RESULTS
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / "bits.csv") as tmp:
        pd.concat(tables).to_csv(tmp, index=False, float_format="%.5f")
    with replacing(out / "bits.md") as tmp:
        tmp.write_text(page(sections))
    return out / "bits.md"


def main() -> None:
    """Compute what is not there yet, and write page and CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=list(OTHERS), action="append", help="only this one")
    parser.add_argument("--draws", type=int, default=3, help="of samples and seeds")
    parser.add_argument("--steps", type=int, default=200, help="of recovery; 0 for none")
    parser.add_argument("--quick", action="store_true", help="a smoke run, with few samples")
    parser.add_argument("--page", action="store_true", help="only the page, of what is there")
    args = parser.parse_args()
    try:
        for name in (args.model or list(OTHERS)) if not args.page else []:
            scale = scale_of(name, args.quick)
            ready(name, scale)
            for seed in range(args.draws):
                compared = Compared(name, scale, seed, args.steps)
                for step in compared.steps():
                    progress.run([step])
        print(written(list(OTHERS), args.draws, args.steps, args.quick))
    except LopError as error:
        sys.exit(f"bits: {error}")


if __name__ == "__main__":
    main()
