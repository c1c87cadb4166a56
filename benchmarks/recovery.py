"""Before and after recovery, over draws of samples and seeds: `python -m benchmarks.recovery`.

On the reference model (run `make repro` first: its scores, profile and predictor give the plans):
one elastic run at LOP's plans, one at uniform plans, and two runs for a single budget each, which
together take as many steps. On the real decoder: one run of low-rank adapters at the knapsack's
plans. A stopped run resumes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.common import MODEL, RESULTS, origin
from benchmarks.grid import steps
from benchmarks.grid.draw import Draw
from benchmarks.grid.figures import difference, rate
from benchmarks.real.scale import Texts
from lop.data.prepare import prepare_samples
from lop.data.samples import read_samples, write_samples
from lop.errors import LopError
from lop.evaluation.comparison import bold, markdown
from lop.files import replacing
from lop.models.checkpoint import load, load_processor
from lop.plan import per_cent
from lop.reward import Reward
from lop.settings import Recovery
from lop.steps import recovering
from lop.steps.pruning import Cutter

PLACE = Path("data/full/recovery")
PIPELINE = Path("data")
BEFORE = "before"


@dataclass(frozen=True)
class Run:
    """A training run, and the method and ratios of the plans at which it is evaluated."""

    name: str
    title: str
    method: str
    settings: Recovery
    ratios: tuple[float, ...]


@dataclass(frozen=True)
class Yardstick:
    """A model with its runs, in one draw of samples and seeds."""

    name: str
    seed: int
    runs: tuple[Run, ...]

    @property
    def folder(self) -> Path:
        """Where the draw lies."""
        return PLACE / self.name / f"draw-{self.seed}"

    def cutter(self) -> Cutter:
        """Scores and plans."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Write train.parquet and test.parquet to the folder."""
        raise NotImplementedError

    def steps(self) -> Iterator[tuple[str, Path]]:
        """The steps in order: a name, and the file that marks it as done."""
        if not (self.folder / "test.parquet").exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            self.prepare()
        cutter = self.cutter()
        for method in dict.fromkeys(run.method for run in self.runs):
            ratios = sorted({ratio for run in self.runs for ratio in (0.0, *run.ratios)})
            yield self._judge(cutter, Path(cutter.model_path), method, tuple(ratios), BEFORE)
        for run in self.runs:
            out = self.folder / run.name
            recovered(out, self.folder, cutter, run.settings.model_copy(update={"seed": self.seed}))
            yield self._judge(cutter, out, run.method, (0.0, *run.ratios), run.name)

    def _judge(
        self, cutter: Cutter, model: Path, method: str, ratios: tuple[float, ...], name: str
    ) -> tuple[str, Path]:
        """Ask a model all test samples at a method's plans."""
        out = self.folder / f"{name}-{method}.parquet"
        restored = bool(cutter.scored.compensate) and name == BEFORE
        judge(out, self.folder, cutter, model, method, ratios, restored)
        return f"{self.name}, draw {self.seed}: {name}, {method}", out

    def answers(self, name: str, method: str, ratio: float) -> pd.DataFrame:
        """What was judged of a run at a ratio, a row a test sample."""
        found = pd.read_parquet(self.folder / f"{name}-{method}.parquet")
        return found[np.isclose(found["ratio"], ratio)]

    def judged(self) -> list[Run]:
        """The runs whose answers are there."""
        each = ((run, self.folder / f"{run.name}-{run.method}.parquet") for run in self.runs)
        return [run for run, path in each if path.exists()]


def recovered(out: Path, folder: Path, cutter: Cutter, settings: Recovery) -> Path:
    """A cutter's model after recovery on a draw's training samples, in `out`, if not there yet."""
    if not (out / "config.json").exists():
        samples, test = (folder / f"{part}.parquet" for part in ("train", "test"))
        recovering.recover(out, Path(f"{out}-training"), samples, cutter, settings, [test])
    return out


def judge(
    out: Path,
    folder: Path,
    cutter: Cutter,
    model: Path,
    method: str,
    ratios: Iterable[float],
    restored: bool,
) -> None:
    """Write how a model answers a draw's test samples at a method's plans, if not there yet.

    `restored`: with the pruned units' mean output given back by biases.
    """
    if out.exists():
        return
    samples, scores = read_samples(folder / "test.parquet"), cutter.scores
    of = (load(model), load_processor(model), samples, scores[cutter.scored.score])
    plan_at, rows = cutter.planner(method), []
    means = scores["mean_activation"] if restored else None
    with Reward(*of, mean_activation=means, scope=cutter.space.scope) as reward:
        for ratio in ratios:
            plan = plan_at(ratio) if ratio else cutter.space.dense
            correct, loglik = reward.per_sample(plan)
            asked = {"ratio": ratio, "id": samples["id"], "of": samples["image_id"]}
            rows.append(pd.DataFrame(asked | {"correct": correct, "loglik": loglik}))
    with replacing(out) as tmp:
        pd.concat(rows, ignore_index=True).to_parquet(tmp)


@dataclass(frozen=True)
class Questions(Yardstick):
    """The reference model, with what `make repro` found of it, and so many training samples."""

    train: int = 4000

    def cutter(self) -> Cutter:
        """The pipeline's."""
        if not (PIPELINE / "predictor").exists():
            raise LopError(f"{PIPELINE}/predictor: not there; run `make repro` first")
        found = (PIPELINE / "predictor", PIPELINE / "profile.parquet")
        return Cutter(MODEL, PIPELINE / "importance", "auto", "auto", *found)

    def prepare(self) -> None:
        """Pictures that the model was trained on, and questions of the test splits."""
        sizes = dict.fromkeys(("calibration", "reward", "validation"), 2)  # not used
        sizes |= {"train": self.train, "benchmark": 2000}
        tables = prepare_samples("reference", 1000 + self.seed, sizes)
        write_samples(tables["train"], self.folder / "train.parquet")
        write_samples(tables["benchmark"], self.folder / "test.parquet")


class Windows(Yardstick):
    """The real decoder, with scores and a profile of its own for each draw."""

    @property
    def draw(self) -> Draw:
        """Of lop's own steps."""
        return Draw(Texts(test=96), self.seed)

    def cutter(self) -> Cutter:
        """Scores and the knapsack's profile."""
        draw = self.draw
        profile = draw.of(draw.chosen, "profile.parquet")
        ranking = (draw.chosen.score, draw.chosen.compensate)
        return Cutter(str(draw.scale.model), draw.importance, *ranking, None, profile)

    def prepare(self) -> None:
        """Text of documents that nothing else of this draw saw: those kept for validation."""
        self.draw.scale.ready()
        steps.profile(self.draw)
        write_samples(Texts().training(self.seed), self.folder / "train.parquet")
        test = read_samples(self.draw.samples("test"))
        write_samples(test, self.folder / "test.parquet")


def reference_runs(count: int) -> tuple[Run, ...]:
    """Elastic runs of so many steps, and two for one budget each of half as many."""
    settings, ratios = Recovery(steps=count), (0.3, 0.5, 0.6, 0.7, 0.8)
    uniform = settings.model_copy(update={"methods": ["uniform"]})
    found = [
        Run("lop", "LOP's plans, all budgets", "lop", settings, ratios),
        Run("uniform", "uniform plans, all budgets", "uniform", uniform, ratios),
    ]
    for ratio in (0.5, 0.7):
        alone = {"low": ratio, "high": ratio, "whole": 0.0, "steps": count // 2}
        at = settings.model_copy(update=alone)
        title = f"LOP's plans, {per_cent(ratio)} alone"
        found.append(Run(f"alone-{ratio}", title, "lop", at, (ratio,)))
    return tuple(found)


def real_runs(count: int) -> tuple[Run, ...]:
    """One run of low-rank adapters."""
    settings = Recovery(
        methods=["knapsack"], steps=count, batch_size=8, places=128, lr=0.0005, rank=16,
        low=0.2, high=0.6, whole=0.1, right=0.5, text=1.0,
    )  # fmt: skip
    ratios = (0.3, 0.5)
    return (Run("lora", "low-rank adapters, the knapsack's plans", "knapsack", settings, ratios),)


def yardsticks(name: str, draws: int, count: int, train: int = 4000) -> list[Yardstick]:
    """A model's draws; `train` are the reference model's samples, where they are not drawn yet."""
    label = f"{name}-{count}"
    if name == "reference":
        return [Questions(label, seed, reference_runs(count), train) for seed in range(draws)]
    return [Windows(label, seed, real_runs(count)) for seed in range(draws)]


def values(found: list[Yardstick]) -> pd.DataFrame:
    """A row a run and ratio: what the model is worth before and after, over all draws.

    Of the runs that all of these draws have.
    """
    rows, first = [], found[0]
    for run in [run for run in first.runs if all(run in draw.judged() for draw in found)]:
        for ratio in (0.0, *run.ratios):
            before, after, dense = (
                [draw.answers(*of) for draw in found]
                for of in (
                    (BEFORE, run.method, ratio),
                    (run.name, run.method, ratio),
                    (BEFORE, run.method, 0.0),
                )
            )
            gained = difference(*_sums(first, after, before))
            lost = difference(*_sums(first, after, dense))
            each = [_mean(first, of) for of in (before, after, dense)]
            rows.append((first.name, run.name, run.title, ratio, *each, gained[1], *gained, *lost))
    columns = ["model", "run", "title", "ratio", "before", "after", "dense", "stderr"]
    return pd.DataFrame(rows, columns=[*columns, "gain", "gain_error", "apart", "apart_error"])


def _figure(yardstick: Yardstick, of: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """What is summed and by how much it is divided: right answers, or nats of text."""
    if isinstance(yardstick, Questions):
        return of["correct"].to_numpy(float), np.ones(len(of))
    return -of["loglik"].to_numpy(float), np.full(len(of), float(Texts().window))


def _sums(
    yardstick: Yardstick, ours: list[pd.DataFrame], theirs: list[pd.DataFrame]
) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    one, other = ([_figure(yardstick, of) for of in each] for each in (ours, theirs))
    clusters = [of["of"].to_numpy(str) for of in ours]
    return [v for v, _ in one], [v for v, _ in other], [n for _, n in one], clusters


def _mean(yardstick: Yardstick, each: list[pd.DataFrame]) -> float:
    parts = [(*_figure(yardstick, of), of["of"].to_numpy(str)) for of in each]
    mean, _ = rate(*map(np.concatenate, zip(*parts, strict=True)))
    return mean if isinstance(yardstick, Questions) else float(np.exp(mean))


def section(found: list[Yardstick], table: pd.DataFrame) -> str:
    """One model: a row a run and ratio."""
    questions = isinstance(found[0], Questions)
    scale, digits = (100, 2) if questions else (1, 3)
    unit = "points" if questions else "nats a token, less is better"
    head = ["run", "removed", BEFORE, "after", "after − before", "after − dense"]
    lines = [head, ["---"] * len(head)]
    for row in table.to_dict("records"):
        cells = [f"{scale * row[name]:.{digits - 1}f}" for name in (BEFORE, "after")]
        for name in ("gain", "apart"):
            value, error = scale * row[name], scale * row[f"{name}_error"]
            shown = f"{value:+.{digits}f} ± {error:.{digits}f}"
            cells.append(bold(shown, abs(value) > 2 * error))
        lines.append([row["title"], per_cent(row["ratio"]), *cells])
    settings = found[0].runs[0].settings
    what = "Accuracy in per cent" if questions else "Perplexity"
    model = "The reference model" if questions else "The real decoder"
    shared = "picture" if questions else "document"
    return f"""## {model}, {settings.steps} steps

{what}; draws of samples and seeds: {len(found)}. Differences in {unit}; standard errors are by
{shared}, and bold is beyond two of them.

{markdown(lines)}"""


def main() -> None:
    """Compute what is not there yet, and write page and CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=("reference", "real"), default="reference")
    parser.add_argument("--draws", type=int, default=3, help="of samples and seeds")
    parser.add_argument("--steps", type=int, default=600, help="of an elastic run")
    parser.add_argument("--runs", nargs="+", help="only these, as lop or alone-0.5")
    parser.add_argument("--train", type=int, default=4000, help="the reference's training samples")
    parser.add_argument("--page", action="store_true", help="only the page, of what is there")
    args = parser.parse_args()
    try:
        if not args.page:
            for yardstick in yardsticks(args.model, args.draws, args.steps, args.train):
                for label, _ in _only(yardstick, args.runs).steps():
                    print(label, flush=True)
        sections, tables = [], []
        for name in sorted(PLACE.iterdir()):
            kind, _, count = name.name.rpartition("-")
            begun = yardsticks(kind, len(list(name.glob("draw-*"))), int(count))
            if draws := [draw for draw in begun if draw.judged()]:
                tables.append(values(draws))
                sections.append(section(draws, tables[-1]))
        if not sections:
            raise LopError("no draw has been judged yet")
        with replacing(RESULTS / "recovery.csv") as tmp:
            pd.concat(tables).to_csv(tmp, index=False, float_format="%.5f")
        with replacing(RESULTS / "recovery.md") as tmp:
            tmp.write_text(page(sections))
        print(RESULTS / "recovery.md")
    except LopError as error:
        sys.exit(f"recovery: {error}")


def _only(yardstick: Yardstick, names: list[str] | None) -> Yardstick:
    """The same with the runs of these names."""
    if names is None:
        return yardstick
    known = {run.name: run for run in yardstick.runs}
    if unknown := set(names) - set(known):
        raise LopError(f"no run {min(unknown)!r}; expected some of {', '.join(known)}")
    return replace(yardstick, runs=tuple(known[name] for name in names))


def page(sections: list[str]) -> str:
    """The page as Markdown."""
    return f"""# Recovery

{origin()}

One training run over all budgets, with the unpruned model as the teacher; before and after it the
same units are kept. Judged in memory, on questions and text that nothing else saw. Runs that are
not done in every draw are left out.

{chr(10).join(f"{each}{chr(10)}" for each in sections)}
[recovery.csv](recovery.csv)
"""


if __name__ == "__main__":
    main()
