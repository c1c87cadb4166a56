"""docs/7b.md, from an estimate."""

from __future__ import annotations

from benchmarks.common import origin
from benchmarks.seven_b.estimate import GPUS, Estimate
from benchmarks.seven_b.shape import IMAGE, TEXT, TOKENS
from lop.evaluation.comparison import markdown


def page(e: Estimate) -> str:
    """docs/7b.md."""
    s, card, r = e.shape, e.card, e.rates
    rows = [["stage", "GPU memory", "hours, one GPU", f"hours, {GPUS} GPUs", "disk", "time"]]
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
        ["share of its FLOPs reached", f"{card.share:.0%}", "**assumed**"],
        ["disk", f"{card.disk / 1e9:.1f} GB/s", "**assumed**"],
        ["processor, a picture", f"{r.processor * 1e3:.0f} ms", "measured, one core"],
        ["a decoder layer", f"{r.layer / 1e9:.0f} GFLOPS", "measured, one core, float32"],
        ["one product of matrices", f"{r.product / 1e9:.0f} GFLOPS", "measured, one core, float32"],
        ["scoring, a sample and layer", f"{r.stats * 1e3:.0f} ms", "measured, one core"],
        ["scoring, besides activations", f"{r.stats_bytes / 1e6:.0f} MB", "measured"],
        ["SHA-256", f"{r.digest / 1e9:.2f} GB/s", "measured, one core"],
    ]  # fmt: skip
    return f"""# A plan for Qwen2.5-VL-7B

{origin()}
**Nothing here was run on a GPU.** The numbers are computed from the model's shapes, with
the default settings. One sample is a picture of {IMAGE:,} tokens with {TEXT} of text, and no two
questions share a picture, which is the worst case. Other cards: `--help`.

## Inputs of the computation

{markdown(facts)}

A layer at real shapes ran at {r.layer / r.product:.0%} of the speed of one large product of
matrices on the same core, so on this CPU its FLOPs determine its time. The share of
a GPU's FLOPs that is reached was not measured. It decides the result: hours are
inversely proportional to it.

## Stages

V is a picture through processor and vision tower ({e.vision:.2f} s), D a sample through the whole
decoder ({e.decoder:.2f} s), W reading the weights ({e.load:.0f} s). Memory is that of one GPU with
batches of one sample. Batches are halved, down to one sample, until they fit; larger batches use
the memory that is left.

{markdown(rows)}

On {GPUS} GPUs: `search.workers: {GPUS}` and `evaluate.workers: {GPUS}`, one process a GPU. There
is one search for each target and seed. Scoring is one process. Speed is measured with nothing
else running. Recovery is counted with `recover.rank`, `bf16`, `checkpointing` and a `batch_size`
of 1 with more `accumulation` instead; on {GPUS} GPUs its steps are assumed to scale perfectly.

## What does not fit on 24 GB

- Captured samples are kept on the GPU. `search` keeps one hidden state per token, so at most
  {e.room(1)} reward samples fit; `profile` keeps two, so at most {e.room(2)}. With the default
  {e.params.prepare.reward} a `profile` needs {e.profile().memory / 1e9:.1f} GB: set
  `prepare.reward: {e.room(2) // 50 * 50}`, use samples that share pictures, or use a card of 48 GB.
- `evaluate` measures the speed of a pruned model alternately with the dense one, both on one GPU:
  {2 * s.weights / 1e9:.0f} GB. That does not fit on a 24 GB card; use a larger one.
- `recover` reads all of its {e.params.prepare.train} training samples before it moves them to the
  CPU's memory: {e.lessons / 1e9:.0f} GB of the GPU's.
  Set `prepare.train: {e.room(1) // 50 * 50}`, or use a larger card.
- Training all weights in `recover` takes 16 bytes a parameter, {16 * s.parameters / 1e9:.0f} GB:
  more than one such card has; {GPUS} cards need sharded states.

## Would a disk cache of captures help?

No. Each worker of `profile` and `search` captures once, V a sample, and then evaluates plans, up
to D a sample for each plan. On one GPU, captures are {_captures(e):.1%} of the two stages. On the
reference model, on one core of a busy machine, 500 samples took 5 s to capture
and 2 to 4 s for each of about 280 plans: about 3 % with two workers. A cache entry would take
{e.params.prepare.reward * s.captured / 1e9:.1f} GB, for each part of the
samples and each setting.
"""


def _captures(e: Estimate) -> float:
    return 2 * e.params.prepare.reward * e.vision / (e.profile().one + e.search().one)
