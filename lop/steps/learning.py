"""`lop learn`: all steps before pruning. Its input is a model and samples, its output a kit.

The steps are those of the pipeline. Each writes its results to `<out>-learning`. Steps that were
finished with the same model, samples, settings and code are not repeated, so a killed run resumes
at the step, and within a search at the shard, where it stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from lop import importance, joint, search
from lop.data.prepare import REFERENCE, read_source
from lop.data.samples import check_answered, read_samples, write_samples
from lop.data.samples import fingerprint as samples_fingerprint
from lop.evaluation.latency import REPEATS
from lop.files import check_dir, check_own, content_digest, replacing
from lop.importance import made_for
from lop.kit import KIT, Kit
from lop.models.fingerprints import digest
from lop.plan import WHOLE
from lop.progress import Course
from lop.reward import VERSION as REWARD
from lop.reward import choice
from lop.reward.choice import AUTO
from lop.reward.kinds import LABELLED
from lop.settings import check
from lop.settings.learning import Learning
from lop.settings.params import Search, Train
from lop.steps import kits, preparing, quantizing, scoring, searching, timing, training
from lop.steps.sizing import Pace, Sizes, affordable_simulations, sized, timed
from lop.typed import read_typed

# versions of the code that affects results
CODE = (importance.VERSION, choice.VERSION, REWARD, search.VERSION, joint.VERSION)
NO_NUMBERS = ("workers",)  # settings that do not affect results
FILE = "learning.json"
REQUEST = (128, 1, 16)  # timed by the latency profile: prompt tokens, prompts, generated tokens


def learn(
    model: str | Path,
    samples: str | Path,
    out: str | Path,
    hours: float | None = None,
    **settings: Any,
) -> Kit:
    """Learn how to prune a model, and write the kit to the directory `out`.

    >>> kit = lop.learn("my-model", "my-data", "kit", hours=2)
    >>> lop.cut(kit, "my-model", "small", size="9GB")

    `samples` is a table or a folder for `lop.read_samples`, or `reference`. With `hours`, one
    evaluation is timed to find how many samples and plans fit into that time; else the numbers are
    the defaults of params.yaml, or fewer if there are fewer samples. `settings` are the other
    fields of `lop.settings.learning.Learning`. After a killed call, the same call resumes it.
    Raises LopError for unknown settings, samples without answers, and too little time.
    """
    asked = check(Learning, settings | ({} if hours is None else {"hours": float(hours)}), "learn")
    return _Run(str(model), str(samples), Path(out), asked).kit()


@dataclass(frozen=True)
class Record:
    """The progress of a run, in learning.json."""

    mark: str  # digest of the model, samples, settings and code
    pace: Pace
    took: dict[str, float]  # seconds of each finished step
    simulations: int | None = None  # plans of each search, set when the searches start


class _Run:
    """One run of `learn`: its inputs, its files and its progress."""

    def __init__(self, model: str, samples: str, out: Path, asked: Learning) -> None:
        self.model, self.samples, self.out, self.asked = model, samples, out, asked
        self.work = work = Path(f"{out}-learning")
        check_dir(out, KIT, (model, None if samples == REFERENCE else samples))
        check_own(work, FILE.__eq__, "run of lop learn")
        self.tables, self.scores = work / "samples", work / "scores"
        self.profile, self.latency = work / "profile.parquet", work / "latency.parquet"
        self.predictor, self.searches = work / "predictor", work / "search"
        self.size_predictor = work / "size-predictor"
        self.record = read_typed(Record, work / FILE) if (work / FILE).exists() else None

    def kit(self) -> Kit:
        """Run all unfinished steps; returns the kit."""
        source = read_source(self.samples, self.asked.window, self.model)
        if self.asked.reward in LABELLED:
            needs, texts = f"the reward {self.asked.reward}", self.asked.reward == "loglik"
            check_answered(source, needs, texts=texts)
        sizes = self._sizes(source)
        steps: dict[str, tuple[Path, Callable[[Sizes], object]]] = {
            "samples": (self.tables, self._draw),
            "scores": (self.scores, self._score),
            "latency": (self.latency, self._time),
            "profile": (self.profile, self._profile),
            "search": (self.searches, self._search),
            "predictor": (self.predictor, self._train),
            "units and bits": (self.size_predictor, self._quantize),
            "figures": (self.work / "kit", self._measure),
        }
        if not self.asked.bits:
            del steps["units and bits"]
        course, first = Course(sizes.seconds), self._first(steps)
        for number, (name, (_, do)) in enumerate(steps.items()):
            if number < first:
                course.skip(name)
                continue
            begun = time.monotonic()
            with course.step(name):
                do(sizes)
            took = {name: round(time.monotonic() - begun, 1)}
            self._write(replace(self._known, took=self._known.took | took))
        learned = Kit.load(self.work / "kit")
        figures = (learned.figures, learned.settings)
        return Kit.gather(self.out, *self._parts, *figures, self._of_sizes)

    def _first(self, steps: Mapping[str, tuple[Path, object]]) -> int:
        """The number of the first unfinished step."""
        done = [name in self._known.took and path.exists() for name, (path, _) in steps.items()]
        return [*done, False].index(False)

    @property
    def _known(self) -> Record:
        assert self.record  # `_sizes` sets it before the first step
        return self.record

    def _sizes(self, source: pd.DataFrame) -> Sizes:
        """The sizes for the timed evaluation; a resumed run uses its recorded times."""
        asked, here = self.asked, Path(self.model).is_dir()
        content = content_digest(self.model) if here else self.model
        settings = asked.model_dump(exclude=set(NO_NUMBERS))
        counts = (len(source), asked.hours, asked.bits)
        mark = digest(content, samples_fingerprint(source), settings, CODE)
        if self.record is None or self.record.mark != mark:
            space = (asked.scope, asked.ffn_floor, asked.attention_floor, asked.multiple_of)
            pace = timed(self.model, source, asked.reward, *space)
            sized(pace, *counts)  # LopError for too little time
            self._write(Record(mark, pace, {}))
        return sized(self._known.pace, *counts)

    def _write(self, record: Record) -> None:
        self.record = record
        self.work.mkdir(parents=True, exist_ok=True)
        with replacing(self.work / FILE) as tmp:
            tmp.write_text(json.dumps(asdict(record), indent=2) + "\n")

    def _draw(self, sizes: Sizes) -> None:
        wanted = {"calibration": sizes.calibration, "reward": sizes.reward, "validation": None}
        wanted |= {"train": sizes.train, "benchmark": None}  # None: all remaining samples
        window, seed = self.asked.window, self.asked.seed
        preparing.prepare(self.tables, self.samples, seed, wanted, window, self.model)

    def _score(self, sizes: Sizes) -> None:
        asked, tables = self.asked, (self.tables / "calibration.parquet", self._judge)
        space = asked.model_dump(include={"scope", "ffn_floor", "attention_floor", "multiple_of"})
        args = (self.scores, self.model, tables[0], asked.batch_size, tables[1])
        scoring.importance(*args, kind=asked.reward, **space)

    def _time(self, sizes: Sizes) -> None:
        timing.latency(self.latency, self.model, REQUEST, REPEATS)

    def _profile(self, sizes: Sizes) -> None:
        how: dict[str, Any] = self._how | self.asked.model_dump(include={"group", "others"})
        how["bits"] = [n for n in self.asked.bits if n != WHOLE]
        searching.profile(self.profile, *self._judging, sizes.effort.shares, **how)

    def _search(self, sizes: Sizes) -> None:
        reach = made_for(self.scores)[0].max_ratio
        targets = [target for target in Search().targets if target <= reach]
        known = self._known
        if known.simulations is None:  # a resumed run keeps its number
            few = affordable_simulations(sizes, known.took, self.asked.hours)
            self._write(replace(known, simulations=few))
        what = (targets, [self.asked.seed], {"simulations": self._known.simulations})
        start = ("knapsack", self.profile)
        spacing = sizes.effort.spacing
        searching.search(self.searches, *self._judging, *what, *start, spacing=spacing, **self._how)

    def _train(self, sizes: Sizes) -> None:
        settings = Train().model_dump() | {"seed": self.asked.seed}
        args = (self.predictor, self.work / "training", self.searches)
        scores = self.scores / "mean_activation.safetensors"
        training.train(*args, scores, profile_path=self.profile, **settings)

    def _quantize(self, sizes: Sizes) -> None:
        how = self.asked.model_dump(include={"bits", "group", "seed", "reward", "batch_size"})
        simulations = self._known.simulations or sizes.effort.simulations
        places = (self.size_predictor, self.work / "sizes", *self._judging, self.profile)
        quantizing.size_predictor(*places, simulations=simulations, compensate=AUTO, **how)

    def _measure(self, sizes: Sizes) -> None:
        """Write the kit, with its plans measured on samples that no other step uses."""
        rest = read_samples(self.tables / "benchmark.parquet")
        asked = rest.sample(min(sizes.measured, len(rest)), random_state=self.asked.seed)
        path = self.work / "measured.parquet"
        write_samples(asked.reset_index(drop=True), path)
        settings = self.asked.model_dump() | {"calibration_samples": sizes.calibration}
        settings |= {"reward_samples": sizes.reward, "measured_samples": len(asked)}
        settings |= asdict(sizes.effort) | {"simulations": self._known.simulations}
        settings |= {"seconds": self._known.took}
        judged = (self.model, path, self.asked.reward, self.asked.batch_size)
        kits.gather_measured(self.work / "kit", self._parts, judged, settings)

    @property
    def _of_sizes(self) -> Path | None:
        return self.size_predictor if self.asked.bits else None

    @property
    def _judge(self) -> Path:
        return self.tables / "reward.parquet"

    @property
    def _judging(self) -> tuple[str, Path, Path, str]:
        return self.model, self._judge, self.scores, AUTO

    @property
    def _how(self) -> dict[str, Any]:
        how = self.asked.model_dump(include={"reward", "batch_size", "workers"})
        return how | {"compensate": AUTO}

    @property
    def _parts(self) -> tuple[Path, Path, Path, Path, str, str]:
        return self.scores, self.predictor, self.profile, self.latency, AUTO, AUTO
