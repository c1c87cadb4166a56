"""Time and memory to prune a large checkpoint: `python -m benchmarks.pruning`.

A Qwen2.5-VL of more than 4 GB in bf16 with random weights is written to a temporary folder. Then,
in one run, that directory is copied file by file, and `lop prune` cuts it in a separate process,
whose peak memory (with imports) is read from the system.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from benchmarks.common import RESULTS, origin
from lop.files import replacing
from lop.importance import SCORES, save_scores
from lop.models.stored import Stored
from lop.models.weights import INDEX

SHARD = 1.5e9  # bytes
TEXT = {
    "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 24,
    "num_attention_heads": 16, "num_key_value_heads": 2, "vocab_size": 151936,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24]},
}  # fmt: skip
VISION = {"depth": 4, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 2048}
COMMAND = """
import os, pathlib, sys, time
from lop.cli import main
from lop import steps
start = time.perf_counter()
code = main(sys.argv[2:])
os.sync()
seconds = time.perf_counter() - start
lines = pathlib.Path("/proc/self/status").read_text().splitlines()
peak = next(line.split()[1] for line in lines if line.startswith("VmHWM"))
pathlib.Path(sys.argv[1]).write_text(f"{seconds} {peak}")
sys.exit(code)
"""


def write_checkpoint(out: Path) -> None:
    """Random weights, shard by shard, so that this too needs little memory."""
    config = Qwen2_5_VLConfig(text_config=TEXT, vision_config=VISION, tie_word_embeddings=True)
    config.dtype = torch.bfloat16
    config.save_pretrained(out)
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config)
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for name, parameter in model.named_parameters():
        if size + 2 * parameter.numel() > SHARD:
            shards.append({})
            size = 0
        shards[-1][name] = tuple(parameter.shape)
        size += 2 * parameter.numel()
    where: dict[str, str] = {}
    for i, shapes in enumerate(shards, 1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        tensors = {n: torch.empty(s, dtype=torch.bfloat16).normal_() for n, s in shapes.items()}
        save_file(tensors, out / file, {"format": "pt"})
        where |= dict.fromkeys(shapes, file)
    (out / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))


def write_scores(model: Stored, out: Path) -> None:
    """Random scores under every name."""
    space = model.space()
    for name in SCORES:
        sites = [torch.rand(units) for units in space.units]
        save_scores(sites, out / f"{name}.safetensors", model.fingerprint, space)


def timed_copy(source: Path, out: Path) -> float:
    """Seconds to copy a checkpoint's files to disk, including sync."""
    start = time.perf_counter()
    shutil.copytree(source, out)
    os.sync()
    return time.perf_counter() - start


def timed_prune(model: Path, scores: Path, ratio: float, out: Path) -> tuple[float, float, int]:
    """Seconds of the whole command, including sync, and of the part after its imports; peak memory
    in bytes."""
    arguments = ["prune", "--model", model, "--scores", scores, "--method", "random"]
    arguments += ["--ratio", ratio, "--out", out]
    # ru_maxrss of a child process starts at its parent's value
    said = out.with_name("peak")
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", COMMAND, said, *map(str, arguments)], check=True)
    whole = time.perf_counter() - start
    seconds, peak = said.read_text().split()
    return whole, float(seconds), int(peak) * 1024


def main() -> None:
    """Measure, and write docs/results/pruning.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where to work (10 GB); default: temporary")
    with tempfile.TemporaryDirectory(dir=parser.parse_args().folder) as name:
        root = Path(name)
        (root / "model").mkdir()
        write_checkpoint(root / "model")
        model = Stored(root / "model")
        write_scores(model, root / "scores")
        size = sum(file.stat().st_size for file in model.files)
        largest = max(file.stat().st_size for file in model.files)
        rows = []
        for ratio in (0.2, 0.5):
            copying = timed_copy(root / "model", root / "copy")
            shutil.rmtree(root / "copy")
            whole, pruning, peak = timed_prune(
                root / "model", root / "scores", ratio, root / "small"
            )
            shutil.rmtree(root / "small")
            speed = f"{copying:.1f} s | {whole:.1f} s | {pruning:.1f} s | {copying / pruning:.2f}"
            memory = f"{peak / 1e9:.2f} GB | {peak / largest:.2f}"
            rows.append(f"| {100 * ratio:g} % | {speed} | {memory} |")
            print(rows[-1], flush=True)
    with replacing(RESULTS / "pruning.md") as tmp:
        tmp.write_text(page(size, largest, len(model.files), model.parameters, rows))


def page(size: int, largest: int, shards: int, parameters: int, rows: list[str]) -> str:
    """The measurements as Markdown."""
    table = "\n".join(rows)
    return f"""# Cutting a big checkpoint

{origin()}

A Qwen2.5-VL with random weights, {parameters:,} parameters in
bf16, {size / 1e9:.2f} GB in {shards} shards, the largest of {largest / 1e9:.2f} GB. Each row is one
copy of it and one `lop prune` after another, both until all is on disk. Speed is that of pruning
after the imports, over a copy's; peak memory is the whole command's.

| FFN | copy | whole command | pruning | speed | peak memory | in largest shards |
|---|---|---|---|---|---|---|
{table}
"""


if __name__ == "__main__":
    main()
