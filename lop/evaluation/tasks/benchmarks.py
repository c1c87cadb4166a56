"""The benchmarks of lop: where their data are, and how their answers are scored.

Their lm-eval definitions are the YAML files in the subdirectories.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd

from lop.data.samples import document
from lop.errors import LopError
from lop.evaluation.tasks import scoring
from lop.evaluation.tasks.harness import PREFIX
from lop.evaluation.tasks.scoring import Scorer

FOLDER = Path(__file__).parent
SHARED = (  # code of all tasks
    "answers.py", "chat.py", "encoding.py", "pictures.py", "rows.py", "samples.py", "scoring.py",
    "tables.py",
)  # fmt: skip
HEADLINE = "lop_vqa"  # the task by which `lop.evaluation.comparison` compares models
TEXT = "lop_text"  # or this one, if the samples are texts

Spec = str | Mapping[str, str]  # a task's name, or {name: path of its data}


@dataclass(frozen=True)
class Benchmark:
    """A task: the folder of its YAML and utils, its scorer, the metadata key of its data.

    A task whose utils have a function `ask` runs with it; all others run with lm-eval.

    `hub` is the default source of the data; None: `prepare` writes them, or the user gives them.
    """

    folder: str
    scorer: Scorer
    key: str
    hub: str | None = None

    @property
    def utils(self) -> Any:
        """The module with the task's `row` (and the other functions that its YAML names)."""
        if not self.folder:
            raise LopError("lm-eval's own tasks have no code here")
        return import_module(f"lop.evaluation.tasks.{self.folder}.utils")

    @property
    def code(self) -> list[Path]:
        """The files that decide prompts, answers and scores."""
        asking = [FOLDER.parent / name for name in ("evaluation.py", "lm.py")]
        if not self.folder:
            return [asking[0], FOLDER / "harness.py"]
        return [*sorted((FOLDER / self.folder).glob("*.*")), *asking, *(FOLDER / f for f in SHARED)]


BENCHMARKS: Mapping[str, Benchmark] = {
    HEADLINE: Benchmark("vqa", scoring.ACCURACY, "samples"),
    TEXT: Benchmark("text", scoring.TEXT, "samples"),
    "mme": Benchmark("mme", scoring.mme(scoring.MME), "mme", "lmms-lab/MME"),
    "mmbench": Benchmark("mmbench", scoring.MMBENCH, "mmbench", "lmms-lab/MMBench"),
    "mmmu_val": Benchmark("mmmu", scoring.ACCURACY, "mmmu_val", "MMMU/MMMU"),
    "pope": Benchmark("pope", scoring.POPE_SCORER, "pope", "lmms-lab/POPE"),
    "easyvqa_mme": Benchmark("mme", scoring.mme(scoring.EASYVQA_MME), "easyvqa_mme"),
    "easyvqa_mmbench": Benchmark("mmbench", scoring.MMBENCH, "easyvqa_mmbench"),
    "easyvqa_mmmu": Benchmark("mmmu", scoring.ACCURACY, "easyvqa_mmmu"),
    "easyvqa_pope": Benchmark("pope", scoring.POPE_SCORER, "easyvqa_pope"),
}


def benchmark(name: str) -> Benchmark:
    """The benchmark of that name, or LopError; `lm_eval.<task>` is any of lm-eval's own tasks."""
    if name.startswith(PREFIX):
        return Benchmark("", scoring.MEANS, "", hub=PREFIX)
    if name not in BENCHMARKS:
        known = ", ".join(BENCHMARKS)
        raise LopError(f"task {name!r}: expected one of {known}, or {PREFIX}<a task of lm-eval's>")
    return BENCHMARKS[name]


def own_tasks(samples: pd.DataFrame) -> list[str]:
    """The tasks for which a table has samples: `lop_vqa`, `lop_text` or both."""
    texts = [document(row) is not None for row in samples.to_dict("records")]
    return [HEADLINE] * (not all(texts)) + [TEXT] * any(texts)


def locate(tasks: Iterable[Spec], samples: Path | None) -> dict[str, str]:
    """The source of each task's data: the spec's, else the file that `prepare` wrote, else the hub.

    `samples` is the table of `lop_vqa` and `lop_text`; `prepare` wrote the others to `tasks/` in
    the same directory. Raises LopError for an unknown task, one named twice, or one without data.
    """
    found: dict[str, str] = {}
    for spec in tasks:
        for name, given in ({spec: None} if isinstance(spec, str) else spec).items():
            known = benchmark(name)
            if name in found:
                raise LopError(f"task {name!r} is named twice")
            found[name] = str(given or known.hub or _prepared(name, samples))
            on_hub = known.hub and known.hub != PREFIX and given and hub_id(given)
            if given and not Path(given).exists() and not on_hub:
                raise LopError(f"task {name}: no data at {given}")
            if not known.hub and not Path(found[name]).exists():
                raise LopError(
                    f"task {name}: no data at {found[name]}; prepare writes them when its source "
                    "is `reference`; otherwise leave the task out or give the path of its data"
                )
    if not found:
        raise LopError("no tasks to evaluate")
    return found


def hub_id(source: str) -> bool:
    """Whether a source that is not on disk may be on the hub: `owner/name`."""
    return source.count("/") == 1 and not source.startswith((".", "/", "~"))


def _prepared(name: str, samples: Path | None) -> Path:
    if samples is None:
        raise LopError(f"task {name}: give the path of its data")
    return samples if name in (HEADLINE, TEXT) else samples.parent / "tasks" / f"{name}.parquet"
