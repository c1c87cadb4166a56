"""Weights of 4 and 8 bits: what is computed with them, what is stored, and what loads it."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import build
from transformers import AutoModelForImageTextToText

from lop.errors import LopError
from lop.models.checkpoint import load
from lop.models.fingerprints import fingerprint
from lop.models.quantized import dequantized, others_of, pack, packed_size
from lop.models.stored import Stored
from lop.plan import Bits, Plan
from lop.pruning import prune, prune_checkpoint

GROUP = 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [4, 8])
def test_what_is_computed_with_is_what_the_library_makes_of_what_is_stored(bits, dtype):
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    torch.manual_seed(0)
    weight = (0.02 * torch.randn(6, 96)).to(dtype)
    weight[0] = 0
    stored = pack(weight, bits, 32)
    args = QuantizationArgs(num_bits=bits, symmetric=True, strategy="group", group_size=32)
    scheme = QuantizationScheme(targets=["Linear"], weights=args, format="pack-quantized")
    library = BaseCompressor.get_value_from_registry("pack-quantized")
    there = library.decompress({f"weight{end}": each for end, each in stored.items()}, scheme)
    small = dequantized(weight, bits, 32)
    assert torch.equal(there["weight"], small)
    assert small.dtype == dtype
    of_all = sum(each.nbytes for each in stored.values())
    assert of_all == packed_size(6, 96, dtype.itemsize, bits, 32)


def test_a_copy_in_float32_computes_with_the_scales_that_are_stored():
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    copy = dequantized(weight.float(), 4, 32, stored=torch.bfloat16)
    assert copy.dtype == torch.float32
    assert torch.equal(copy, dequantized(weight, 4, 32).float())
    assert not torch.equal(copy, dequantized(weight.float(), 4, 32))


@pytest.mark.parametrize(("bits", "most"), [(4, 1 / 14), (8, 1 / 250)])
def test_rounding_is_within_half_a_step_of_the_largest_in_a_group(bits, most):
    torch.manual_seed(0)
    weight = torch.randn(32, 64)
    error = (dequantized(weight, bits, 32) - weight).abs().unflatten(1, (2, 32)).amax(2)
    assert (error <= most * weight.abs().unflatten(1, (2, 32)).amax(2)).all()


def case(name, tmp_path):
    """A model on disk, its inputs, a plan of units and bits for it, and scores."""
    model, inputs = build(name)
    model.save_pretrained(tmp_path / "dense")
    source = Stored(tmp_path / "dense")
    space = source.space("ffn+attention")
    kept = tuple(
        32 if kind == "ffn" else units for kind, units in zip(space.kinds, space.units, strict=True)
    )
    kept = (*kept[:-1], 16)  # layers differ
    sites = tuple(4 if kind == "ffn" else 8 for kind in space.kinds)
    others = tuple((place, 8) for place in others_of(source.model, source.sites(space.scope)))
    torch.manual_seed(1)
    scores = [torch.rand(units) for units in space.units]
    return source, inputs, Plan(space, kept, Bits((*sites[:-1], 16), others, GROUP)), scores


@pytest.mark.parametrize(
    "name", ["Qwen2.5-VL", "LLaVA-1.5", "Gemma 3", "Phi-3", "Llama", "Qwen3", "Gemma 2", "Cohere"]
)
def test_a_checkpoint_computes_what_the_plan_says(name, tmp_path):
    source, inputs, plan, scores = case(name, tmp_path)
    prune_checkpoint(source, plan, scores, tmp_path / "small")
    small = load(tmp_path / "small")
    in_memory = prune(load(tmp_path / "dense"), plan, scores, scope="ffn+attention")
    with torch.inference_mode():
        assert torch.equal(small(**inputs).logits, in_memory(**inputs).logits)
    assert fingerprint(small) == Stored(tmp_path / "small").fingerprint
    remote = type(small).from_pretrained(tmp_path / "small")  # unpacked by the library
    with torch.inference_mode():
        assert torch.equal(small(**inputs).logits, remote(**inputs).logits)


def test_stock_classes_load_what_has_one_width(tmp_path):
    source, inputs, plan, scores = case("Qwen2.5-VL", tmp_path)
    kept = tuple(32 if kind == "ffn" else 2 for kind in plan.space.kinds)
    same = Bits(tuple(4 if kind == "ffn" else 8 for kind in plan.space.kinds), (), GROUP)
    prune_checkpoint(source, Plan(plan.space, kept, same), scores, tmp_path / "small")
    one = Bits((4,) * len(kept), (("embeddings", 4), ("vision", 4)), GROUP)
    prune_checkpoint(source, Plan(plan.space, kept, one), scores, tmp_path / "one")
    for path in (tmp_path / "small", tmp_path / "one"):
        config = json.loads((path / "config.json").read_text())
        assert config["quantization_config"]["quant_method"] == "compressed-tensors"
        assert "auto_map" not in config
        stock = AutoModelForImageTextToText.from_pretrained(path)
        assert type(stock).__module__.startswith("transformers.models")
        with torch.inference_mode():
            assert torch.equal(stock(**inputs).logits, load(path)(**inputs).logits)


def test_mixed_bits_of_embeddings_load_with_the_class_that_travels_along(tmp_path):
    """transformers alone would miss the embeddings' weight while it loads."""
    source, inputs, plan, scores = case("Qwen2.5-VL", tmp_path)
    bits = Bits((4,) * len(plan.kept), (("embeddings", 8), ("projector", 8)), GROUP)
    prune_checkpoint(source, Plan(plan.space, plan.space.units, bits), scores, tmp_path / "small")
    assert (tmp_path / "small" / "modeling_lop.py").is_file()
    found = AutoModelForImageTextToText.from_pretrained(tmp_path / "small")
    assert type(found).__module__ == "lop.models.modeling_lop"
    with torch.inference_mode():
        assert torch.equal(found(**inputs).logits, load(tmp_path / "small")(**inputs).logits)


def test_tied_embeddings_are_stored_once_and_stay_tied(tmp_path):
    source, _, plan, scores = case("Gemma 2", tmp_path)
    prune_checkpoint(source, plan, scores, tmp_path / "small")
    with safe_open(tmp_path / "small" / "model.safetensors", "pt") as file:
        stored = [key for key in file.keys() if "embed" in key or "lm_head" in key]  # noqa: SIM118
    assert sorted(key.rpartition("_")[2] for key in stored) == ["packed", "scale", "shape"]
    small = load(tmp_path / "small")
    assert small.get_output_embeddings().weight is small.get_input_embeddings().weight


def test_weights_that_no_group_divides_stay_whole(tmp_path):
    source, inputs, plan, scores = case("Llama", tmp_path)
    odd = Plan(plan.space, (*plan.kept[:-1], 15), Bits((8,) * len(plan.kept), (), GROUP))
    prune_checkpoint(source, odd, scores, tmp_path / "small")
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert "model.layers.2.mlp.down_proj" in config["quantization_config"]["ignore"]
    assert "model.layers.1.mlp.down_proj" not in config["quantization_config"]["ignore"]
    with torch.inference_mode():
        assert load(tmp_path / "small")(**inputs).logits.isfinite().all()


def test_a_quantized_checkpoint_is_not_cut_again(tmp_path):
    source, _, plan, scores = case("Llama", tmp_path)
    prune_checkpoint(source, plan, scores, tmp_path / "small")
    again = Stored(tmp_path / "small")
    space = again.space("ffn+attention")
    with pytest.raises(LopError, match="is quantized; expected the unquantized model"):
        prune_checkpoint(again, space.dense, [torch.rand(n) for n in space.units], tmp_path / "x")
    with pytest.raises(LopError, match="the padded format is not quantized"):
        prune_checkpoint(source, plan, scores, tmp_path / "x", padded=True)
    missing = Plan(plan.space, plan.kept, Bits((8,) * len(plan.kept), (("vision", 8),), GROUP))
    with pytest.raises(LopError, match="'vision': this model has embeddings, head besides"):
        prune_checkpoint(source, missing, scores, tmp_path / "x")


def test_what_does_not_fit_together_is_refused(tmp_path):
    source, _, plan, scores = case("Llama", tmp_path)
    prune_checkpoint(source, plan, scores, tmp_path / "small")
    file = tmp_path / "small" / "model.safetensors"
    tensors, key = load_file(file), "model.layers.0.mlp.up_proj.weight"
    broken = {
        "without its scales": {f"{key}_scale": None},
        "expected packed I32": {f"{key}_shape": torch.tensor([32.0, 32.0])},
        "make no": {f"{key}_shape": torch.tensor([32, 0])},
        "scales make no": {f"{key}_scale": torch.ones(32, 3)},
        r"\(32,\) scales": {f"{key}_scale": torch.ones(32)},
    }
    for told, change in broken.items():
        kept = {name: value for name, value in (tensors | change).items() if value is not None}
        save_file(kept, file, {"format": "pt"})
        for read in (Stored, load):
            with pytest.raises(LopError, match=told):
                read(tmp_path / "small")
