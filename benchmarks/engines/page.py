"""The page docs/results/engines.md."""

from __future__ import annotations

import platform

import pandas as pd

from benchmarks.common import origin
from benchmarks.engines.served import ANSWER, BATCH, LENGTHS, LONG, PAIRS, PROMPT
from lop.evaluation.comparison import markdown
from lop.evaluation.timing import Paired


def text(table: pd.DataFrame) -> str:
    """The page as Markdown."""
    head = ["model", "checkpoint", "same tokens", "weights", "memory", "answering", "reading"]
    lines = [head, ["---"] * len(head), *(_line(row) for row in table.to_dict("records"))]
    return f"""# In vLLM

{origin()}

vLLM {table["version"].iloc[0]} on {platform.machine()} CPUs, one thread, float32, `enforce_eager`, with lop's
plugin ([models](../models.md#engines)). Checkpoints are `per_layer` unless they say `padded`, and
half of what may go is gone: of all FFN neurons, or of heads and neurons together, with one layer's
attention and one layer's FFN left out whole.

*Same tokens*: vLLM generates greedily what transformers does, {ANSWER} tokens each after
{len(LENGTHS)} prompts of {LENGTHS[0]} to {LENGTHS[-1]} tokens, or after a picture and a question.
*Weights* are bytes on disk, *memory* is what the process grows by until the engine is ready, a KV
cache of 64 MiB included; both are shares of the dense checkpoint's. *Answering* is how many times
as fast {BATCH} prompts of {PROMPT} tokens are answered with {LONG} tokens each, *reading* with one;
dense and pruned take turns, {PAIRS} pairs, and given is the median of the pairs' ratios, with the
middle half of them.

{markdown(lines)}

[engines.csv](engines.csv)
"""


def _line(row: dict) -> list[str]:
    cells = [row["model"], row["format"], "yes" if row["same_tokens"] else "**no**"]
    cells.append(f"{row['size_ratio']:.2f}")
    if pd.isna(row["memory_ratio"]):
        return [*cells, "", "", ""]
    if row["format"] == "dense":
        return [*cells, "1.00", "1.00", "1.00"]
    answering = Paired(row["speed_ratio"], row["speed_low"], row["speed_high"])
    return [
        *cells,
        f"{row['memory_ratio']:.2f}",
        str(answering),
        f"{row['prompt_speed_ratio']:.2f}",
    ]
