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
    head = [
        "engine", "model", "checkpoint", "same tokens", "weights", "memory", "answering", "reading",
    ]  # fmt: skip
    lines = [head, ["---"] * len(head), *(_line(row) for row in table.to_dict("records"))]
    engines = ", ".join(dict.fromkeys(table["engine"] + " (" + table["version"] + ")"))
    return f"""# In other engines

{origin()}

{engines} on {platform.machine()}, one thread,
float32, KV caches too; vLLM with `enforce_eager` and lop's plugin
([models](../models.md#engines)). Checkpoints are `per_layer` unless they say `padded`, and
half of what may go is gone: of all FFN neurons, or of heads and neurons together, with one layer's
attention and one layer's FFN left out whole. llama.cpp has them as GGUF files, of the architecture
named.

*Same tokens*: the engine generates greedily what transformers does, {ANSWER} tokens each after
{len(LENGTHS)} prompts of {LENGTHS[0]} to {LENGTHS[-1]} tokens, or after a picture and a question.
*Weights* are bytes on disk, *memory* is what vLLM's process grows by until the engine is ready, a
KV cache of 64 MiB included; both are shares of the dense checkpoint's. *Answering* is how many
times as fast {BATCH} prompts (llama.cpp: one) of {PROMPT} tokens are answered with {LONG} tokens
each, *reading* with one; dense and pruned take turns, {PAIRS} pairs, and given is the median of the
pairs' ratios, with the middle half of them.

{markdown(lines)}

[engines.csv](engines.csv)
"""


def _line(row: dict) -> list[str]:
    same = "yes" if row["same_tokens"] else "**no**"
    shares = ["" if pd.isna(row[of]) else f"{row[of]:.2f}" for of in ("size_ratio", "memory_ratio")]
    speeds = ["", ""]
    if not pd.isna(row["speed_ratio"]):
        answering = Paired(row["speed_ratio"], row["speed_low"], row["speed_high"])
        dense = row["format"].startswith("dense")
        speeds = ["1.00" if dense else str(answering), f"{row['prompt_speed_ratio']:.2f}"]
    return [row["engine"], row["model"], row["format"], same, *shares, *speeds]
