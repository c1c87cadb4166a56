"""One elastic checkpoint against a cut one for each budget: `python -m benchmarks.elastic`.

It measures disk space, and the time from the call to the first token. Both kinds are loaded in
turn; run nothing else on the machine. Writes elastic.csv and elastic.md to docs/results. Without
`--kit` it makes a kit with few samples and a short search, because the quality of plans does not
matter here.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import lop
from benchmarks.common import MODEL, RESULTS, origin
from benchmarks.full.scale import Questions
from benchmarks.grid.draw import Draw
from benchmarks.grid.scale import Scale
from benchmarks.real.scale import Texts
from lop.evaluation.comparison import markdown
from lop.evaluation.latency import Request, answer, processor_name
from lop.evaluation.timing import Paired, in_turn
from lop.files import replacing
from lop.kit import Kit
from lop.plan import per_cent
from lop.progress import progress
from lop.steps.pruning import Cutter, prune_one

REACH = 0.1, 0.6  # the least and the largest budget
SHORT: Mapping[str, Any] = {"targets": REACH, "shares": (0.5,), "simulations": 2, "test": 0}
SCALES: Mapping[str, Scale] = {
    "reference": Questions(calibration=60, reward=30, chosen_on=30, **SHORT),
    "real": Texts(calibration=8, reward=8, chosen_on=4, **SHORT),
}
FIRST = Request(prompt=16, batch=1, generated=1)
SIZES = ["bytes_read", "bytes_cut"]
COLUMNS = ["model", "budget", *SIZES, "seconds_to_model", "seconds_cut", "faster", "low", "high"]


def make_kit(scale: Scale, out: Path) -> Kit:
    """A kit of few samples."""
    scale.ready()
    draw = Draw(scale, 0)
    made = draw.folder / "elastic-kit"
    if not made.exists():
        draw.prepare()
        draw.score()
        for step in (draw.profile, draw.search, draw.train):
            step(draw.chosen)
        made.touch()
    predictor, profile = (draw.of(draw.chosen, of) for of in ("predictor", "profile.parquet"))
    return Kit.gather(out, draw.importance, predictor, profile)


def first_token(path: Path, **budget: float) -> np.ndarray:
    """Seconds from the call that loads a model to its first token, (1,)."""
    gc.collect()
    begun = time.perf_counter()
    answer(lop.load(path, **budget), FIRST)  # type: ignore[arg-type]
    return np.array([time.perf_counter() - begun])


def stored(folder: Path) -> int:
    """Bytes of all files of a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def held(path: Path, ratio: float) -> int:
    """Bytes of a model's weights at a budget; tied weights count once."""
    model = lop.load(path, ratio=ratio)
    return sum(of.numel() * of.element_size() for of in model.parameters())


def rows(name: str, elastic: Path, budgets: np.ndarray, pairs: int) -> Iterator[tuple[Any, ...]]:
    """The rows of elastic.csv of one model."""
    cutter = Cutter.of_kit(str(elastic), Kit.load(elastic / "kit"))
    cut = elastic.with_name("cut")
    for budget in progress(budgets, f"{name}, budgets", len(budgets), "budget"):
        ratio = float(budget)
        prune_one(cut, "lop", ratio, cutter)
        both = (partial(first_token, cut), partial(first_token, elastic, ratio=ratio))
        (pair,) = in_turn(*both, pairs)
        sizes = (held(elastic, ratio), stored(cut))
        seconds = (pair.second, pair.first, pair.ratio, pair.low, pair.high)
        shutil.rmtree(cut)
        yield name, ratio, *sizes, *seconds


def resized(elastic: Path, budgets: np.ndarray) -> float:
    """Median milliseconds of a resize, over budgets in random order."""
    model, taken = lop.load(elastic, ratio=float(budgets[0])), []
    for budget in np.random.default_rng(0).permutation(np.tile(budgets, 2)):
        begun = time.perf_counter()
        lop.resize(model, ratio=float(budget))
        taken.append(time.perf_counter() - begun)
    return 1e3 * statistics.median(taken)


def measured(
    name: str, model: Path, kit: Path | None, budgets: np.ndarray, pairs: int
) -> tuple[pd.DataFrame, str]:
    """The rows of one model, and the text of its page."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        begun_with = Kit.load(kit) if kit else make_kit(SCALES[name], root / "kit")
        begun = time.perf_counter()
        lop.pack(model, begun_with, root / "elastic")
        packing = time.perf_counter() - begun
        table = pd.DataFrame(rows(name, root / "elastic", budgets, pairs), columns=COLUMNS)
        moving = resized(root / "elastic", budgets)
        whole, dense = stored(root / "elastic"), stored(model)
    return table, section(table, name, whole, dense, packing, moving)


def section(
    table: pd.DataFrame, name: str, whole: int, dense: int, packing: float, moving: float
) -> str:
    """One model's part of the page."""
    cells = [["removed", "read", "cut checkpoint", "elastic", "cut", "cut / elastic"], ["---"] * 6]
    for row in table.to_dict("records"):
        pair = Paired(row["faster"], row["low"], row["high"])
        sizes = [f"{row[key] / 1e6:,.1f} MB" for key in SIZES]
        seconds = [f"{row[key]:.3f} s" for key in ("seconds_to_model", "seconds_cut")]
        cells.append([per_cent(round(row["budget"], 3)), *sizes, *seconds, str(pair)])
    total, count = table["bytes_cut"].sum(), len(table)
    return f"""## {name.capitalize()} model

Stored for {count} budgets: **{whole / 1e6:,.1f} MB** elastic ({dense / 1e6:,.1f} MB dense, the rest
is the kit), {total / 1e6:,.1f} MB in {count} cut checkpoints, {total / whole:.1f} times as much.
Packing took {packing:.1f} s; `lop.resize` takes {moving:.1f} ms (median).

{markdown(cells)}
"""


def page(sections: list[str], pairs: int) -> str:
    """The measurements as Markdown."""
    return f"""# Elastic checkpoints

{origin()}

One elastic checkpoint against a cut one for each budget. Seconds are from the call of `lop.load` to
the first token of a prompt of {FIRST.prompt} tokens, with all files in the system's cache and
nothing imported anew: medians of {pairs} pairs, loaded in turn in one process. *cut / elastic* is
the median of the pairs' ratios, with the middle half of them; *noise* stands where that holds 1.
Removed is the share of FFN neurons. On {processor_name()}, {torch.get_num_threads()} threads of
torch {torch.__version__}.

{chr(10).join(sections)}
[elastic.csv](elastic.csv)
"""


def main() -> None:
    """Measure, and write the page and its numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=SCALES, help="default: those that are there")
    parser.add_argument("--kit", type=Path, help="of the one model that is named")
    parser.add_argument("--budgets", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    places = {"reference": Path(MODEL), "real": Texts.model}
    names = given.models or [name for name, place in places.items() if place.is_dir()]
    if given.kit and len(names) != 1:
        parser.error("--kit is of one model: name it with --models")
    budgets = np.linspace(*REACH, given.budgets)
    found = [measured(name, places[name], given.kit, budgets, given.pairs) for name in names]
    tables, sections = zip(*found, strict=True)
    with replacing(given.out / "elastic.csv") as tmp:
        pd.concat(tables).to_csv(tmp, index=False, float_format="%.4f")
    with replacing(given.out / "elastic.md") as tmp:
        tmp.write_text(page(list(sections), given.pairs))


if __name__ == "__main__":
    main()
