"""Pruned models in llama.cpp itself, which the package xllamacpp brings compiled."""

import pytest
import shapes
import torch

from benchmarks.engines import llama_cpp
from lop.engines.gguf import export
from lop.models.checkpoint import load
from lop.reference.model import build_tokenizer

pytest.importorskip("xllamacpp", reason="llama.cpp is not there: pip install xllamacpp")
PROMPTS = [[5, 17, 33, 60, 41], [70, 8, 9, 22, 31, 44, 12, 65, 3, 29, 50]]
SHAPES = shapes.SHAPES | {
    "Gemma 3": lambda: shapes.config(
        "Gemma3Text",
        num_hidden_layers=6,
        query_pre_attn_scalar=32,
        sliding_window=16,
        tie_word_embeddings=False,
        layer_types=["sliding_attention"] * 5 + ["full_attention"],
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_it_says_what_transformers_says(tmp_path, name):
    tokenizer, own = build_tokenizer(["what is it?", "yes", "no"], 300), name in ("Llama", "Qwen2")
    cases = ["dense", "sites", "layers", *(["biases"] if own else [])]
    shapes.write(tmp_path, SHAPES[name], cases[1:])
    said = set()
    for case in cases:
        tokenizer.save_pretrained(tmp_path / case)
        export(tmp_path / case, tmp_path / "m.gguf", "f32")
        model, answers = load(tmp_path / case), llama_cpp.answers(tmp_path / "m.gguf", PROMPTS, 10)
        for ids, answer in zip(PROMPTS, answers, strict=True):
            given = torch.tensor([ids])
            whole = model.generate(
                given, attention_mask=torch.ones_like(given), max_new_tokens=10, do_sample=False
            )
            assert answer.tokens == whole[0, len(ids) :].tolist(), case
        said.add(tuple(tuple(answer.tokens) for answer in answers))
    assert len(said) == len(cases)  # what is cut matters
