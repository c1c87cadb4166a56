"""Small valid inputs of every kind that lop reads, and a call of every command that takes them."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.clone import ROOT
from lop.data.samples import write_samples
from lop.kit import Kit
from lop.models.checkpoint import save
from lop.models.space import find_ffns
from lop.reference import model as reference
from lop.reference.easyvqa_benchmarks import write
from lop.reward.choice import AUTO
from lop.steps import evaluating, grid, pruning, scoring, searching, training
from lop.tracking.queue import Record, keep

SHAPE = reference.Shape(
    layers=3, hidden=32, ffn=40, vocab=300, vision_layers=1, vision_hidden=32, vision_ffn=32
)
TEXT_SHAPE: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "vocab_size": SHAPE.vocab,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
QUESTIONS = ("what is it?", "is there a red shape in it?")
ANSWERS = ("yes", "no", "circle")
PURPOSES = ("calibration", "reward", "validation", "train", "benchmark")
TOKEN = "0123456789abcdef"
WEIGHTS = "model.safetensors"

_MODEL = {"--model": "model"}
_SCORES = {"--scores": "data/importance"}
_SAMPLES = {"--samples": "data/samples/reward.parquet", "--batch-size": "6"}
_PROFILE = {"--profile": "data/profile.parquet"}
_OUT = {"--out": "out"}
_CUTTER = _MODEL | _SCORES | {"--predictor": "data/predictor"} | _PROFILE
_TASKS = "lop_vqa mme=data/mme.parquet mmbench=data/mmbench.parquet mmmu_val=data/mmmu.parquet"

# Each command with options that it takes; positional arguments are named as the parser names them.
VALID: dict[str, dict[str, str]] = {
    "learn": _MODEL | {"--samples": "data/samples/benchmark.parquet"} | _OUT,
    "prepare": {"--source": "data/samples/benchmark.parquet"}
    | dict.fromkeys((f"--{name}" for name in PURPOSES), "2")
    | _OUT,
    "importance": _MODEL | _SAMPLES | {"--reward": "data/samples/reward.parquet"} | _OUT,
    "profile": _MODEL | _SCORES | _SAMPLES | {"--out": "out.parquet"},
    "latency": _MODEL | {"--prompt": "4", "--generated": "2", "--repeats": "1"}
    | {"--out": "out.parquet"},
    "search": _MODEL | _SCORES | _SAMPLES | _PROFILE
    | {"--target": "0.3", "--simulations": "3"} | _OUT,
    "samples": {"--search": "data/search"},
    "train": {"--search": "data/search", "--scores": "data/importance/flap.safetensors"}
    | _PROFILE | {"--epochs": "2"} | _OUT,
    "recover": _MODEL | _SCORES | {"--samples": "data/samples/train.parquet", "--batch-size": "6"}
    | {"--predictor": "data/predictor", "--steps": "2"} | _OUT,
    "kit": _SCORES | {"--predictor": "data/predictor"} | _PROFILE | _OUT,
    "pack": _MODEL | {"--kit": "data/kit"} | _OUT,
    "predict": {"--predictor": "data/predictor", "--ratio": "0.3"} | _MODEL,
    "prune": _CUTTER | {"--ratio": "0.3"} | _OUT,
    "export": {"--model": "text-model", "--out": "out.gguf"},
    "evaluate": _MODEL | _SAMPLES | {"--tasks": f"{_TASKS} pope=data/pope.parquet"} | _OUT,
    "compare": _CUTTER | _SAMPLES | {"--methods": "knapsack uniform", "--ratios": "0.3"} | _OUT,
    "report": _OUT,
    "serve": _MODEL | _SCORES | {"--predictor": "data/predictor", "--port": "0"}
    | {"--token-file": "token"} | _OUT,
    "diff": {"A": "dense", "B": "flap-0.3", "--out": "out.html"}
    | {"--samples": "data/samples/benchmark.parquet"},
    "track": {},
    "rollback": {"--reason": "checked"},
}  # fmt: skip


def arguments(command: str, options: dict[str, str] | None = None) -> list[str]:
    """The words of a call; values of several words are several values."""
    given = VALID[command] if options is None else options
    words = [command]
    for name, value in given.items():
        words += ([name] if name.startswith("-") else []) + value.split()
    return words


def make(root: Path) -> None:
    """Write every input that `VALID` names, and the same in the other forms lop reads."""
    torch.set_num_threads(1)
    samples = _samples(12)
    _write_tables(root, samples)
    _write_benchmarks(root / "data", samples)
    _write_models(root)
    points = ("metrics", [("loss", 1.5, 0, 0)])
    keep(Record("a run", {}, begun=1, ended=2, status="FINISHED", calls=[points], key="1-a"))
    data, model, settings = root / "data", str(root / "model"), {"simulations": 6}
    place = (model, data / "samples/reward.parquet", data / "importance")
    scoring.importance(place[2], model, place[1], 6, place[1])
    searching.profile(data / "profile.parquet", *place, AUTO, compensate=AUTO)
    searching.search(
        data / "search", *place, AUTO, [0.2, 0.5], [0], settings, "knapsack",
        data / "profile.parquet", AUTO,
    )  # fmt: skip
    training.train(
        data / "predictor", data / "training", data / "search", place[2] / "flap.safetensors", 0,
        {}, {}, {"epochs": 4}, "knapsack", data / "profile.parquet",
    )  # fmt: skip
    cutter = pruning.Cutter(
        model, place[2], "flap", predictor_path=data / "predictor",
        profile_path=data / "profile.parquet",
    )  # fmt: skip
    parts = (place[2], data / "predictor", data / "profile.parquet")
    Kit.gather(data / "kit", *parts)
    grid.prune_grid(data / "pruned", ["flap", "lop"], [0.3], cutter)
    evaluating.evaluate(
        data / "evaluation", model, data / "pruned", data / "samples/benchmark.parquet",
        latency_samples=2, each=_here, alone=_here,
    )  # fmt: skip


def _here(work: Callable[..., Any], keys: Iterable[tuple[Any, ...]]) -> list[Any]:
    return [work(*key) for key in keys]


def _picture(rng: np.random.Generator) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _samples(count: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        {
            "id": f"s{i}",
            "image_id": f"i{i}",
            "images": [{"bytes": _picture(rng), "path": None}],
            "question": QUESTIONS[i % 2],
            "choices": None,
            "answer": ANSWERS[i % 3],
            "answers": [ANSWERS[i % 3]],
            "category": "ab"[i % 2],
        }
        for i in range(count)
    ]
    return pd.DataFrame(rows)


def _write_tables(root: Path, samples: pd.DataFrame) -> None:
    for name in PURPOSES:
        write_samples(samples, root / "data/samples" / f"{name}.parquet")
    (root / "pictures").mkdir()
    plain = samples[["question", "answer", "category"]].copy()
    plain["image"] = [f"pictures/{i}.png" for i in range(len(samples))]
    for name, images in zip(plain["image"], samples["images"], strict=True):
        (root / name).write_bytes(images[0]["bytes"])
    plain.to_csv(root / "samples.csv", index=False)
    plain.to_json(root / "samples.jsonl", orient="records", lines=True)
    (root / "token").write_text(TOKEN)
    shutil.copy(ROOT / "params.yaml", root)


def _write_benchmarks(data: Path, samples: pd.DataFrame) -> None:
    rows = samples.to_dict("records")[:4]
    yes_no = [
        {"question_id": str(i), "image": row["images"][0], "image_source": f"i{i // 2}"}
        | {"question": QUESTIONS[1], "answer": ["yes", "no"][i % 2]}
        for i, row in enumerate(rows)
    ]
    kinds = {"pope": ("random",) * 4, "mme": ("existence",) * 4}
    for name, categories in kinds.items():
        pairs = [
            {
                **row,
                "category": c,
                "question_id": row["image_source" if name == "mme" else "question_id"],
            }
            for row, c in zip(yes_no, categories, strict=True)
        ]
        write(pairs, data / f"{name}.parquet")
    letters = {"A": "a dog", "B": "a cat", "C": "a bird", "D": None}
    write(
        [
            {"index": i, "question": QUESTIONS[0], "hint": None, "answer": "AB"[i % 2]}
            | letters
            | {"category": "animals", "image": row["images"][0]}
            for i, row in enumerate(rows)
        ],
        data / "mmbench.parquet",
    )
    write(
        [
            {"id": f"validation_Art_{i}", "question": "<image 1> what is it?"}
            | {"options": "['a dog', 'a cat']", "answer": "AB"[i % 2]}
            | {"question_type": "multiple-choice", "subfield": "Art", "image_1": row["images"][0]}
            | {f"image_{n}": None for n in range(2, 8)}
            for i, row in enumerate(rows)
        ],
        data / "mmmu.parquet",
    )


def _write_models(root: Path) -> None:
    """The model as one file, and sharded with an index; and a model of text."""
    tokenizer = reference.build_tokenizer([*QUESTIONS, *ANSWERS], SHAPE.vocab)
    processor = reference.build_processor(tokenizer)
    model = reference.build_model(tokenizer, SHAPE, seed=0).eval()
    with torch.no_grad():  # weights large enough for pruning to change something
        for ffn in find_ffns(model):
            for linear in ffn.maps:
                linear.weight.mul_(10)
    save(model, processor, root / "model")
    model.save_pretrained(root / "sharded", max_shard_size="60KB")
    processor.save_pretrained(root / "sharded")
    LlamaForCausalLM(LlamaConfig(**TEXT_SHAPE)).save_pretrained(root / "text-model")
    tokenizer.save_pretrained(root / "text-model")
    if not (root / "sharded" / f"{WEIGHTS}.index.json").exists():
        raise RuntimeError(f"one shard: {json.dumps(sorted(p.name for p in root.iterdir()))}")
