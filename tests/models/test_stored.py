"""A model folder is read as `from_pretrained` reads it, or refused in one line."""

import ast
import importlib.util
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from lop.errors import LopError
from lop.models.checkpoint import load, load_processor, read_config
from lop.models.fingerprints import fingerprint
from lop.models.stored import Stored
from lop.models.weights import INDEX, read_header

WEIGHTS = "model.safetensors"


def edit(folder, **values):
    """Set values of config.json, `a__b` in the object `a`."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    for name, value in values.items():
        *path, last = name.split("__")
        place = config
        for key in path:
            place = place[key]
        place[last] = value
    file.write_text(json.dumps(config))


def link(folder, name, target):
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)


def as_index(folder, index):
    (folder / WEIGHTS).rename(folder / "part.safetensors")
    (folder / INDEX).write_text(json.dumps(index))


def shards_of_another_model(folder):
    """What an older, sharded version leaves beside a model."""
    other = load(folder)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.01)
    other.save_pretrained(folder / "other", max_shard_size="100KB")
    for file in (folder / "other").glob("model*"):
        file.rename(folder / file.name)
    shutil.rmtree(folder / "other")
    assert (folder / INDEX).exists()


@pytest.mark.parametrize(
    "change",
    [
        shards_of_another_model,
        lambda folder: shutil.copy(folder / "x", folder / "model.fp16.safetensors"),
        lambda folder: (
            (folder / WEIGHTS).rename(folder / "mine.safetensors")
            and edit(folder, transformers_weights="mine.safetensors")
        ),
        lambda folder: as_index(
            folder,
            {"metadata": {}, "weight_map": {"lm_head.weight": "part.safetensors"}},
        ),
    ],
    ids=["older shards", "a variant", "named in the config", "one shard"],
)
def test_the_files_are_those_that_transformers_loads(change, model_dir):
    (model_dir / "x").write_bytes(b"no weights")
    change(model_dir)
    loaded = AutoModelForImageTextToText.from_pretrained(model_dir)
    assert Stored(model_dir).fingerprint == fingerprint(loaded)


def test_a_variant_is_loaded_when_asked_for(model_dir):
    (model_dir / WEIGHTS).rename(model_dir / "model.fp16.safetensors")
    assert load(model_dir, variant="fp16").dtype == torch.float32
    with pytest.raises(LopError, match="cannot tell which files hold the weights: .*no file"):
        load(model_dir)


def test_what_loading_ignores_is_ignored(model_dir):
    file = model_dir / WEIGHTS
    key = "model.language_model.layers.0.self_attn.rotary_emb.inv_freq"
    save_file(load_file(file) | {key: torch.ones(4)}, file, {"format": "pt"})
    assert Stored(model_dir).fingerprint == fingerprint(load(model_dir))


def test_a_fingerprint_knows_the_dtype_that_loading_gives(model_dir):
    load(model_dir, dtype=torch.float16).save_pretrained(model_dir)
    edit(model_dir, dtype="bfloat16")
    assert Stored(model_dir).fingerprint == fingerprint(load(model_dir))


@pytest.mark.parametrize("method", ["awq", "gptq", "bitsandbytes", "compressed-tensors", "fp8"])
def test_quantized_models_are_refused_by_their_method(method, model_dir):
    how = {"load_in_4bit": True} if method == "bitsandbytes" else {"quant_method": method}
    edit(model_dir, quantization_config=how)
    for read in (Stored, load, read_config):
        with pytest.raises(LopError, match=rf"is quantized \({method}\)"):
            read(model_dir)


BROKEN = {
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "cannot read JSON"),
    "no object": (lambda f: (f / "config.json").write_text("[]"), "expected a JSON object"),
    "deep": (lambda f: (f / "config.json").write_text("[" * 10**5), "cannot read JSON"),
    "bytes": (lambda f: (f / "config.json").write_bytes(b"\xff"), "cannot read JSON"),
    "empty": (lambda f: (f / "config.json").write_text("{}"), "cannot read a model config"),
    "type": (lambda f: edit(f, model_type="nope"), "cannot read a model config"),
    "text": (lambda f: edit(f, text_config__intermediate_size="40"), "expected int, got str"),
    "negative": (lambda f: edit(f, text_config__intermediate_size=-1), "negative dimension"),
    "wide": (lambda f: edit(f, text_config__hidden_size=10**12), "make no model"),
    "words": (lambda f: edit(f, text_config__vocab_size=10**12), "the config asks for"),
    "deep tower": (lambda f: edit(f, vision_config__depth=10**9), "asks for 1000000000 layers"),
    "not ours": (lambda f: edit(f, text_config__pruned_ffn={"x": 1}), "make no model"),
    "no key": (lambda f: as_index(f, {}), "which files hold the weights"),
    "index": (lambda f: as_index(f, {"metadata": {}, "weight_map": 3}), "which files hold"),
    "absent": (
        lambda f: as_index(f, {"metadata": {}, "weight_map": {"a": "b.safetensors"}}),
        "the checkpoint is incomplete",
    ),
    "absolute": (
        lambda f: as_index(f, {"metadata": {}, "weight_map": {"a": "/etc/passwd"}}),
        "/etc/passwd: is named as weights, but is outside",
    ),
    "above": (
        lambda f: as_index(f, {"metadata": {}, "weight_map": {"a": "x/../../a.safetensors"}}),
        "is named as weights, but is outside",
    ),
    "named above": (lambda f: edit(f, transformers_weights="../a.safetensors"), "inside the model"),
    "generation": (
        lambda f: (f / "generation_config.json").write_text("null"),
        "generation_config.json: expected a JSON object",
    ),
    "adapter": (lambda f: (f / "adapter_config.json").write_text("{}"), "has an adapter"),
    "link": (lambda f: link(f, "extra.txt", "/etc/hostname"), "extra.txt: is a link that leads"),
    "link to weights": (lambda f: link(f, WEIGHTS, "/etc/hostname"), "is a link that leads"),
    "link to a folder": (lambda f: link(f, "more", "/etc"), "more: is a link that leads"),
    "long": (
        lambda f: os.truncate(f / "config.json", 10**8 + 1),
        "is larger than 100,000,000 bytes",
    ),
    "pipe": (lambda f: os.mkfifo(f / "extra.txt"), "extra.txt: is not an ordinary file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_one_line_by_name(name, model_dir):
    spoil, says = BROKEN[name]
    spoil(model_dir)
    for read in (Stored, load):
        with pytest.raises(LopError, match=says) as error:
            read(model_dir)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda f: (f / "tokenizer.json").write_text("{"),
        lambda f: (f / "tokenizer.json").write_text("null"),
        lambda f: (f / "tokenizer.json").unlink(),
        lambda f: (f / "tokenizer_config.json").write_text("[]"),
        lambda f: (f / "processor_config.json").write_text("null"),
        lambda f: (f / "processor_config.json").unlink(),
        lambda f: link(f, "tokenizer.json", "/etc/hostname"),
    ],
)
def test_a_broken_processor_is_one_line(spoil, model_dir):
    spoil(model_dir)
    with pytest.raises(LopError, match=r"^\S+: ") as error:
        load_processor(model_dir)
    assert "\n" not in str(error.value)


def test_links_of_the_hubs_cache_and_within_a_folder_are_followed(model_dir, tmp_path):
    repo = tmp_path / "models--somebody--small"
    snapshot, blobs = repo / "snapshots" / "abc", repo / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(model_dir.iterdir()):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(Path("..") / ".." / "blobs" / str(number))
    assert Stored(snapshot).fingerprint == Stored(model_dir).fingerprint
    assert load_processor(snapshot).chat_template
    (model_dir / WEIGHTS).rename(model_dir / "a.safetensors")
    link(model_dir, WEIGHTS, "a.safetensors")
    link(model_dir, "circle", "circle")
    link(tmp_path, "current", model_dir)  # the folder itself may be a link
    assert Stored(tmp_path / "current").fingerprint == fingerprint(load(snapshot))


@pytest.mark.parametrize("size", [64, 32, 0])
def test_a_header_whose_sizes_do_not_fit_its_shapes_is_refused(size, tmp_path):
    # float32 bytes under a header that says bfloat16, as a wrong writer would leave them
    header = {"bias": {"dtype": "BF16", "shape": [8], "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    file = tmp_path / WEIGHTS
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(64))
    with pytest.raises(LopError, match="cannot read safetensors"):
        read_header(file)


def test_a_hub_id_without_a_hub_fails_at_once():
    for read in (Stored, load, load_processor, read_config):  # HF_HUB_OFFLINE is set in tests
        with pytest.raises(LopError, match="somebody/nothing: no such directory, and the hub is"):
            read("somebody/nothing")


def test_transformers_has_the_private_function_that_lop_replaces():
    """It has no public way to choose a class by what is in a config."""
    import transformers as tf

    spec = importlib.util.find_spec("transformers.models.auto.auto_factory")
    tree = ast.walk(ast.parse(Path(spec.origin).read_text()))
    nodes = [node for node in tree if isinstance(node, ast.FunctionDef | ast.Call)]
    made = [node for node in nodes if getattr(node, "name", None) == "_get_model_class"]
    used = [node for node in nodes if getattr(getattr(node, "func", 0), "id", 0) == made[0].name]
    names = [[of.arg for of in node.args.args] for node in made]
    line = f"transformers {tf.__version__} differs from 5.24: mend lop/models/auto_classes.py"
    assert names == [["config", "model_mapping"]], line
    assert len(used) == 4, line  # all by the module's own name, with both arguments
    assert {len(node.args) for node in used} == {2}, line


def test_auto_classes_choose_as_before_for_configs_with_two_texts():
    import transformers as tf
    from transformers.models.auto import auto_factory

    config = tf.MusicgenConfig(
        text_encoder=tf.T5Config(),
        audio_encoder=tf.EncodecConfig(),
        decoder=tf.MusicgenDecoderConfig(),
    )
    with pytest.raises(ValueError, match="Multiple valid text configs"):
        config.get_text_config()
    mapping = tf.AutoModelForTextToWaveform._model_mapping
    chosen = auto_factory._get_model_class(config, mapping)
    assert chosen is tf.MusicgenForConditionalGeneration
