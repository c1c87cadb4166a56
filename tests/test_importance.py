"""Scores against the formulas worked by hand on recorded activations."""

import copy

import pytest
import torch
from short import memory_for, pictures_seen

from lop.data.encoding import encode
from lop.errors import LopError
from lop.evaluation.footprint import memory_meter
from lop.importance import Stats, collect, load_scores, save_scores
from lop.models.checkpoint import load
from lop.models.space import decoder_layers, find_ffns
from lop.plan import Plan, Space
from lop.pruning import prune


@pytest.fixture
def recorded(model, processor, samples):
    """Per layer, the activations (tokens, d) of each sample, recorded one sample at a time."""
    ffns = find_ffns(model)
    seen = [[] for _ in ffns]
    hooks = [
        ffn.out.register_forward_pre_hook(lambda _, args, s=s: s.append(args[0][0].clone()))
        for ffn, s in zip(ffns, seen, strict=True)
    ]
    with torch.inference_mode():
        for batch in encode(samples, model, processor, 1):
            model(**batch.inputs)
    for hook in hooks:
        hook.remove()
    return seen


def test_scores_follow_their_formulas(model, processor, samples, recorded):
    scores = collect(model, encode(samples, model, processor, batch_size=5))  # padded batches
    for i, (ffn, layer) in enumerate(zip(find_ffns(model), recorded, strict=True)):
        tokens = torch.cat(layer)
        gate, up, down = (m.weight for m in ffn.maps)
        expected = {
            "activation_l2": torch.stack([x.norm(dim=0) for x in layer]).mean(0),
            "magnitude": torch.cat([gate, up, down.T], 1).norm(dim=1),
            "wanda_sp": tokens.norm(dim=0) * down.abs().mean(0),
            "flap": tokens.var(0) * down.norm(dim=0) ** 2,
            "mean_activation": tokens.mean(0),
        }
        of_flap = expected["flap"]
        expected["flap_standard"] = (of_flap - of_flap.mean()) / of_flap.std()
        assert scores.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(scores[name][i], value, rtol=1e-4, atol=1e-5)


def test_hooks_are_gone_and_weights_untouched(model, processor, samples):
    before = copy.deepcopy(model.state_dict())
    collect(model, encode(samples, model, processor, 12))
    assert all(not ffn.out._forward_pre_hooks for ffn in find_ffns(model))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_running_variance_stands_large_means():
    x = 1000 + torch.randn(7, 11, 3, generator=torch.Generator().manual_seed(0))
    stats = Stats.zeros(3)
    for part in x.split(2):
        stats.add(part, torch.ones(part.shape[:2], dtype=torch.long))
    torch.testing.assert_close(
        stats.variance, x.double().flatten(0, 1).var(0).float(), rtol=1e-3, atol=0
    )


def test_columns_apart_are_as_columns_together(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 9, 50, generator=generator)
    mask = (torch.arange(9) < torch.tensor([[9], [5], [7], [1]])).long()
    together = Stats.zeros(50)
    together.add(x, mask)
    monkeypatch.setattr("lop.importance.CHUNK", 4 * 9 * 8)
    for given in (x, x.flatten(0, 1), x[mask.bool()]):  # as FFNs are given their tokens
        apart = Stats.zeros(50)
        apart.add(given, mask)
        assert (apart.samples, apart.tokens) == (4, 22)
        for name in ("sample_norm", "mean", "sq_dev"):
            torch.testing.assert_close(getattr(apart, name), getattr(together, name))


def test_memory_does_not_grow_with_the_batch():
    # Qwen2.5-VL-7B's width, six samples of 1,300 tokens: 591 MB in float32
    x = torch.randn(6, 1300, 18_944, dtype=torch.bfloat16)
    mask = torch.ones(x.shape[:2], dtype=torch.long)
    stats = Stats.zeros(x.shape[-1])
    stats.add(x[:, :2], mask[:, :2])  # what the first call alone takes
    what, peak = memory_meter("cpu")
    if what != "rss":
        pytest.skip("needs a peak of memory that can be set back")
    stats.add(x, mask)
    assert peak() < 300e6


def test_scores_with_little_memory_are_the_same(model, processor, samples):
    batches = encode(samples, model, processor, 12)
    expected = collect(model, encode(samples, model, processor, 12))
    with memory_for(decoder_layers(model)[1], 4) as seen:  # layer 0 has then seen the batch
        found = collect(model, batches)
    assert seen == [12, 6, 3, 3, 3, 3]
    for name, layers in expected.items():
        torch.testing.assert_close(found[name], layers, msg=name)


def test_pictures_are_seen_once(model, processor, samples):
    twice = samples.assign(images=[samples["images"][i // 2 * 2] for i in range(len(samples))])
    with pictures_seen(model) as seen:
        collect(model, encode(twice, model, processor, 5))
    assert sum(seen) == 6


def test_nan_weights_are_named(model, processor, samples):
    find_ffns(model)[1].out.weight.data[0, 0] = float("nan")
    with pytest.raises(
        LopError, match="magnitude: site 1 has scores that are not finite|activation_l2: site 2"
    ):
        collect(model, encode(samples, model, processor, 12))


def test_scores_on_disk(scores, tmp_path):
    path = tmp_path / "s.safetensors"
    save_scores(scores, path, "model-a", Space.ffns([40] * 3))
    assert all(torch.equal(a, b) for a, b in zip(load_scores(path, "model-a"), scores, strict=True))
    with pytest.raises(LopError, match="scores of model model-a, but this model is model-b"):
        load_scores(path, "model-b")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(LopError, match="cannot read scores"):
        load_scores(path)
    with pytest.raises(LopError, match="cannot read scores"):
        load_scores(tmp_path / "none.safetensors")


def test_offloaded_layers_score_as_those_in_memory(model_dir, processor, samples, tmp_path):
    layers = {f"model.language_model.layers.{i}": "disk" if i else "cpu" for i in range(3)}
    rest = dict.fromkeys(["model.visual", "model.language_model.embed_tokens", "lm_head"], "cpu")
    rest |= {"model.language_model.norm": "cpu", "model.language_model.rotary_emb": "cpu"}
    spread = load(model_dir, device_map=layers | rest, offload_folder=tmp_path / "offload")
    whole = load(model_dir)
    assert find_ffns(spread)[2].out.weight.is_meta
    found, expected = (
        collect(m, encode(samples, m, processor, batch_size=5)) for m in (spread, whole)
    )
    for name, tensors in expected.items():
        torch.testing.assert_close(found[name], tensors, msg=name)
    with pytest.raises(LopError, match="offloaded by its device map"):
        prune(spread, Plan.uniform(Space.ffns((40, 40, 40)), 0.5), expected["flap"])
