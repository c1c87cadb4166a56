"""docs/7b.md, from an estimate."""

from __future__ import annotations

from benchmarks.common import origin
from benchmarks.seven_b.estimate import GPUS, Estimate
from benchmarks.seven_b.shape import IMAGE, TEXT, TOKENS
from lop.evaluation.comparison import markdown


def page(e: Estimate) -> str:
    """docs/7b.md."""
    s, card, r = e.shape, e.card, e.rates
    rows = [["stage", "GPU memory", "hours, one GPU", f"hours, {GPUS} GPUs", "disk", "time is"]]
    rows.append(["---"] * 6)
    for stage in e.all():
        memory = f"{stage.memory / 1e9:.1f} GB" if stage.memory else ""
        hours = [f"{seconds / 3600:.2f}" for seconds in (stage.one, stage.eight)]
        rows.append([stage.name, memory, *hours, stage.disk, stage.formula])
    facts = [
        ["what", "value", "from"], ["---"] * 3,
        ["parameters", f"{s.parameters / 1e9:.2f} G, {s.weights / 1e9:.1f} GB", "shapes"],
        ["decoder, a sample", f"{s.decoder / 1e12:.1f} TFLOP, {s.ffn:.0%} of it FFNs", "shapes"],
        ["vision tower, a picture", f"{s.vision / 1e12:.1f} TFLOP", "shapes"],
        ["captured embeddings, a sample", f"{s.captured / 1e6:.1f} MB", "shapes"],
        ["activations of a layer, a sample", f"{s.activations / 1e6:.0f} MB", "shapes"],
        ["keys and values, a sample", f"{s.cache * TOKENS / 1e6:.0f} MB", "shapes"],
        [card.name, f"{card.flops / 1e12:.0f} TFLOPS dense bf16, {card.bandwidth / 1e9:.0f} GB/s, "
         f"{card.memory / 2**30:.0f} GiB", "**published**"],
        ["of its FLOPs", f"{card.share:.0%} are reached", "**assumed**"],
        ["disk", f"{card.disk / 1e9:.1f} GB/s", "**assumed**"],
        ["processor, a picture", f"{r.processor * 1e3:.0f} ms", "measured, one core"],
        ["a decoder layer", f"{r.layer / 1e9:.0f} GFLOPS", "measured, one core, float32"],
        ["one product of matrices", f"{r.product / 1e9:.0f} GFLOPS", "measured, one core, float32"],
        ["scoring, a sample and layer", f"{r.stats * 1e3:.0f} ms", "measured, one core"],
        ["scoring, beside activations", f"{r.stats_bytes / 1e6:.0f} MB", "measured"],
        ["SHA-256", f"{r.digest / 1e9:.2f} GB/s", "measured, one core"],
    ]  # fmt: skip
    return f"""# A plan for Qwen2.5-VL-7B

{origin()}
**Nothing here was run on a GPU**: it is arithmetic on the model's shapes, with the settings'
defaults. One sample is a picture of {IMAGE:,} tokens with {TEXT} of text, and no two questions
share a picture, which is the worst case. Other cards: `--help`.

## What it is computed from

{markdown(facts)}

A layer at real shapes ran at {r.layer / r.product:.0%} of the speed of one large product of
matrices on the same core, so its FLOPs say what it costs, on this CPU. What share of a GPU's FLOPs
is reached was not measured, and it decides: hours are inversely proportional to it.

## Stages

V is a picture through processor and vision tower ({e.vision:.2f} s), D a sample through the whole
decoder ({e.decoder:.2f} s), W reading the weights ({e.load:.0f} s). Memory is that of one GPU with
batches of one sample, to which they are halved where they must be; larger ones take what is left.

{markdown(rows)}

On {GPUS} GPUs: `search.workers: {GPUS}` and `evaluate.workers: {GPUS}`, one process a GPU. There
are only as many searches as targets and seeds; scoring is one process, and times are taken alone.
Recovery is counted with `recover.rank`, `bf16`, `checkpointing` and a `batch_size` of 1 with more
`accumulation` instead; on {GPUS} GPUs its steps scale perfectly here.

## What does not fit on 24 GB

- Captured samples lie on the GPU. `search` holds one hidden state a token, so at most {e.room(1)}
  reward samples fit; `profile` holds two, so at most {e.room(2)}. With the default
  {e.params.prepare.reward} a `profile` needs {e.profile().memory / 1e9:.1f} GB: take
  `prepare.reward: {e.room(2) // 50 * 50}`, samples that share pictures, or a card of 48 GB.
- `evaluate` times a pruned model in turn with the dense one, both on one GPU:
  {2 * s.weights / 1e9:.0f} GB. On a 24 GB card that does not fit; a larger card has to do it.
- `recover` reads all of its {e.params.prepare.train} training samples before it moves them to the
  CPU's memory: {e.lessons / 1e9:.0f} GB of the GPU's.
  Take `prepare.train: {e.room(1) // 50 * 50}`, or a larger card.
- Training all weights in `recover` takes 16 bytes a parameter, {16 * s.parameters / 1e9:.0f} GB:
  not on one such card, and on {GPUS} with sharded states only.

## Are captures worth a cache on disk?

No. Each worker of `profile` and `search` captures once, V a sample, and then judges plans at up to
D a sample each: on one GPU captures are {_captures(e):.1%} of the two stages. On the reference
model, on one core beside other work, 500 samples took 5 s to capture and 2 to 4 s a plan, of some
280 plans: about 3 % with two workers. An entry of a cache would take
{e.params.prepare.reward * s.captured / 1e9:.1f} GB, and one for each part and setting.
"""


def _captures(e: Estimate) -> float:
    return 2 * e.params.prepare.reward * e.vision / (e.profile().one + e.search().one)
