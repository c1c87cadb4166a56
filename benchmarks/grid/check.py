"""Checks that a cut checkpoint has the perplexity that was measured with views."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from benchmarks.grid.cells import cell
from benchmarks.grid.draw import Draw
from benchmarks.grid.scale import Row
from lop.data.encoding import IGNORE, encode
from lop.data.samples import read_samples
from lop.errors import LopError
from lop.files import read_json, replacing
from lop.importance import load_all_scores
from lop.models.checkpoint import load, load_processor
from lop.pruning import prune_checkpoint

CLOSE = 1e-3  # nats a token


def difference(draw: Draw, row: Row, ratio: float) -> None:
    """Measure the checkpoint's log-perplexity minus that of its cell; LopError if they differ."""
    if read(draw) is None:
        with replacing(_path(draw)) as tmp:
            tmp.write_text(json.dumps(_measure(draw, row, ratio)) + "\n")
    found = read(draw)
    if found is None or not abs(found) < CLOSE:
        raise LopError(f"{_path(draw)}: the checkpoint is {found} nats a token off its cell")


def read(draw: Draw) -> float | None:
    """What was measured; None where nothing was yet."""
    return read_json(_path(draw)) if _path(draw).exists() else None


def told(draw: Draw) -> str:
    """What was measured, in words."""
    found = read(draw)
    return "not measured yet" if found is None else f"{abs(found):.0e} nats a token apart"


def _path(draw: Draw) -> Path:
    return draw.folder / "check.json"


@torch.inference_mode()
def _measure(draw: Draw, row: Row, ratio: float) -> float:
    source, out = draw.scale.source, draw.folder / "checkpoint"
    scores = load_all_scores(draw.importance, source.fingerprint)
    rule = draw.method(row)
    means = scores["mean_activation"] if rule.compensate else None
    prune_checkpoint(source, draw.plan(row, ratio), scores[rule.score], out, means)
    model, tokenizer = load(out), load_processor(out)
    lost, count = 0.0, 0
    for batch in encode(read_samples(draw.samples("test")), model, tokenizer, 4):
        logits = model(**batch.inputs, use_cache=False).logits.float()
        at = batch.targets != IGNORE
        likely = torch.log_softmax(logits[at], -1).gather(1, batch.targets[at][:, None])
        lost, count = lost - float(likely.sum(dtype=torch.float64)), count + int(at.sum())
    found = cell(draw, row, ratio).result()
    return lost / count + float(found.loglik.sum() / found.tokens.sum())
