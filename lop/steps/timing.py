"""The steps that measure time: of each method's plans (without cutting), and of a model's sites."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch

from lop.errors import LopError
from lop.evaluation.latency import LatencyProfile, Request, measure
from lop.files import check_file, replacing
from lop.importance import load_all_scores, made_for
from lop.methods import method
from lop.models.checkpoint import load
from lop.plan import checkpoint_name
from lop.steps.pruning import Cutter

REPEATS = 5


def plan_times(out: Path, methods: Sequence[str], ratios: Sequence[float], cutter: Cutter) -> None:
    """Write the median seconds to make each plan, by model name, with all inputs in memory."""
    inputs = cutter.plan_inputs(methods)
    space, of_model = made_for(cutter.scores_dir)
    scores = load_all_scores(cutter.scores_dir, of_model)
    seconds = {}
    for name, ratio in product(methods, ratios):
        rule, taken = method(name, inputs).plan, []
        for _ in range(REPEATS):
            begun = time.perf_counter()
            rule(ratio, space, scores)
            taken.append(time.perf_counter() - begun)
        seconds[checkpoint_name(name, ratio)] = statistics.median(taken)
    with replacing(out) as tmp:
        tmp.write_text(json.dumps(seconds, indent=2) + "\n")


def latency(
    out: Path,
    model_path: str,
    request: tuple[int, int, int],
    repeats: int,
    device: str | None = None,
    dtype: str | None = None,
) -> LatencyProfile:
    """Write the latency profile of a model on this machine; only a profile is replaced.

    `request` has the fields of `lop.evaluation.latency.Request`. Raises LopError if the device does
    not exist, or the request is longer than the model's context.
    """
    check_file(out, (model_path,))
    if out.exists():
        LatencyProfile.load(out)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device != "cpu" and not torch.cuda.is_available():
        raise LopError(f"device {device}: there is no GPU here that torch can use")
    asked = Request(*request)
    as_stored = getattr(torch, dtype) if dtype else "auto"
    model = load(model_path, dtype=as_stored, device_map=None if device == "cpu" else device)
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if room and asked.prompt + asked.generated > room:
        raise LopError(
            f"a prompt of {asked.prompt} tokens with {asked.generated} more: the model has room "
            f"for {room}"
        )
    found = measure(model, asked, repeats=repeats)
    found.save(out)
    return found
