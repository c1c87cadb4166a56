"""Evaluates a checkpoint: its answers to benchmarks, with lm-eval.

lm-eval runs the tasks in `lop/evaluation/tasks`, which any user of lm-eval can run on other models
too. One shard is one (model, task): `<task>.parquet`, with a row for each answer, and
`<task>.json`, with the metrics and a fingerprint of checkpoint, task and data. A killed or extended
evaluation computes only the missing shards. lm-eval is an optional dependency, imported when
needed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from lop.errors import LopError
from lop.evaluation.footprint import load_to_ask
from lop.evaluation.tasks import harness, scoring
from lop.evaluation.tasks.benchmarks import FOLDER, HEADLINE, benchmark
from lop.evaluation.tasks.harness import PREFIX
from lop.evaluation.tasks.scoring import COLUMNS
from lop.files import content_digest, read_json, reading, replacing
from lop.models.vision import seeing_once
from lop.progress import quiet_libraries
from lop.pruning import NOT_ASKED

__all__ = [
    "Evaluation",
    "asking",
    "evaluate",
    "evaluate_all",
    "shard_fingerprint",
]

ROOM = 8  # tokens to generate beyond the longest accepted answer


@dataclass(frozen=True)
class Evaluation:
    """One model's answers to one task: `samples` has its scorer's columns, and a row for each
    question.

    `figures` are lm-eval's metrics, for its own tasks; for all others the scorer computes them.
    """

    samples: pd.DataFrame
    task: str = HEADLINE
    fingerprint: str = ""
    figures: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of questions."""
        return len(self.samples)

    @property
    def accuracy(self) -> float:
        """Share of questions answered right."""
        return float(self.samples["correct"].mean())

    @property
    def stderr(self) -> float:
        """Standard error of the accuracy, clustered by picture; nan for a single picture."""
        return scoring.accuracy_error(self.samples)

    @cached_property
    def metrics(self) -> dict[str, dict[str, float | None]]:
        """Every metric as {"value", "stderr"}; a metric of lm-eval gets a standard error if it
        equals the scorer's mean."""
        ours = scoring.score(benchmark(self.task).scorer, self.samples)
        found = {}
        for name, figure in self.figures.items():
            value, own = figure["value"], ours.get(name, {"value": None, "stderr": None})
            like = None not in (value, own["value"]) and math.isclose(value, own["value"])  # type: ignore[arg-type]
            found[name] = {"value": value, "stderr": own["stderr"] if like else None}
        return found or ours

    @property
    def primary(self) -> str:
        """The metric that compares models."""
        return benchmark(self.task).scorer.primary or next(iter(self.metrics))

    @property
    def by_category(self) -> dict[str, float]:
        """Accuracy of each category, or the primary metric for a task without right answers."""
        categories = self.samples.groupby("category")
        if "correct" in self.samples:
            return categories["correct"].mean().to_dict()
        scorer = benchmark(self.task).scorer
        sums = {str(name): scorer.figures(scorer.parts(rows).sum()) for name, rows in categories}
        return {name: float(of[self.primary]) for name, of in sums.items() if self.primary in of}

    def headline(self) -> dict[str, Any]:
        """The primary metric as plain values; a standard error that does not exist is None."""
        figure = self.metrics[self.primary]
        return {
            self.primary: figure["value"],
            "stderr": figure["stderr"],
            "count": self.count,
            "by_category": self.by_category,
        }

    def summary(self) -> dict[str, Any]:
        """The task's official metrics as plain values: the content of `<task>.json`."""
        return {
            "task": self.task,
            "fingerprint": self.fingerprint,
            "count": self.count,
            "primary": self.primary,
            "metrics": self.metrics,
            "by_category": self.by_category,
        }

    def save(self, path: str | Path) -> None:
        """Write the answers to `<path>.parquet`, then the metrics to `<path>.json`; each
        atomically."""
        with replacing(f"{path}.parquet") as tmp:
            self.samples.to_parquet(tmp, index=False)
        with replacing(f"{path}.json") as tmp:
            tmp.write_text(json.dumps(self.summary(), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """Read the files of `save(path)`, or raise LopError."""
        summary = read_json(Path(f"{path}.json"))
        task = summary.get("task", HEADLINE)
        columns = list(benchmark(task).scorer.columns) or None
        with reading(f"{path}.parquet", "an evaluation"):
            samples = pd.read_parquet(f"{path}.parquet", columns=columns)
        figures = summary["metrics"] if columns is None else {}
        return cls(samples, task, summary.get("fingerprint", ""), figures)


def evaluate(
    model_dir: str | Path,
    data: str | Path,
    batch_size: int = 64,
    device: str | None = None,
    task: str = HEADLINE,
) -> Evaluation:
    """Run a task over `data` on the model at `model_dir`, dense or pruned.

    Runs on `device`; by default on a GPU, if there is one.

    Raises LopError if model or data cannot be read, or the processor has no usable chat template.
    """
    with asking(model_dir, batch_size, device) as ask:
        return ask(task, str(data))


def evaluate_all(
    out: Path | None,
    model_dir: str | Path,
    tasks: Mapping[str, str],
    batch_size: int = 64,
    device: str | None = None,
    content: str | None = None,
) -> dict[str, Evaluation]:
    """The model's answers to each of `tasks` (name -> path of its data), saved in `out`.

    A finished shard is read, not computed again; the model is loaded only if one is missing.
    `content` is `content_of` the model, if known.
    """
    content = content or content_of(model_dir)
    marks = {name: shard_fingerprint(content, name, data) for name, data in tasks.items()}
    found = finished(out, content, tasks)
    if len(found) == len(tasks):
        return found
    with asking(model_dir, batch_size, device) as ask:
        for name in [name for name in tasks if name not in found]:
            asked = ask(name, tasks[name])
            found[name] = replace(asked, fingerprint=marks[name])
            if out:
                found[name].save(out / name)
    return {name: found[name] for name in tasks}


def finished(out: Path | None, content: str, tasks: Mapping[str, str]) -> dict[str, Evaluation]:
    """The complete and current shards of a model's answers in `out`, by task.

    `content` is `content_of` the model.
    """
    known = {
        name: _shard(out, name, shard_fingerprint(content, name, data))
        for name, data in tasks.items()
    }
    return {name: shard for name, shard in known.items() if shard is not None}


def content_of(model_dir: str | Path) -> str:
    """The digest of a model's files that decide its answers; for a model on the hub, its name."""
    return content_digest(model_dir, NOT_ASKED) if Path(model_dir).is_dir() else str(model_dir)


def _shard(out: Path | None, task: str, mark: str) -> Evaluation | None:
    """The shard of a task, if there is a complete one with that fingerprint."""
    if out is None or not (out / f"{task}.json").exists():
        return None
    try:
        shard = Evaluation.load(out / task)
    except LopError:
        return None
    return shard if shard.fingerprint == mark else None


def shard_fingerprint(content: str, task: str, data: str | Path) -> str:
    """Twelve hex digits over everything that decides a shard: checkpoint (`content_of`), task,
    data.

    Data on the hub are represented by their names only.
    """
    known, parts = benchmark(task), [task, content]
    parts.append(content_digest(data) if Path(data).exists() else str(data))
    parts += [content_digest(path) for path in known.code]
    if task.startswith(PREFIX):
        parts.append(version("lm_eval"))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


@contextmanager
def asking(
    model_dir: str | Path, batch_size: int = 64, device: str | None = None
) -> Iterator[Callable[[str, str], Evaluation]]:
    """Load the model at `model_dir` and yield `ask(task, data)`.

    Answers and requests are not cached: lm-eval's cache keys do not contain the model, so a pruned
    model would get the dense model's answers. The vision tower's output for a picture is cached
    within the block.
    """
    quiet_libraries()
    try:
        from lop.evaluation.lm import LikelihoodLM, light
    except ImportError as error:
        raise LopError(f"cannot run lm-eval: {error}; pip install 'lop[pipeline]'") from error
    model, processor = load_to_ask(model_dir, device)
    # a model in memory, because `hf-multimodal` cannot load a pruned checkpoint; it finds the
    # processor by the model's path
    lm = LikelihoodLM(pretrained=model, batch_size=batch_size)

    def ask(task: str, data: str) -> Evaluation:
        if task.startswith(PREFIX):
            name = task.removeprefix(PREFIX)
            samples, figures = harness.ask(model, processor, name, data, batch_size)
            return Evaluation(samples, task, figures=figures)
        own = getattr(benchmark(task).utils, "ask", None)
        answers = own(model, processor, data, batch_size) if own else _answers(lm, task, data)
        return Evaluation(answers, task)

    with light(), seeing_once(model):
        yield ask


def _answers(lm: Any, name: str, data: str) -> pd.DataFrame:
    """Run a task with lm-eval and score each answer; returns a table with `COLUMNS`."""
    from lm_eval.evaluator import evaluate as run
    from lm_eval.tasks import TaskManager

    known = benchmark(name)
    manager = TaskManager(include_path=FOLDER, include_defaults=False, metadata={known.key: data})
    loaded = manager.load([name])
    for task in loaded["tasks"].values():
        _make_room(task, lm.tokenizer, getattr(known.utils, "right_answers", None))
    # not `simple_evaluate`: it also seeds all global generators, and takes a second to describe the
    # machine (pip, git, cmake …)
    run(
        lm,
        loaded,
        apply_chat_template=True,
        bootstrap_iters=0,
        log_samples=False,  # would hash every picture; the answers are in the task
    )
    row = known.utils.row
    rows = [
        {**row(asked[0].doc, [_result(one) for one in asked]), "prompt_hash": _hash(asked[0])}
        for task in loaded["tasks"].values()
        for asked in _by_question(task)
    ]
    # rows without a picture: the group is all about one picture
    return pd.DataFrame([{"picture": each["group"], **each} for each in rows], columns=COLUMNS)


def _make_room(task: Any, tokenizer: Any, right_answers: Any) -> None:
    """Set the limit of generated tokens to the longest accepted answer plus `ROOM`."""
    if right_answers is None:
        return
    texts = {answer for doc in task.eval_docs for answer in right_answers(doc)}
    longest = max(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts)
    options = task.config.generation_kwargs
    options["max_gen_toks"] = max(options["max_gen_toks"], longest + ROOM)


def _by_question(task: Any) -> Iterator[list[Any]]:
    """The requests of each question, in order: one, or one for each choice."""
    questions: dict[int, list[Any]] = {}
    for instance in task.instances:
        questions.setdefault(instance.doc_id, []).append(instance)
    for asked in questions.values():
        yield sorted(asked, key=lambda instance: instance.idx)


def _result(instance: Any) -> Any:
    (result,) = instance.filtered_resps.values()
    return result


def _hash(instance: Any) -> str:
    return hashlib.sha256(instance.args[0].encode()).hexdigest()[:12]
