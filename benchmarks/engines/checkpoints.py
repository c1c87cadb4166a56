"""The checkpoints that engines are given: a model dense, and pruned in several ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.common import MODEL
from benchmarks.real.scale import Texts
from lop.importance import load_all_scores
from lop.methods import random_plan
from lop.models.stored import Stored
from lop.plan import Plan, Space
from lop.pruning import prune_checkpoint
from lop.reference.model import build_tokenizer
from lop.steps import scoring

DATA = Path("data/engines")
RATIO = 0.5  # of the scope
# What is cut, and whether it is filled up again with zeros.
WAYS: Mapping[str, tuple[str, bool]] = {
    "neurons": ("ffn", False),
    "neurons, padded": ("ffn", True),
    "heads, neurons and sites": ("ffn+attention", False),
}
# About 110 M parameters with FFNs of the usual share, as the small real model is mostly embeddings.
SHAPE = LlamaConfig(
    hidden_size=1024, intermediate_size=4096, num_hidden_layers=6, num_attention_heads=16,
    num_key_value_heads=4, head_dim=64, vocab_size=8192, max_position_embeddings=1024,
    bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False,
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A model's dense checkpoint and its pruned ones, by how they were cut."""

    model: str
    dense: Path
    pruned: Mapping[str, Path]
    timed: bool


def make() -> list[Case]:
    """Write all checkpoints, those that are there already left as they are."""
    Texts().ready()
    return [
        Case("Gemma 3 270M", Texts.model, cut_all(Texts.model, "gemma"), True),
        Case("Llama, random, 107 M", of_shape(), cut_all(of_shape(), "llama"), True),
        Case("Qwen2.5-VL, reference", Path(MODEL), cut_all(Path(MODEL), "reference"), False),
    ]


def of_shape() -> Path:
    """A random model of `SHAPE`, with logits of several units, as a trained one has."""
    out = DATA / "llama" / "dense"
    if not out.exists():
        torch.manual_seed(0)
        model = LlamaForCausalLM(SHAPE)
        with torch.no_grad():
            for linear in (m for m in model.modules() if isinstance(m, torch.nn.Linear)):
                linear.weight.normal_(std=linear.in_features**-0.5)
            model.get_output_embeddings().weight.normal_(std=0.1)
        model.save_pretrained(out)
        tokenizer = build_tokenizer(["yes", "no", "what is it?"], SHAPE.vocab_size)
        tokenizer.save_pretrained(out)  # a GGUF file wants one
    return out


def cut_all(model: Path, name: str) -> dict[str, Path]:
    """A model's pruned checkpoints, by how they were cut."""
    source, found = Stored(model), {}
    for way, (scope, padded) in WAYS.items():
        out = DATA / name / way.replace(", ", "-").replace(" ", "-")
        found[way] = out
        if not out.exists():
            out.parent.mkdir(parents=True, exist_ok=True)
            plan = uneven(source.space(scope))
            prune_checkpoint(source, plan, scores(source, plan.space, name), out, None, padded)
    return found


def uneven(space: Space) -> Plan:
    """A plan whose sites all differ; where attention may go, two sites are gone as a whole."""
    plan = random_plan(RATIO, space, {})
    if space.scope == "ffn":
        return plan
    gone = {("attention", 1), ("ffn", 2)}
    sites = zip(space.kinds, space.layers, plan.kept, strict=True)
    kept = tuple(0 if (kind, layer) in gone else units for kind, layer, units in sites)
    return Plan(replace(space, floors=(0,) * len(kept)), kept)


def scores(source: Stored, space: Space, name: str) -> Sequence[Tensor]:
    """By which units stay: Wanda-sp's score on text for Gemma, else chance."""
    if name != "gemma":
        drawn = torch.Generator().manual_seed(0)
        return [torch.rand(units, generator=drawn) for units in space.units]
    folder = DATA / name / f"scores-{space.scope}"
    if not folder.exists():
        texts, samples = Texts(calibration=32), DATA / name / "calibration.parquet"
        texts.tables(0)["calibration"].to_parquet(samples)
        scoring.importance(folder, str(source.path), samples, 16, scope=space.scope)
    return load_all_scores(folder, source.fingerprint)["wanda_sp"]
