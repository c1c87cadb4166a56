"""What a checkpoint is worth and what it costs: accuracy through lm-eval, size, memory, latency.

lm-eval asks the questions and judges the answers, by the task in `lop/tasks/vqa`, which any user
of lm-eval can run on other models too. It is an optional dependency and imported only when needed:
size, memory and latency are measured without it.
"""

from __future__ import annotations

import gc
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch
from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from lop.errors import LopError
from lop.files import replacing
from lop.models.checkpoint import load as load_model
from lop.models.checkpoint import load_processor
from lop.models.ffn import find_ffns
from lop.progress import quiet_libraries
from lop.tasks.encoding import prompt
from lop.tasks.samples import decode_images, read_samples

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


@dataclass(frozen=True)
class Footprint:
    """What a checkpoint costs. Compare only what was measured on one machine, in fresh processes.

    `peak_bytes` is the peak of loading and answering above what the process held before; `peak_of`
    says of what: "cuda" (allocated by torch), "rss" (VmHWM, reset first), or "maxrss" (ru_maxrss,
    which cannot be reset: too low when the process had been larger).
    `latency_ms` is the median time of one sample: processor and `tokens` greedy tokens.
    """

    parameters: int
    ffn_neurons: int
    disk_bytes: int
    peak_bytes: int
    peak_of: str
    latency_ms: float
    tokens: int

    def summary(self) -> dict[str, Any]:
        """The figures as plain values."""
        return asdict(self)


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
    model, _ = _load(model_dir, device)
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


def measure(
    model_dir: str | Path,
    samples_path: str | Path,
    repeats: int = 20,
    warmup: int = 3,
    tokens: int = 8,
    device: str | None = None,
) -> Footprint:
    """Load the model at `model_dir` and time single samples, each answered with `tokens` tokens.

    The number of tokens is fixed, as a badly pruned model that forgets to stop would seem slow.

    Raises LopError as `evaluate` does, and when `model_dir` is not a directory.
    """
    quiet_libraries()
    if not Path(model_dir).is_dir():
        raise LopError(f"{model_dir}: no such model directory")
    rows = read_samples(samples_path).to_dict("records")
    peak_of, peak = memory_meter(device)
    model, processor = _load(model_dir, device)
    times = [
        _time_answer(model, processor, rows[i % len(rows)], tokens) for i in range(warmup + repeats)
    ]
    return Footprint(
        parameters=sum(p.numel() for p in model.parameters()),
        ffn_neurons=sum(ffn.width for ffn in find_ffns(model)),
        disk_bytes=sum(f.stat().st_size for f in Path(model_dir).glob("*.safetensors")),
        peak_bytes=peak(),
        peak_of=peak_of,
        latency_ms=statistics.median(times[warmup:]) * 1e3,
        tokens=tokens,
    )


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


def _load(model_dir: str | Path, device: str | None) -> tuple[PreTrainedModel, ProcessorMixin]:
    processor = load_processor(model_dir)
    if not getattr(processor, "chat_template", None):
        raise LopError(f"{model_dir}: the processor has no chat template to ask questions through")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return load_model(model_dir, device_map=None if device == "cpu" else device), processor


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


def _time_answer(
    model: PreTrainedModel, processor: ProcessorMixin, sample: dict[str, Any], tokens: int
) -> float:
    """Seconds from one sample to its decoded answer of `tokens` tokens."""
    images, text = decode_images(sample), prompt(processor, sample)
    start = time.perf_counter()
    inputs = processor(text=[text], images=[images], return_tensors="pt")
    output = model.generate(  # type: ignore[operator]
        **inputs.to(model.device, model.dtype),
        do_sample=False,
        min_new_tokens=tokens,
        max_new_tokens=tokens,
    )
    processor.batch_decode(output)  # also waits for the device
    return time.perf_counter() - start


def memory_meter(device: str | None) -> tuple[str, Callable[[], int]]:
    """What memory is measured, and a function that tells its peak from now on, in bytes."""
    if device != "cpu" and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        return "cuda", lambda: torch.cuda.max_memory_allocated(device) - held
    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM to what is held now
        held = _status("VmRSS")
        return "rss", lambda: _status("VmHWM") - held
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        held = _max_rss() * unit
        return "maxrss", lambda: _max_rss() * unit - held


def _status(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _max_rss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
