"""GGUF files read back: by transformers where it knows the architecture, else by what llama.cpp
does with one, written out here."""

import gguf
import numpy as np
import pytest
import shapes
import torch
from transformers import AutoModelForCausalLM

from lop.cli import main
from lop.engines.gguf import export
from lop.errors import LopError
from lop.models.checkpoint import load
from lop.models.stored import Stored
from lop.plan import Bits, Plan
from lop.pruning import prune_checkpoint

# transformers reads no head size or scale of these from GGUF: they have what it takes for granted
READ_BACK = {
    "Qwen3": lambda: shapes.config("Qwen3", head_dim=128),
    "Gemma 2": lambda: shapes.config(
        "Gemma2", head_dim=256, query_pre_attn_scalar=256, sliding_window=4096
    ),
    "Gemma 3": lambda: shapes.config(
        "Gemma3Text",
        num_hidden_layers=6,
        head_dim=256,
        query_pre_attn_scalar=256,
        sliding_window=512,
        layer_types=["sliding_attention"] * 5 + ["full_attention"],
    ),
}
AS_DECI = {
    "Llama": shapes.SHAPES["Llama"],
    "Mistral": lambda: shapes.config("Mistral", sliding_window=None),
    "Qwen2": shapes.SHAPES["Qwen2"],
    "Llama 3": lambda: shapes.config(
        "Llama",
        tie_word_embeddings=True,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ),
}
IDS = torch.randint(3, 80, (1, 12), generator=torch.Generator().manual_seed(0))


def logits(model):
    with torch.no_grad():
        return model(IDS).logits[0]


def close(found, expected):
    assert expected.std() > 0.5
    assert (found - expected).abs().max() < 1e-3 * expected.std()


@pytest.mark.parametrize("name", READ_BACK)
@pytest.mark.parametrize("case", ["dense", "neurons", "sites"])
def test_padded_files_are_the_same_model(tmp_path, name, case):
    shapes.write(tmp_path, READ_BACK[name], [case] if case != "dense" else [])
    told = export(tmp_path / case, tmp_path / "m.gguf", "f32")
    back = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    close(logits(back.eval()), logits(load(tmp_path / case)))
    assert told["padded"] == (case != "dense")


@pytest.mark.parametrize("name", AS_DECI)
def test_every_layer_has_its_own_size_as_deci(tmp_path, name):
    for case in shapes.write(tmp_path, AS_DECI[name]):
        told = export(tmp_path / case, tmp_path / "m.gguf", "f32")
        close(llama_cpp(tmp_path / "m.gguf"), logits(load(tmp_path / case)))
        assert told["architecture"] == ("deci" if case != "dense" else told["architecture"])
        assert not told["padded"]


def llama_cpp(path):
    """Logits of IDS by llama.cpp's `llama`, `qwen2` and `deci`, as src/models has them there."""
    reader = gguf.GGUFReader(path)
    tensors = {t.name: torch.tensor(np.array(t.data)).float() for t in reader.tensors}
    arch = field(reader, "general.architecture")

    def key(name, layer=None):
        value = field(reader, f"{arch}.{name}")
        return value[layer] if isinstance(value, list) and layer is not None else value

    def norm(x, name):
        scale = (x.pow(2).mean(-1, keepdim=True) + key("attention.layer_norm_rms_epsilon")).rsqrt()
        return x * scale * tensors[name]

    def linear(x, name):
        bias = tensors.get(f"{name}.bias")
        return torch.nn.functional.linear(x, tensors[f"{name}.weight"], bias)

    size = key("attention.key_length")
    steps = key("rope.freq_base") ** -(torch.arange(0, size, 2).float() / size)
    angles = torch.arange(IDS.shape[1])[:, None] * steps / tensors.get("rope_freqs.weight", 1)

    def rotated(x, heads):
        x = x.view(len(x), heads, size)
        paired = x.unflatten(-1, (-1, 2)) if arch != "qwen2" else x.unflatten(-1, (2, -1)).mT
        turned = torch.view_as_complex(paired.contiguous()) * torch.exp(1j * angles)[:, None]
        back = torch.view_as_real(turned)
        return (back if arch != "qwen2" else back.mT).flatten(-2)

    x = tensors["token_embd.weight"][IDS[0]]
    for i in range(key("block_count")):
        at, heads, shared = (
            f"blk.{i}",
            key("attention.head_count", i),
            key("attention.head_count_kv", i),
        )
        h = norm(x, f"{at}.attn_norm.weight")
        q = rotated(linear(h, f"{at}.attn_q"), heads)
        k = rotated(linear(h, f"{at}.attn_k"), shared).repeat_interleave(heads // shared, 1)
        v = (
            linear(h, f"{at}.attn_v")
            .view(len(h), shared, size)
            .repeat_interleave(heads // shared, 1)
        )
        out = torch.nn.functional.scaled_dot_product_attention(
            q.transpose(0, 1)[None],
            k.transpose(0, 1)[None],
            v.transpose(0, 1)[None],
            is_causal=True,
        )[0]
        x = x + linear(out.transpose(0, 1).flatten(1), f"{at}.attn_output")
        assert tensors[f"{at}.ffn_up.weight"].shape[0] == key("feed_forward_length", i)
        h = norm(x, f"{at}.ffn_norm.weight")
        gated = torch.nn.functional.silu(linear(h, f"{at}.ffn_gate")) * linear(h, f"{at}.ffn_up")
        x = x + linear(gated, f"{at}.ffn_down")
    head = tensors.get("output.weight", tensors["token_embd.weight"])
    return norm(x, "output_norm.weight") @ head.T


def field(reader, name):
    found = reader.get_field(name).contents()
    return list(found) if isinstance(found, list | tuple) else found


def test_bytes_shrink_with_the_plan_and_the_type(tmp_path):
    shapes.write(tmp_path, shapes.SHAPES["Llama"], ["sites"])
    sizes = {
        (case, dtype): export(tmp_path / case, tmp_path / "m.gguf", dtype)["bytes"]
        for case in ("dense", "sites")
        for dtype in ("f32", "f16", "bf16", "q8_0")
    }
    assert sizes["sites", "f32"] < 0.8 * sizes["dense", "f32"]
    assert sizes["dense", "f16"] == sizes["dense", "bf16"] < 0.6 * sizes["dense", "f32"]
    assert sizes["dense", "q8_0"] < 0.8 * sizes["dense", "f16"]


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: shapes.config("Cohere"), "cohere: expected a text decoder, one of llama, mistral"),
        (lambda: shapes.config("Mistral", sliding_window=16), "sliding_window"),
        (lambda: shapes.config("Gemma2", query_pre_attn_scalar=16), "query_pre_attn_scalar 16"),
    ],
)
def test_what_llama_cpp_cannot_run_is_refused(tmp_path, make, line):
    shapes.write(tmp_path, make, [])
    with pytest.raises(LopError, match=line):
        export(tmp_path / "dense", tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


def test_biases_are_refused_where_the_architecture_has_none(tmp_path):
    shapes.write(tmp_path, shapes.SHAPES["Qwen3"], ["biases"])
    with pytest.raises(LopError, match="compensation biases; llama.cpp's qwen3 has none"):
        export(tmp_path / "biases", tmp_path / "m.gguf")


def test_quantized_weights_are_written_as_what_they_stand_for(tmp_path):
    shapes.write(tmp_path, shapes.SHAPES["Llama"], [])
    source = Stored(tmp_path / "dense")
    space, kept = source.space(), (16, 32, 48, 16)
    scores = [torch.arange(float(units)) for units in space.units]
    plan = Plan(space, kept, Bits((8, 4, 8, 16), group=16))
    prune_checkpoint(source, plan, scores, tmp_path / "small")
    assert Stored(tmp_path / "small").quantized
    export(tmp_path / "small", tmp_path / "m.gguf", "f32")
    close(llama_cpp(tmp_path / "m.gguf"), logits(load(tmp_path / "small")))


def test_a_tokenizer_goes_along(tmp_path, processor):
    shapes.write(tmp_path, shapes.SHAPES["Llama"], ["neurons"])
    processor.tokenizer.save_pretrained(tmp_path / "neurons")
    command = ["export", "--model", str(tmp_path / "neurons"), "--out", str(tmp_path / "m.gguf")]
    assert main(command) == 0
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == 300
    for text in ("what is it?", "is there a red shape in it?"):
        ids = processor.tokenizer(text)["input_ids"]
        assert [tokens[i] for i in ids] == processor.tokenizer.convert_ids_to_tokens(ids)
