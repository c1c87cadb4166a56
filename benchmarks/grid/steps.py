"""A table's steps in order, each done once, and the command line that runs them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import TypeVar

from benchmarks.common import RESULTS
from benchmarks.grid import cells, check, progress
from benchmarks.grid.cells import Result
from benchmarks.grid.draw import Draw
from benchmarks.grid.progress import Step
from benchmarks.grid.scale import LOP, Ranking, Row, Scale
from lop.errors import LopError
from lop.profile import Profile

S = TypeVar("S", bound=Scale)


def made(draw: Draw) -> Iterator[Step]:
    """Samples and scores; costs are samples that are read."""
    scale, last = draw.scale, list(draw.scale.sizes())[-1]
    yield Step(f"draw {draw.seed}: samples", draw.samples(last), 1, draw.prepare)
    yield Step(f"draw {draw.seed}: scores", draw.importance, scale.calibration / 2, draw.score)


def profiled(draw: Draw, ranking: Ranking) -> Step:
    """The profile with a ranking."""
    scale, sites = draw.scale, len(draw.scale.space.units)
    cost = (sites * (len(scale.shares) + 1) + 1) * scale.reward / 2
    label, out = f"draw {draw.seed}, {ranking.name}: profile", draw.of(ranking, "profile.parquet")
    return Step(label, out, cost, partial(draw.profile, ranking))


def learned(draw: Draw, ranking: Ranking) -> Iterator[Step]:
    """What is searched and learned with a ranking."""
    scale, of = draw.scale, partial(draw.of, ranking)
    searched = len(scale.targets) * scale.simulations * scale.reward
    yield profiled(draw, ranking)
    for what, out, cost, do in (
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
    own = [[*learned(d, d.chosen), judged(d, scale.rows())] for d in draws]
    rivals = [learned(first, ranking) for ranking in scale.rivals if ranking != first.chosen]
    return [*chain.from_iterable([*own, *rivals]), judged(first, scale.further())]


def profile(draw: Draw) -> Profile:
    """The profile of what lop chooses in a draw, with all that it needs computed if it is not."""
    progress.run(list(made(draw)))
    step = profiled(draw, draw.chosen)
    progress.run([step])
    return Profile.load(step.out)


def run(scale: Scale) -> None:
    """Compute the missing parts of a scale."""
    progress.run([step for seed in range(scale.draws) for step in made(Draw(scale, seed))])
    progress.run(steps(scale))
    check.difference(Draw(scale, 0), LOP, max(scale.ratios))


def finished(scale: Scale) -> list[tuple[Draw, dict[tuple[Row, float], Result]]]:
    """The draws that are judged, with what was measured of the rows that are, by row and ratio.

    Raises LopError where there is none.
    """
    found = []
    for draw in (Draw(scale, seed) for seed in range(scale.draws)):
        parts = [of for of in (scale.rows(), scale.further()) if draw.judged(of).exists()]
        if parts:
            wanted = product(chain.from_iterable(parts), scale.ratios)
            results = {(r, ratio): cells.cell(draw, r, ratio).result() for r, ratio in wanted}
            found.append((draw, results))
    if not found:
        raise LopError(f"{scale.folder}: no draw has been judged yet")
    return found


def command(
    name: str,
    about: str | None,
    scales: tuple[S, S],
    write: Callable[[S, Path], None],
) -> None:
    """The command line of a table: `scales` are the whole one, and that of a smoke run."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="a smoke run")
    parser.add_argument("--draws", type=int, help="of samples and seeds")
    parser.add_argument("--workers", type=int, help="processes")
    parser.add_argument("--page", action="store_true", help="only the page, of what is there")
    args = parser.parse_args()
    given = {each: of for each in ("draws", "workers") if (of := getattr(args, each))}
    scale = replace(scales[args.quick], **given)
    out = scale.runs.with_name("page") if args.quick else RESULTS / name
    try:
        if not args.page:
            scale.ready()
            run(scale)
        write(scale, out)
        print(out / f"{name}.md")
    except LopError as error:
        sys.exit(f"{name}: {error}")
