"""The cost of a checkpoint: parameters, bytes on disk, peak memory, latency. Needs no lm-eval."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import PreTrainedModel

from lop.data.chat import Processor, check_processor
from lop.data.encoding import prompt_tensors
from lop.data.samples import read_samples
from lop.errors import LopError
from lop.evaluation.timing import Paired
from lop.models.checkpoint import load as load_model
from lop.models.checkpoint import load_processor
from lop.models.space import find_ffns, linear_weights
from lop.models.weights import weight_files
from lop.progress import quiet_libraries

BATCH = 8  # samples in a batch
VERSION = 4  # of the measurements: raise it when a change of this code changes them


@dataclass(frozen=True)
class Footprint:
    """The cost of a checkpoint. Compare only measurements of one machine, in new processes.

    `peak_bytes` is the peak memory of loading and answering, above the memory before. `peak_of` is
    the kind of memory: "cuda" (allocated by torch), "rss" (VmHWM, reset first), or "maxrss"
    (ru_maxrss, which cannot be reset: too low if the process was larger before). `latency_ms` is
    the median time of one sample: processor and `tokens` greedy tokens. Prefill is the forward pass
    over a sample's prompt, its image tokens among them and the vision tower included; decode is
    what comes after, None where that is within the noise of the clock. `answers_per_s` is of
    `batch` samples at once. `speedup` and `batch_speedup` are how many times as fast as the dense
    model one sample and a batch are answered, timed in turn with it, between `_low` and `_high` in
    half of the pairs; None of the dense model itself. `flops_per_token` is what arithmetic says of
    speed: two for each weight of the language model's linear maps.
    """

    parameters: int
    ffn_neurons: int
    disk_bytes: int
    peak_bytes: int
    peak_of: str
    latency_ms: float
    tokens: int
    prefill_tokens_per_s: float
    decode_tokens_per_s: float | None
    batch: int
    answers_per_s: float
    flops_per_token: int
    speedup: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    batch_speedup: float | None = None
    batch_speedup_low: float | None = None
    batch_speedup_high: float | None = None

    def summary(self) -> dict[str, Any]:
        """The fields as plain values."""
        return asdict(self)


def measure(
    model_dir: str | Path,
    samples_path: str | Path,
    repeats: int = 20,
    warmup: int = 3,
    tokens: int = 8,
    device: str | None = None,
    dense_dir: str | Path | None = None,
) -> Footprint:
    """Load the model at `model_dir` and time samples; each answer has `tokens` tokens.

    The number of tokens is fixed: a badly pruned model may not stop, and would seem slow. With
    `dense_dir`, that model and this one answer each sample in turn.

    Raises LopError as `evaluate` does, and if `model_dir` is not a directory.
    """
    quiet_libraries()
    for path in (model_dir, dense_dir or model_dir):
        if not Path(path).is_dir():
            raise LopError(f"{path}: no such model directory")
    rows = read_samples(samples_path).to_dict("records")
    peak_of, peak = memory_meter(device)
    asked = load_to_ask(model_dir, device)
    for row in rows[:warmup]:
        _time_answers(*asked, [row], tokens)
    peak_bytes = peak()
    models = [asked, load_to_ask(dense_dir, device)] if dense_dir else [asked]
    singles = [[row] for row in _cycled(rows, repeats)]
    times, speedup = _times(models, singles, tokens)
    batches = [_cycled(rows[i:] + rows[:i], BATCH) for i in range(max(2, repeats // 2))]
    of_batches, batch_speedup = _times(models, batches, tokens)
    model, files = asked[0], weight_files(Path(model_dir), asked[0].config)[0]
    decoding = float((times["generate"] - times["prefill"]).median())
    return Footprint(
        parameters=sum(p.numel() for p in model.parameters()),
        ffn_neurons=sum(ffn.units for ffn in find_ffns(model)),
        disk_bytes=sum(file.stat().st_size for file in files),
        peak_bytes=peak_bytes,
        peak_of=peak_of,
        latency_ms=times["answer"].median() * 1e3,
        tokens=tokens,
        prefill_tokens_per_s=float((times["prompt"] / times["prefill"]).median()),
        decode_tokens_per_s=(tokens - 1) / decoding if tokens > 1 and decoding > 0 else None,
        batch=BATCH,
        answers_per_s=BATCH / of_batches["answer"].median(),
        flops_per_token=2 * linear_weights(model),
        **_spread("speedup", speedup),
        **_spread("batch_speedup", batch_speedup),
    )


def _times(
    models: list[tuple[PreTrainedModel, Processor]],
    asked: list[list[dict[str, Any]]],
    tokens: int,
) -> tuple[pd.DataFrame, Paired | None]:
    """Times of the first model for each of some questions, and its speed relative to the second
    model; the two answer in turn."""
    _time_answers(*models[-1], asked[0], tokens)
    _time_answers(*models[0], asked[0], tokens)
    own, other = [], []
    for rows in asked:
        if len(models) > 1:
            other.append(_time_answers(*models[1], rows, tokens))
        own.append(_time_answers(*models[0], rows, tokens))
    times = pd.DataFrame(own)
    if not other:
        return times, None
    dense = pd.DataFrame(other)["answer"].to_numpy()
    return times, Paired.of(dense, times["answer"].to_numpy())


def _spread(name: str, pairs: Paired | None) -> dict[str, float]:
    if pairs is None:
        return {}
    return {name: pairs.ratio, f"{name}_low": pairs.low, f"{name}_high": pairs.high}


def _cycled(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    return [rows[i % len(rows)] for i in range(count)]


def load_to_ask(model_dir: str | Path, device: str | None) -> tuple[PreTrainedModel, Processor]:
    processor = load_processor(model_dir)
    check_processor(processor)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return load_model(model_dir, device_map=None if device == "cpu" else device), processor


def _time_answers(
    model: PreTrainedModel, processor: Processor, samples: list[dict[str, Any]], tokens: int
) -> dict[str, float]:
    """For a batch of samples: its prompt tokens, and the seconds to prefill, to generate `tokens`
    tokens, and from samples to decoded answers."""
    start = time.perf_counter()
    inputs = prompt_tensors(processor, samples, padding_side="left")
    inputs = inputs.to(model.device, model.dtype)
    ready = time.perf_counter()
    output = model.generate(  # type: ignore[operator]
        **inputs, do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens
    )
    processor.batch_decode(output)  # also synchronises the device
    answered = time.perf_counter()
    with torch.inference_mode():
        model(**inputs, use_cache=True, logits_to_keep=1).logits.argmax().item()  # synchronises
    return {
        "prompt": inputs["input_ids"].numel(),
        "answer": answered - start,
        "generate": answered - ready,
        "prefill": time.perf_counter() - answered,
    }


def memory_meter(device: str | None) -> tuple[str, Callable[[], int]]:
    """The kind of memory that is measured, and a function that returns its peak from now on, in
    bytes."""
    if device != "cpu" and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        return "cuda", lambda: torch.cuda.max_memory_allocated(device) - held
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to the present memory
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
