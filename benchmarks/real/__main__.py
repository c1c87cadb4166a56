"""Gemma 3 270M, every method against every other: `python -m benchmarks.real`, or `make real`.

Two hours on two cores, from packages to docs/results/real. It can be stopped and goes on from where
it was; `--quick` is a smoke run of some minutes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, product
from pathlib import Path

from benchmarks.common import RESULTS
from benchmarks.real import cells, check, model, page, progress, text
from benchmarks.real.draw import Draw
from benchmarks.real.progress import Step
from benchmarks.real.scale import QUICK, Ranking, Row, Scale, further, rows
from lop.errors import LopError
from lop.tasks.samples import read_samples


def made(draw: Draw) -> Iterator[Step]:
    """Samples and scores; costs are windows that are read."""
    scale = draw.scale
    yield Step(f"draw {draw.seed}: samples", draw.samples("test"), 1, draw.prepare)
    yield Step(f"draw {draw.seed}: scores", draw.importance, scale.calibration / 2, draw.score)


def learned(draw: Draw, ranking: Ranking) -> Iterator[Step]:
    """What is searched and learned with a ranking."""
    scale, layers, of = draw.scale, len(draw.scale.source.widths), partial(draw.of, ranking)
    profiled = (layers * (len(scale.shares) + 1) + 1) * scale.reward
    searched = len(scale.targets) * scale.simulations * scale.reward
    for what, out, cost, do in (
        ("profile", of("profile.parquet"), profiled, draw.profile),
        ("search", of("search/index.json"), searched, draw.search),
        ("predictor", of("training"), 20, draw.train),
    ):
        yield Step(f"draw {draw.seed}, {ranking.name}: {what}", out, cost, partial(do, ranking))


def judged(draw: Draw, wanted: list[Row]) -> Step:
    """The test of some rows at every ratio, and of the dense model."""
    scale, done = draw.scale, draw.judged(wanted)

    def do() -> None:
        planned = [cells.cell(draw, row, ratio) for row, ratio in product(wanted, scale.ratios)]
        cells.measure([cells.dense(draw), *planned], scale.workers)
        done.touch()

    cost = (1 + len(wanted) * len(scale.ratios)) * scale.test
    return Step(f"draw {draw.seed}: test of {len(wanted)} rows", done, cost, do)


def steps(scale: Scale) -> list[Step]:
    """All that is done once samples and scores are there, what matters most first."""
    draws = [Draw(scale, seed) for seed in range(scale.draws)]
    first = draws[0]
    own = [[*learned(d, d.chosen), judged(d, rows(scale))] for d in draws]
    rivals = [learned(first, ranking) for ranking in scale.rivals if ranking != first.chosen]
    return [*chain.from_iterable([*own, *rivals]), judged(first, further(scale))]


def measured(scale: Scale) -> list[page.Measured]:
    """The results of the draws that are judged."""
    found = []
    for draw in (Draw(scale, seed) for seed in range(scale.draws)):
        parts = [of for of in (rows(scale), further(scale)) if draw.judged(of).exists()]
        if not parts:
            continue
        wanted = product(chain.from_iterable(parts), scale.ratios)
        of = {(row, ratio): cells.cell(draw, row, ratio).result()[0] for row, ratio in wanted}
        dense, tokens = cells.dense(draw).result()
        documents = read_samples(draw.samples("test"))["image_id"].to_numpy(str)
        found.append(page.Measured(of, dense, tokens, documents, draw.chosen))
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run")
    parser.add_argument("--draws", type=int, help="of samples and seeds")
    parser.add_argument("--workers", type=int, help="processes")
    parser.add_argument("--page", action="store_true", help="only the page, of what is there")
    args = parser.parse_args()
    given = {name: of for name in ("draws", "workers") if (of := getattr(args, name))}
    scale: Scale = replace(QUICK if args.quick else Scale(), **given)
    out = Path("data/real/page") if args.quick else RESULTS / "real"
    if not args.page:
        text.write()
        model.write()
        run(scale)
    write(scale, out)


def run(scale: Scale) -> None:
    """Compute what is not there yet of a scale."""
    progress.run([step for seed in range(scale.draws) for step in made(Draw(scale, seed))])
    progress.run(steps(scale))
    check.difference(Draw(scale, 0), page.LOP, max(scale.ratios))


def write(scale: Scale, out: Path) -> None:
    """Write the page of what is there to the directory `out`."""
    if not (found := measured(scale)):
        raise LopError(f"{scale.folder}: no draw has been judged yet")
    page.write(found, scale, check.read(Draw(scale, 0)), out)
    print(out / "real.md")


if __name__ == "__main__":
    try:
        main()
    except LopError as error:
        sys.exit(f"real: {error}")
