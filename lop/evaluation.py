"""What a checkpoint is worth: its answers to a benchmark, through lm-eval.

lm-eval asks the questions and judges the answers, by the task in `lop/tasks/vqa`, which any user
of lm-eval can run on other models too. It is an optional dependency, imported only when needed.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from lop.errors import LopError
from lop.files import replacing
from lop.footprint import load_to_ask
from lop.progress import quiet_libraries

TASK = "lop_vqa"
TASK_DIR = Path(__file__).parent / "tasks" / "vqa"
COLUMNS = ["id", "category", "answer", "prediction", "correct"]


@dataclass(frozen=True)
class Evaluation:
    """The answers of one model: `samples` has the columns of `COLUMNS`, one row a sample."""

    samples: pd.DataFrame

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(self.samples)

    @property
    def accuracy(self) -> float:
        """Share of samples answered exactly."""
        return float(self.samples["correct"].mean())

    @property
    def stderr(self) -> float:
        """Standard error of the accuracy, s/√n as in lm-eval; nan for a single sample."""
        return float(self.samples["correct"].astype(float).sem())

    @property
    def by_category(self) -> dict[str, float]:
        """Accuracy of each category."""
        return self.samples.groupby("category")["correct"].mean().to_dict()

    def summary(self) -> dict[str, Any]:
        """The figures as plain values; a standard error that does not exist is None."""
        return {
            "accuracy": self.accuracy,
            "stderr": self.stderr if self.count > 1 else None,
            "count": self.count,
            "by_category": self.by_category,
        }

    def save(self, path: str | Path) -> None:
        """Write `<path>.json`, the summary, and `<path>.parquet`, the samples; each whole."""
        with replacing(f"{path}.parquet") as tmp:
            self.samples.to_parquet(tmp, index=False)
        with replacing(f"{path}.json") as tmp:
            tmp.write_text(json.dumps(self.summary(), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """Read what `save(path)` wrote, or raise LopError."""
        try:
            return cls(pd.read_parquet(f"{path}.parquet", columns=COLUMNS))
        except (OSError, pa.ArrowException) as error:
            raise LopError(f"{path}.parquet: cannot read an evaluation: {error}") from error


def evaluate(
    model_dir: str | Path,
    samples_path: str | Path,
    batch_size: int = 64,
    device: str | None = None,
) -> Evaluation:
    """Ask the model at `model_dir`, dense or pruned, all samples through lm-eval's `lop_vqa`.

    Runs on `device`, or on a GPU when there is one. No answers or requests are cached: lm-eval's
    keys name no model, so a pruned model would get the dense one's.

    Raises LopError when model or samples cannot be read, or the processor has no chat template.
    """
    quiet_libraries()
    try:
        from lm_eval.evaluator import evaluate as run
        from lm_eval.models.hf_vlms import HFMultimodalLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise LopError(f"cannot run lm-eval: {error}; pip install 'lop[pipeline]'") from error
    model, _ = load_to_ask(model_dir, device)
    source = {"samples": str(samples_path)}
    manager = TaskManager(include_path=TASK_DIR, include_defaults=False, metadata=source)
    loaded = manager.load([TASK])
    # a model in memory, as the stock loader of `hf-multimodal` refuses a pruned checkpoint; it
    # finds the processor through the model's path. Not `simple_evaluate`: around this same call it
    # seeds all global generators and takes a second to describe the machine (pip, git, cmake …)
    with _light():
        run(
            HFMultimodalLM(pretrained=model, batch_size=batch_size),
            loaded,
            apply_chat_template=True,
            bootstrap_iters=0,
            log_samples=False,  # would hash every picture; the answers stand in the task
        )
    return Evaluation(_answers(loaded["tasks"][TASK]))


def paired_difference(a: pd.DataFrame, b: pd.DataFrame) -> tuple[float, float]:
    """Accuracy of `a` minus that of `b`, and its standard error, over the samples of both.

    Paired: the samples' own difficulty cancels, which makes the error smaller than that of two
    independent accuracies. Raises LopError unless both hold the same ids, each once.
    """
    x, y = (table.set_index("id")["correct"].astype(float) for table in (a, b))
    if not (x.index.is_unique and y.index.is_unique and set(x.index) == set(y.index)):
        raise LopError(
            f"cannot pair the results: {len(x)} and {len(y)} samples, "
            f"{len(set(x.index) & set(y.index))} ids in common; expected the same ids, each once"
        )
    difference = x - y
    return float(difference.mean()), float(difference.sem())


@contextmanager
def _light() -> Iterator[None]:
    """Spare lm-eval what costs it most of its time and changes no answer.

    `hf-multimodal` (0.4.13) runs a full garbage collection after each batch, over everything ever
    imported: 2.4 of 6.2 s for 640 samples of a 2 M-parameter model on one thread. Frozen objects
    are passed over. (Looking for stop strings costs 0.01 s, the processor 0.2 s: left alone.)
    """
    import lm_eval.api.task
    import lm_eval.models.hf_vlms

    for module in (lm_eval.api.task, lm_eval.models.hf_vlms):
        vars(module)["tqdm"] = _bar
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _bar(*args: Any, **kwargs: Any) -> tqdm:
    """lm-eval's progress bars have no switch; these show on a terminal only."""
    return tqdm(*args, **{**kwargs, "disable": None})


def _answers(task: Any) -> pd.DataFrame:
    """The per-sample table of a task that lm-eval has run."""
    rows = []
    for instance in task.instances:
        (prediction,) = instance.filtered_resps.values()
        score = task.process_results(instance.doc, [prediction])["exact_match"]
        doc = instance.doc
        rows.append((doc["id"], doc["category"], doc["answer"], prediction, score == 1))
    return pd.DataFrame(rows, columns=COLUMNS)
