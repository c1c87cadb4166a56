"""Every architecture goes the whole way: score, plan, prune, save, reload, generate."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tf
from processors import PROCESSORS
from processors import samples as questions
from tiny import ARCHITECTURES, TEXT, build, text_ids

from lop.data.encoding import IGNORE, Batch, append_tokens, encode, prompt_tensors
from lop.data.samples import write_samples
from lop.errors import LopError
from lop.evaluation.answers import evaluate
from lop.importance import collect
from lop.methods import uniform_plan
from lop.models.checkpoint import load, model_class, save
from lop.models.cutting import cut, write_files
from lop.models.fingerprints import fingerprint
from lop.models.space import find_ffns, find_sites, find_space, space_of
from lop.models.stored import Stored
from lop.plan import Plan
from lop.pruning import kept_units, masked, prune, prune_checkpoint
from lop.reward import Reward

RATIOS = [0.2, 0.5, 0.8]


@torch.inference_mode()
def logits(model, inputs):
    return model(**inputs).logits


def write(out, source, kept, **options):
    out.mkdir(exist_ok=True)
    write_files(cut(source, kept, **options)[1], out)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_masked_equals_sliced_equals_reloaded(name, tmp_path):
    model, inputs = build(name)
    outside = {n: p.clone() for n, p in model.named_parameters() if ".mlp." not in n}
    scores = collect(model, [Batch(inputs, inputs["input_ids"], inputs["input_ids"])])
    space = find_space(model)
    plan = Plan.from_ratios(RATIOS, space, 0.5)
    with masked(model, plan, scores["flap"]):
        expected = logits(model, inputs)
    assert (logits(model, inputs) - expected).abs().max() > 1e-4

    model.save_pretrained(tmp_path / "dense")
    source = Stored(tmp_path / "dense")
    assert (source.space(), source.fingerprint) == (space, fingerprint(model))
    small = prune(copy.deepcopy(model), plan, scores["flap"])
    torch.testing.assert_close(logits(small, inputs), expected, atol=1e-5, rtol=0)
    assert {n for n, p in small.named_parameters() if n in outside and p.equal(outside[n])} == set(
        outside
    )

    prune_checkpoint(source, plan, scores["flap"], tmp_path / "cut")
    small.save_pretrained(tmp_path / "saved")
    for path in ("cut", "saved"):  # file by file, and from memory
        reloaded = load(tmp_path / path)
        assert torch.equal(logits(reloaded, inputs), logits(small, inputs))
        assert [ffn.units for ffn in find_ffns(reloaded)] == list(plan.kept)
        assert fingerprint(reloaded) == Stored(tmp_path / path).fingerprint
    answer = reloaded.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert answer.shape == (2, inputs["input_ids"].shape[1] + 3)


def drop(plan, sites):
    """The plan of sites whose middle layer is dropped, with attention skipped in the first."""
    kept = dict(zip([(s.layer, s.kind) for s in sites], plan.kept, strict=True))
    gone = {(0, "attention"), (1, "attention"), (1, "ffn")}
    return Plan(plan.space, tuple(0 if key in gone else n for key, n in kept.items()))


def uneven(plan, sites):
    """The plan of sites with the last layer's attention whole."""
    last = max(i for i, site in enumerate(sites) if site.kind == "attention")
    kept = list(plan.kept)
    kept[last] = plan.space.units[last]
    return Plan(plan.space, tuple(kept))


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.filterwarnings("ignore:attention stays whole")  # Mllama's cross-attention
def test_attention_and_layers_go_the_whole_way(name, tmp_path):
    """As above with heads: half of them, then none in one layer, and another layer dropped."""
    model, inputs = build(name)
    model = model.double()  # logits of tens of nats are not exact to 1e-5 in float32
    inputs = {key: of.double() if of.is_floating_point() else of for key, of in inputs.items()}
    scope = "ffn+attention"
    scores = collect(model, [Batch(inputs, inputs["input_ids"], inputs["input_ids"])], scope=scope)
    sites = find_sites(model, scope)
    space = space_of(sites)
    half = Plan(space, tuple(n // 2 for n in space.units))
    model.save_pretrained(tmp_path / "dense")
    for i, plan in enumerate((half, uneven(half, sites), drop(half, sites))):
        which = scores["flap"] if i else scores["magnitude"]
        with masked(model, plan, which, scope):
            expected = logits(model, inputs)
        assert (logits(model, inputs) - expected).abs().max() > 1e-2
        small = prune(copy.deepcopy(model), plan, which, scope=scope)
        torch.testing.assert_close(logits(small, inputs), expected, atol=1e-5, rtol=0)
        out = tmp_path / f"cut-{i}"
        out.mkdir()
        write(out, Stored(tmp_path / "dense"), kept_units(which, plan), scope=scope)
        small.save_pretrained(tmp_path / f"saved-{i}")
        for path in (out, tmp_path / f"saved-{i}"):
            reloaded = load(path)
            # buffers are computed anew, in float32
            torch.testing.assert_close(logits(reloaded, inputs), expected, atol=1e-4, rtol=0)
            assert parameters(reloaded) == parameters(small) < parameters(model)
        caches = CACHES[1:2] if name in ONE_CACHE else CACHES
        told = [generate(reloaded, inputs, **how) for how in caches]
        assert all(torch.equal(other, told[0]) for other in told[1:])


# these give other logits without a cache, or with a static one, before anything is cut
ONE_CACHE = ("PaliGemma", "PaliGemma 2")
CACHES = ({"use_cache": False}, {"use_cache": True}, {"cache_implementation": "static"})


def generate(model, inputs, **how):
    given = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    return model.generate(**inputs, **given, **how)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def greedy(model, batch, count):
    """The tokens (B, count) that the model's own `generate` gives, whatever ends an answer."""
    length = batch["input_ids"].shape[1]
    options = {"do_sample": False, "max_new_tokens": count, "eos_token_id": None}
    return model.generate(**batch, **options, min_new_tokens=count)[:, length:]


@torch.inference_mode()
def own_judgement(model, processor, samples):
    """Each answer's log-likelihood, and whether it is greedy: by `generate`, a token at a time."""
    found = []
    for row, batch in zip(
        samples.to_dict("records"), encode(samples, model, processor, 1), strict=True
    ):
        targets = batch.targets[batch.targets != IGNORE]
        prompt = prompt_tensors(processor, [row], "left")
        steps = {"return_dict_in_generate": True, "output_logits": True}
        loglik, right = 0.0, True
        for i, token in enumerate(targets.tolist()):
            given = append_tokens(model, prompt, [targets[:i].tolist()], "left")
            out = model.generate(**given, **steps, do_sample=False, max_new_tokens=1)
            logits = out.logits[0][0].float()
            loglik += float(logits.log_softmax(-1)[token])
            right &= int(logits.argmax()) == token
        found.append((loglik, right))
    return [of[0] for of in found], [of[1] for of in found]


@pytest.mark.parametrize("name", PROCESSORS)
def test_the_whole_pipeline_runs(name, tmp_path):
    """Encode, score, judge, cut, evaluate: the reward says what the model itself says."""
    model, processor, samples = build(name)[0], PROCESSORS[name](), questions()
    scores = collect(model, encode(samples, model, processor, 3))
    space = find_space(model)
    plan, units = Plan.from_ratios(RATIOS, space, 0.5), space.units
    small = prune(copy.deepcopy(model), plan, scores["flap"])
    # so that some are right: one answer is the pruned model's own, and so is its end
    alone = [prompt_tensors(processor, [row], "left") for row in samples.to_dict("records")]
    said = [greedy(small, prompt, 16)[0].tolist() for prompt in alone]
    which, tokens = next((i, of) for i, of in enumerate(said) if len(set(of)) > 1)
    count = next(i for i, token in enumerate(tokens) if token != tokens[0])
    end = tokens[count]
    model.generation_config.eos_token_id = small.generation_config.eos_token_id = [end]
    own = processor.tokenizer.decode(tokens[:count])
    answers = samples["answer"].where(samples.index != which, own)
    samples = samples.assign(answer=answers).drop(columns="answers")
    loglik, right = own_judgement(small, processor, samples)
    assert right[which]
    with Reward(model, processor, samples, scores["flap"], batch_size=3) as reward:
        correct, found = reward.per_sample(plan)
        last = Plan(space, (*units[:-1], units[-1] // 2))
        plain = reward.per_sample(last)
        with reward.dense_below(len(units) - 1):
            for _ in range(2):  # what is below runs, and is remembered
                np.testing.assert_array_equal(reward.per_sample(last), plain)
    np.testing.assert_allclose(found, loglik, rtol=1e-4)
    assert correct.astype(bool).tolist() == right

    save(model, processor, tmp_path / "dense")
    prune_checkpoint(Stored(tmp_path / "dense"), plan, scores["flap"], tmp_path / "cut")
    write_samples(samples, tmp_path / "samples.parquet")
    answered = evaluate(tmp_path / "cut", tmp_path / "samples.parquet", batch_size=2)
    assert answered.samples["prediction"][which] == own
    assert answered.samples["correct"].tolist() == right


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.filterwarnings("ignore:attention stays whole")
def test_a_reward_judges_plans_of_heads_and_layers(name):
    """By views of the whole weights, it says what the model that is cut says, and undoes it all."""
    model, processor, samples = build(name)[0], PROCESSORS[name](), questions()
    scope = "ffn+attention"
    scores = collect(model, encode(samples, model, processor, 3), scope=scope)
    sites = find_sites(model, scope)
    half = Plan(space_of(sites), tuple(s.units // 2 for s in sites))
    plan, means = drop(half, sites), scores["mean_activation"]
    small = prune(copy.deepcopy(model), plan, scores["flap"], means, scope)
    before = [vars(site.module).copy() for site in sites]
    options = {"batch_size": 3, "mean_activation": means, "scope": scope}
    with Reward(model, processor, samples, scores["flap"], **options) as reward:
        whole, found = (reward.per_sample(of)[1] for of in (half.space.dense, plan))
    np.testing.assert_allclose(found, own_judgement(small, processor, samples)[0], rtol=1e-3)
    np.testing.assert_allclose(whole, own_judgement(model, processor, samples)[0], rtol=1e-3)
    for site, was in zip(sites, before, strict=True):
        assert vars(site.module).keys() == was.keys()
        assert all(vars(site.module)[name] is of for name, of in was.items())


@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize("kind", ["Llama", "Phi3"])
def test_one_head_of_keys_for_all_and_one_for_each(kind, kv_heads, tmp_path):
    """The unit is a query head where one KV head serves all, which then stays."""
    config = getattr(tf, f"{kind}Config")(**TEXT | {"num_key_value_heads": kv_heads})
    model = model_class(config)(config).double().eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    sites = find_sites(model, "ffn+attention")
    assert [s.units for s in sites if s.kind == "attention"] == [4, 4, 4]
    kept = [(3, 30), (1, 48), (4, 20)]
    plan = Plan(space_of(sites), tuple(n for pair in kept for n in pair))
    scores = [torch.rand(s.units) for s in sites]
    inputs = {"input_ids": text_ids()}
    with masked(model, plan, scores, "ffn+attention"):
        expected = logits(model, inputs)
    model.save_pretrained(tmp_path / "dense")
    small = prune(model, plan, scores, scope="ffn+attention")
    torch.testing.assert_close(logits(small, inputs), expected, atol=1e-6, rtol=0)
    (tmp_path / "cut").mkdir()
    kept_of = kept_units(scores, plan)
    write(tmp_path / "cut", Stored(tmp_path / "dense"), kept_of, scope="ffn+attention")
    again = load(tmp_path / "cut")
    torch.testing.assert_close(logits(again, inputs), expected, atol=1e-6, rtol=0)
    layer = again.config.per_layer_config[0]
    assert (layer.num_attention_heads, layer.num_key_value_heads) == (3, min(3, kv_heads))


def test_equal_heads_make_an_ordinary_checkpoint(tmp_path):
    model, inputs = build("Llama")
    sites = find_sites(model, "ffn+attention")
    plan = Plan(space_of(sites), tuple(s.units // 2 for s in sites))
    assert plan.space.units == (2, 48) * 3
    prune(model, plan, [torch.rand(s.units) for s in sites], scope="ffn+attention")
    model.save_pretrained(tmp_path)
    assert (model.config.num_attention_heads, model.config.num_key_value_heads) == (2, 1)
    stock = tf.LlamaForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(stock, inputs), logits(model, inputs))


def test_auto_classes_load_what_differs_in_heads_alone(tmp_path):
    model, inputs = build("Llama")
    sites = find_sites(model, "ffn+attention")
    kept = [
        1 if (s.layer, s.kind) in ((0, "attention"), (2, "attention")) else s.units for s in sites
    ]
    plan = Plan(space_of(sites), tuple(kept))
    prune(model, plan, [torch.rand(s.units) for s in sites], scope="ffn+attention")
    model.save_pretrained(tmp_path)
    loaded = tf.AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(loaded, inputs), logits(model, inputs))


def test_a_layer_that_is_its_ffn_keeps_a_neuron():
    shape = {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64, "vocab_size": 100}
    more = {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
    model = tf.OPTForCausalLM(tf.OPTConfig(**shape, **more)).eval()
    assert find_space(model, floors={"ffn": 0, "attention": 0}).floors == (1, 1)
    space = find_space(build("Llama")[0], "ffn+attention", {"ffn": 0, "attention": 0})
    assert space.floors == (1, 1, 0, 0, 0, 0), "one of each kind stays"


def mixtral():
    import transformers as tf

    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 32}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 2}
    return tf.MixtralForCausalLM(tf.MixtralConfig(**shape, **heads))


def test_what_is_not_understood_is_refused_by_name():
    with pytest.raises(LopError, match=r"layers\.0: is a mixture of experts"):
        find_ffns(mixtral())
    model, _ = build("Llama")
    ffns = find_ffns(model)
    ffns[2].out.weight = ffns[0].out.weight
    with pytest.raises(LopError, match=r"layers\.2\.mlp: shares its weights with .*layers\.0\.mlp"):
        find_ffns(model)
    model, _ = build("Llama")
    mlp = model.model.layers[1].mlp
    mlp.up_proj = torch.nn.quantized.Linear(32, 48)
    with pytest.raises(LopError, match=r"layers\.1\.mlp\.up_proj: is a Linear of its own kind"):
        find_ffns(model)
    mlp.up_proj = torch.nn.Linear(32, 48).to(torch.float8_e4m3fn)
    with pytest.raises(LopError, match=r"layers\.1\.mlp\.up_proj: is a Linear of .*float8"):
        find_ffns(model)


def test_uniform_widths_make_an_ordinary_checkpoint(tmp_path):
    from transformers import LlamaForCausalLM

    model, inputs = build("Llama")
    scores = collect(model, [Batch(inputs, inputs["input_ids"], inputs["input_ids"])])
    model.save_pretrained(tmp_path / "dense")
    source = Stored(tmp_path / "dense")
    plan = uniform_plan(0.49, source.space(), scores)
    assert set(plan.kept) == {24}, "a neuron less in all than 0.49 leaves"
    prune_checkpoint(source, plan, scores["flap"], tmp_path / "small")
    stock = LlamaForCausalLM.from_pretrained(tmp_path / "small")
    assert type(load(tmp_path / "small")) is LlamaForCausalLM
    torch.testing.assert_close(logits(stock, inputs), logits(load(tmp_path / "small"), inputs))
    assert not (tmp_path / "small" / "modeling_lop.py").exists()


def test_the_docs_name_what_is_tested():
    rows = Path("docs/models.md").read_text().split("## Tested")[1].split("## Refused")[0]
    names = [line.split("|")[1].strip() for line in rows.splitlines() if line.startswith("| ")]
    assert names[1:] == list(ARCHITECTURES)
