"""The speed of evaluation: lop against lm-eval's own `hf-multimodal`.

`python -m benchmarks.evaluation` takes some minutes with two threads, and writes
docs/results/evaluation.md. No setting is chosen by its results.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch

from benchmarks.common import DATA, MODEL, RESULTS, origin
from lop.evaluation import answers as evaluation
from lop.evaluation.answers import Evaluation, asking
from lop.evaluation.comparison import markdown
from lop.evaluation.footprint import load_to_ask
from lop.files import replacing
from lop.reference import easyvqa_benchmarks

GENERATED = ("easyvqa_mme", "easyvqa_pope")  # the stock class knows no likelihoods
TASKS = ("easyvqa_mme", "easyvqa_mmbench", "easyvqa_mmmu", "easyvqa_pope")


def places(count: int | None = None) -> dict[str, str]:
    """The tasks' data, whole or the first `count` rows."""
    folder = DATA / "tasks"
    if not all((folder / f"{name}.parquet").exists() for name in TASKS):
        for name, rows in easyvqa_benchmarks.build(seed=0).items():
            easyvqa_benchmarks.write(rows, folder / f"{name}.parquet")
    found = {}
    for name in TASKS:
        path = folder / f"{name}.parquet"
        if count is not None:
            few = folder / str(count) / path.name
            few.parent.mkdir(exist_ok=True)
            pq.write_table(pq.read_table(path).slice(0, count), few)
            path = few
        found[name] = str(path)
    return found


@contextmanager
def stock(batch_size: int) -> Iterator[Any]:
    """`asking`, with lm-eval's own class and nothing else."""
    from lm_eval.models.hf_vlms import HFMultimodalLM

    model, _ = load_to_ask(MODEL, None)
    lm = HFMultimodalLM(pretrained=model, batch_size=batch_size)
    yield lambda task, data: Evaluation(evaluation._answers(lm, task, data), task)


def timed(ask: Any, task: str, data: str) -> tuple[float, pd.DataFrame]:
    begun = time.perf_counter()
    samples = ask(task, data).samples
    return time.perf_counter() - begun, samples


def against_stock(count: int, batch_size: int, repeats: int) -> list[str]:
    """Both ways on the same questions, in turn; every answer must be the same."""
    rows = [["task", "questions", "hf-multimodal", "lop", "times as fast"], ["---"] * 5]
    data = places(count)
    for task in GENERATED:
        theirs, ours = [], []
        for _ in range(repeats):
            with stock(batch_size) as ask:
                seconds, expected = timed(ask, task, data[task])
            theirs.append(seconds)
            with asking(MODEL, batch_size) as ask:
                seconds, found = timed(ask, task, data[task])
            ours.append(seconds)
            if not found.equals(expected):
                raise SystemExit(f"{task}: the two ways answer differently")
        slow, fast = np.median(theirs), np.median(ours)
        speeds = [f"{len(found) / s:.0f} a second" for s in (slow, fast)]
        rows.append([task, str(len(found)), *speeds, f"{slow / fast:.1f}"])
    text = (
        f"The same model in memory, batches of {batch_size}, median of {repeats} runs in turn, "
        "reading data and judging answers included, loading the model not. All answers are "
        "identical. The stock class cannot run tasks that choose by likelihood at all."
    )
    return ["## Against lm-eval's own class", text, markdown(rows)]


def all_tasks(batch_size: int) -> list[str]:
    """One model on all four tasks, as in the pipeline's evaluation."""
    rows = [["task", "questions", "seconds", "a second"], ["---"] * 4]
    begun = time.perf_counter()
    with asking(MODEL, batch_size) as ask:
        for task, data in places().items():
            seconds, found = timed(ask, task, data)
            rows.append([task, str(len(found)), f"{seconds:.1f}", f"{len(found) / seconds:.0f}"])
    total = time.perf_counter() - begun
    text = (
        f"The reference model over all four tasks, loading included: **{total:.0f} s**. "
        "Questions of easyvqa_mmbench count once a rotation of their choices."
    )
    return ["## One model, all tasks", text, markdown(rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=600, help="against the stock class")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    parts = ["# Evaluation", origin() + f" {options.threads} threads; machines differ."]
    parts += against_stock(options.samples, options.batch_size, options.repeats)
    parts += all_tasks(options.batch_size)
    page = "\n\n".join(parts) + "\n"
    with replacing(Path(RESULTS) / "evaluation.md") as tmp:
        tmp.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
