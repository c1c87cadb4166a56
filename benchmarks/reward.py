"""How fast a plan is judged: lop's reward against the straightforward way of the paper's code.

`python -m benchmarks.reward` takes a few minutes, one thread, and writes docs/results/reward.md.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks.common import RESULTS, origin, place
from lop.data.encoding import prompt
from lop.data.samples import decode_images, read_samples
from lop.evaluation.comparison import markdown
from lop.evaluation.footprint import memory_meter
from lop.files import replacing
from lop.importance import load_scores
from lop.models.checkpoint import load, load_processor
from lop.models.space import find_ffns, find_space
from lop.plan import Plan
from lop.pruning import kept_units
from lop.reference import model as reference
from lop.reward import Reward
from lop.reward.captured import Captured, capture

RATIOS = (0.2, 0.5)


def straightforward(
    model: Any, processor: Any, samples: pd.DataFrame, plan: Plan, scores: Sequence[Tensor]
) -> float:
    """Accuracy of a plan the way of the paper's code: clone all weights, zero the pruned neurons,
    then processor and `generate` for each sample, then put the weights back."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for ffn, kept in zip(find_ffns(model), kept_units(scores, plan), strict=True):
            pruned = torch.ones(ffn.units, dtype=torch.bool)
            pruned[kept] = False
            for linear in map(ffn.map, ffn.inputs):
                linear.weight[pruned] = 0
            ffn.out.weight[:, pruned] = 0
    right = 0
    for row in samples.to_dict("records"):
        text, images = prompt(processor, row), decode_images(row)
        inputs = processor(text=[text], images=[images], return_tensors="pt")
        with torch.inference_mode():
            tokens = model.generate(**inputs, max_new_tokens=16)
        answer = processor.decode(
            tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        right += answer == row["answer"]
    model.load_state_dict(before)
    return right / len(samples)


def seconds(work: Callable[[], Any], repeats: int = 5) -> float:
    """The median time of a call."""
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return float(np.median(times))


def peak_bytes(work: Callable[[], Any]) -> int:
    """Peak memory of a call above what the process holds, with freed memory given back before."""
    with suppress(AttributeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)
    _, peak = memory_meter("cpu")
    work()
    return peak()


def plain_forward(reward: Reward, batches: Sequence[Captured]) -> Callable[[], Any]:
    """The reward's decoder over batches, nothing else."""

    @torch.inference_mode()
    def run() -> None:
        for batch in batches:
            reward.model.get_decoder()(**batch.inputs())

    return run


def against_the_paper(count: int) -> list[str]:
    """The same plans and samples judged both ways: rewards must agree."""
    model_path, samples_path, scores_dir, score, *_, batch_size = place()
    model, processor = load(model_path), load_processor(model_path)
    scores = load_scores(scores_dir / f"{score}.safetensors")
    samples = read_samples(samples_path).head(count)
    plans = [Plan.uniform(find_space(model), ratio) for ratio in RATIOS]
    begun = time.perf_counter()
    theirs = [straightforward(model, processor, samples, plan, scores) for plan in plans]
    slow = (time.perf_counter() - begun) / len(plans)
    begun = time.perf_counter()
    with Reward(model, processor, samples, scores, "accuracy", batch_size) as reward:
        prepared = time.perf_counter() - begun
        ours = [reward(plan) for plan in plans]
        if not np.allclose(ours, theirs, atol=1e-6):
            raise SystemExit(f"the two ways disagree: {theirs} and {ours}")
        fast = seconds(lambda: [reward.per_sample(plan) for plan in plans], 25) / len(plans)
    rows = [
        ["", "seconds a plan", "plans a second"],
        ["---"] * 3,
        ["straightforward", f"{slow:.2f}", f"{1 / slow:.3f}"],
        ["lop", f"{fast:.3f}", f"{1 / fast:.1f}"],
    ]
    text = (
        f"{len(plans)} plans on {len(samples)} samples, reward: accuracy, and both ways give the "
        f"same ({', '.join(f'{r:.3f}' for r in ours)}). lop is **{slow / fast:.0f}×** as fast, "
        f"after {prepared:.1f} s once for a reward set."
    )
    return ["## Against the paper's way", text, markdown(rows)]


def against_a_forward() -> list[str]:
    """One evaluation in units of a plain dense decoder forward; its memory in bytes."""
    model_path, samples_path, scores_dir, score, *_, batch_size = place()
    model, processor = load(model_path), load_processor(model_path)
    scores = load_scores(scores_dir / f"{score}.safetensors")
    samples, space = read_samples(samples_path), find_space(model)
    as_captured = [c.batch for c in capture(model, processor, samples, batch_size)]
    with Reward(model, processor, samples, scores, batch_size=batch_size) as reward:
        dense = space.dense
        forward, shared = (plain_forward(reward, b) for b in (as_captured, reward.parts[0].batches))
        forward()  # at dense widths, as the reward has just begun
        used = [peak_bytes(forward), peak_bytes(lambda: reward.per_sample(dense))]
        rows = []
        for ratio in (0.0, 0.3, 0.5, 0.8):
            plan, times = Plan.uniform(space, ratio), []
            for _ in range(9):  # in turn, so that a busy moment hits all
                reward.per_sample(dense)
                dense_times = [seconds(work, 1) for work in (shared, forward)]
                times.append([*dense_times, seconds(lambda p=plan: reward.per_sample(p), 1)])  # type: ignore[misc]
            of_shared, of_all, once = np.median(times, axis=0)
            rows.append(
                [f"{100 * ratio:g} %", f"{once:.3f}"]
                + [f"{of_all:.3f}", f"{once / of_all:.2f}"]
                + [f"{of_shared:.3f}", f"{once / of_shared:.2f}"]
            )
    head = ["FFN removed", "an evaluation, s", "plain forward, s", "ratio"]
    head += ["shared rows, s", "ratio"]
    counts = [tokens_in(batches) for batches in (as_captured, reward.parts[0].batches)]
    text = (
        f"A plain forward pass is that of the dense decoder over batches of {batch_size} samples, "
        f"{counts[0]} tokens with padding. Questions about one picture share its tokens "
        f"({samples['image_id'].nunique()} pictures, {len(samples)} samples), which leaves "
        f"{counts[1]}; *shared rows* is the plain pass over those. "
        f"Peak memory above what was held before: {used[0] / 1e6:.1f} MB for the plain pass, "
        f"{used[1] / 1e6:.1f} MB for an evaluation, logits of the answers included."
    )
    return ["## Against one forward pass", text, markdown([head, ["---"] * len(head), *rows])]


def tokens_in(batches: Sequence[Captured]) -> int:
    """How many tokens the decoder reads in batches, padding included."""
    return sum(b.decoder_inputs["inputs_embeds"].shape[:2].numel() for b in batches)


def growth() -> list[str]:
    """Seconds an evaluation by layers and by samples; untrained models of the reference's shape."""
    model_path, samples_path, *_, batch_size = place()
    samples = read_samples(samples_path)
    tokenizer = load_processor(model_path).tokenizer
    processor, rows = reference.build_processor(tokenizer), []
    for layers, count in ((4, 200), (8, 200), (16, 200), (8, 50), (8, 100)):
        shape = reference.Shape(layers=layers, vocab=len(tokenizer))
        model = reference.build_model(tokenizer, shape, seed=0).eval()
        scores = [torch.arange(float(shape.ffn)) for _ in range(layers)]
        with Reward(model, processor, samples.head(count), scores, batch_size=batch_size) as reward:
            plan = Plan.uniform(reward.space, 0.5)
            once = seconds(lambda r=reward, p=plan: r.per_sample(p))  # type: ignore[misc]
        rows.append([str(layers), str(count), f"{once:.3f}"])
    head = [["layers", "samples", "seconds"], ["---"] * 3]
    text = (
        "Linear in layers and in samples, and so is a search in simulations: each costs one "
        "evaluation, and choosing the next plan well under a millisecond."
    )
    return ["## Growth", text, markdown(head + rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=200, help="for the paper's way")
    count = parser.parse_args().samples
    torch.set_num_threads(1)
    parts = ["# Fast reward", origin() + " One thread; judge by ratios, machines differ."]
    parts += against_the_paper(count) + against_a_forward() + growth()
    page = "\n\n".join(parts) + "\n"
    with replacing(RESULTS / "reward.md") as tmp:
        tmp.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
