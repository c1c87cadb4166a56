"""Trains the reference model from scratch: sampling, augmentation, stages and schedule."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from lop.errors import LopError
from lop.files import Kind, check_dir, replacing_dir
from lop.progress import progress
from lop.reference import easyvqa, knowledge
from lop.reference import model as reference
from lop.reference.model import SIZE
from lop.reference.rows import (
    IGNORE,
    Batch,
    Picture,
    Prompts,
    Question,
    pack,
    patchify,
    read,
    read_pictures,
    see,
)
from lop.reference.state import Kept

TRAINED = Kind("a reference model", ("training.json",), frozenset({"params", "losses"}))

# Sampling weights. In easy-VQA, shapes are hard, and presence of colours is easy and half of the
# questions. The version of an emoji cannot be guessed from its picture.
QUESTION_WEIGHT = {
    "shape": 3.0,
    "presence of shape": 2.0,
    "colour": 0.7,
    "presence of colour": 0.3,
    "emoji version": 2.5,
}
SAVED = 100  # steps between two saves of the state
FLAG_WEIGHT = 2.0  # a flag has more facts than an emoji


@dataclass(frozen=True)
class Stage:
    """One stage of training: a warm-up, then a cosine schedule of the learning rates."""

    steps: int  # of the whole schedule
    knowledge_share: float  # share of pictures that are flags and emoji
    shape_weight: float  # weight of the shape head's loss
    lr: float = 3e-3  # peak rate of AdamW
    muon_lr: float = 0.02  # peak rate of Muon
    warmup: int = 100
    ffn: int = 720  # width of the decoder's FFNs: narrow models learn shapes in 1/4 of the time
    stop: float = 1.0  # share of the steps after which the stage ends


# Vision first: shapes need most of the pictures for a long time, facts need many passes later.
STAGES = (
    Stage(steps=3240, knowledge_share=0.35, shape_weight=1.0, ffn=48, stop=0.96),
    Stage(steps=1300, knowledge_share=0.75, shape_weight=0.0, lr=2e-3, warmup=50),
    Stage(steps=300, knowledge_share=0.85, shape_weight=0.0, lr=1.5e-3, muon_lr=0.015, warmup=30),
)


@dataclass(frozen=True)
class ReferenceParams:
    """Size and schedule of the reference model's training.

    A step takes `rows` pictures, each with as many questions as fit in `row_tokens` text tokens.
    `compiled` halves the time of a step, and so does `bf16` if the CPU has bfloat16 instructions
    (otherwise a step takes six times as long). Both change the last digits of results.
    """

    shape: reference.Shape = field(default_factory=reference.Shape)
    stages: tuple[Stage, ...] = STAGES
    seed: int = 0
    rows: int = 64
    row_tokens: int = 96
    weight_decay: float = 0.01
    bf16: bool = False
    compiled: bool = True
    threads: int = 2

    @classmethod
    def from_dict(cls, params: Mapping[str, Any]) -> "ReferenceParams":
        """Read the `reference` section of params.yaml; LopError for an unknown entry."""
        known = dict(params)
        try:
            if "shape" in known:
                known["shape"] = reference.Shape(**known["shape"])
            if "stages" in known:
                known["stages"] = tuple(Stage(**stage) for stage in known["stages"])
            return cls(**known)
        except TypeError as error:
            raise LopError(f"params, section reference: {error}") from error


def augment(pixels: Tensor, known: Tensor, rng: np.random.Generator) -> Tensor:
    """Augment pictures (B, 3, 64, 64) without changing any answer.

    easy-VQA: flips, quarter turns, shifts of whole pixels up to 8. Knowledge: shift, scale, noise.
    """
    count = len(pixels)
    turns = rng.integers(4, size=count) * math.pi / 2
    flips = rng.choice([-1.0, 1.0], size=count)
    whole = rng.integers(-8, 9, size=(count, 2)).astype(float)
    small = rng.uniform(-1.25 * knowledge.SHIFT, 1.25 * knowledge.SHIFT, size=(count, 2))
    low, high = knowledge.SCALE
    scale = rng.uniform(low - 0.03, high + 0.03, size=count)
    plain = known.numpy()
    turns, flips = np.where(plain, 0, turns), np.where(plain, 1, flips)
    scale = np.where(plain, 1 / scale, 1)
    shift = np.where(plain[:, None], small, whole) * 2 / SIZE
    cos, sin = np.cos(turns).round() * scale, np.sin(turns).round() * scale
    matrix = np.stack([cos * flips, -sin, shift[:, 0], sin * flips, cos, shift[:, 1]], axis=1)
    theta = torch.from_numpy(matrix.reshape(count, 2, 3)).float()
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    moved = F.grid_sample(pixels.float(), grid, padding_mode="border", align_corners=False)
    level = torch.from_numpy(rng.uniform(0, 1.25 * knowledge.NOISE, size=count) * plain).float()
    noise = torch.from_numpy(rng.standard_normal(pixels.shape, dtype=np.float32))
    return (moved + noise * level.view(-1, 1, 1, 1)).clamp(0, 255)


def name_shapes(pictures: list[Picture], frame: pd.DataFrame) -> None:
    """Set the shape of each easy-VQA picture if its questions determine it."""
    for picture in pictures:
        if not picture.known:
            rows = frame.iloc[[question.row for question in picture.questions]]
            shapes = easyvqa.true_words(rows.question, rows.answer) & set(easyvqa.SHAPES)
            if shapes:
                picture.shape = easyvqa.SHAPES.index(shapes.pop())


class Draw:
    """An endless iterator over seeded batches of random pictures, questions and augmentations."""

    def __init__(self, pictures: list[Picture], prompts: Prompts, params: ReferenceParams) -> None:
        self.knowledge_share = 0.5
        self.known = [p for p in pictures if p.known]
        self.plain = [p for p in pictures if not p.known]
        self.prompts, self.params = prompts, params
        self.rng = np.random.default_rng(params.seed)
        facts = [{question.category for question in p.questions} for p in self.known]
        flag = np.array([FLAG_WEIGHT if "country" in known else 1.0 for known in facts])
        self.chance = flag / flag.sum()

    def _questions(self, picture: Picture) -> list[Question]:
        """A weighted random choice of the picture's questions that fills one row."""
        weights = np.array([QUESTION_WEIGHT.get(q.category, 1.0) for q in picture.questions])
        order = np.argsort(self.rng.exponential(size=len(weights)) / weights)
        room, chosen = self.params.row_tokens, []
        for i in order:
            question = picture.questions[i]
            if len(question.tokens) <= room:
                chosen.append(question)
                room -= len(question.tokens)
        return chosen

    def __iter__(self) -> Iterator[tuple[Tensor, Batch, Tensor]]:
        """Patches (B, 64, 384), packed rows, shapes (B,)."""
        params, rng = self.params, self.rng
        while True:
            known = round(params.rows * self.knowledge_share)
            flags = rng.choice(len(self.known), known, p=self.chance)
            plain = rng.integers(len(self.plain), size=params.rows - known)
            pictures = [self.known[i] for i in flags] + [self.plain[i] for i in plain]
            pixels = torch.stack([p.pixels for p in pictures])
            changed = augment(pixels, torch.tensor([p.known for p in pictures]), rng)
            rows = [self._questions(p) for p in pictures]
            shapes = torch.tensor([p.shape for p in pictures])
            yield patchify(changed), pack(rows, self.prompts, params.row_tokens), shapes


def autocast(bf16: bool) -> "torch.autocast | nullcontext[None]":
    """A context with bf16 autocast on the CPU, or without any effect."""
    return torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else nullcontext()


class Trainee:
    """The model in training, with a temporary head that classifies the shape in a picture.

    The head trains the vision tower directly: without it shapes stay at chance for a long time.
    """

    def __init__(self, model: Qwen2_5_VLForConditionalGeneration, image_at: int) -> None:
        self.model, self.image_at = model, image_at
        self.head = nn.Linear(model.lm_head.in_features, len(easyvqa.SHAPES))

    def compile(self, compiled: bool) -> None:
        """Prepare (or compile) the forward pass at the model's width; repeat it after widening."""
        model, image_at = self.model, self.image_at
        wrap = torch.compile if compiled else (lambda function: function)
        self._see = wrap(lambda patches: see(model, patches))
        self._read = wrap(
            lambda images, ids, positions, mask: read(model, images, ids, positions, mask, image_at)
        )

    def loss(self, patches: Tensor, batch: Batch, shapes: Tensor, weight: float) -> Tensor:
        """Mean loss of answer tokens plus `weight` times the shape head's loss."""
        images = self._see(patches)
        hidden = self._read(images, batch.ids, batch.positions, batch.mask)
        on = batch.labels != IGNORE
        logits = self.model.lm_head(hidden[on])
        answers = F.cross_entropy(logits.float(), batch.labels[on])
        guess = self.head(images.mean(1)).float()
        return answers + weight * F.cross_entropy(guess, shapes, ignore_index=IGNORE)


def schedule(share: float, step: int, warmup: int) -> float:
    """Factor of every learning rate: linear warm-up, and a cosine down to 0.01 at share 1."""
    cosine = 0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, share))) / 2
    return cosine * min(1.0, (step + 1) / warmup)


def training_text(frame: pd.DataFrame) -> list[str]:
    """The tokenizer's corpus; questions are repeated so that their words become single tokens."""
    known = frame[frame.id.str.startswith("knowledge")]
    plain = frame[frame.id.str.startswith("easyvqa")]
    texts = [*known.question.unique()] * 20 + [*plain.question.unique()] * 2
    return texts + [*known.answer.unique()] * 3 + ["user\n", "assistant\n"] * 50


def optimizers(trainee: Trainee, stage: Stage, decay: float) -> list[Optimizer]:
    """Muon for the matrices, AdamW for embeddings, norms, biases and the shape head.

    Muon needs about half of AdamW's steps and spreads the work over more neurons.
    """
    named = list(trainee.model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and "embed_tokens" not in name]
    chosen = {id(p) for p in matrices}
    rest = [p for _, p in named if id(p) not in chosen] + list(trainee.head.parameters())
    return [
        Muon(matrices, lr=stage.muon_lr, weight_decay=decay, adjust_lr_fn="original"),
        AdamW(rest, lr=stage.lr, betas=(0.9, 0.95), weight_decay=decay, fused=True),
    ]


def fit(trainee: Trainee, draw: Draw, number: int, params: ReferenceParams, kept: Kept) -> None:
    """Run the rest of stage `number`; the state is saved every `SAVED` steps and at the end."""
    stage, at = params.stages[number], kept.at
    optims = optimizers(trainee, stage, params.weight_decay)
    peaks = [group["lr"] for optim in optims for group in optim.param_groups]
    kept.restore_stage(optims, draw.rng)
    groups = [group for optim in optims for group in optim.param_groups]
    weights = [p for group in groups for p in group["params"]]
    draw.knowledge_share = stage.knowledge_share
    steps = round(stage.steps * stage.stop)
    bar = progress(range(at.step, steps), "training", total=steps - at.step, unit="step")
    for step, (patches, batch, shapes) in zip(bar, draw, strict=False):
        share = step / stage.steps
        for group, peak in zip(groups, peaks, strict=True):
            group["lr"] = peak * schedule(share, step, stage.warmup)
        with autocast(params.bf16):
            total = trainee.loss(patches, batch, shapes, stage.shape_weight * (1 - share))
        total.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        for optim in optims:
            optim.step()
            optim.zero_grad()
        bar.set_postfix(loss=f"{total.item():.3f}")
        if (step + 1) % SAVED == 0 and step + 1 < steps:
            kept.save(trainee, optims, draw.rng, step + 1)
    kept.end_stage(trainee, draw.rng, total.item())


def trained(
    frame: pd.DataFrame, processor: Qwen2_5_VLProcessor, settings: ReferenceParams, kept: Kept
) -> Qwen2_5_VLForConditionalGeneration:
    """Train the model through all stages on these questions, resuming from `kept`.

    Its weights are the mean of the weights at the ends of the last stages of equal width, which is
    better than each alone (Izmailov et al., Averaging Weights Leads to Wider Optima, 2018).
    """
    pictures, prompts = read_pictures(frame, processor), Prompts.of(processor)
    name_shapes(pictures, frame)
    begun = replace(settings.shape, ffn=settings.stages[0].ffn)
    model = reference.build_model(processor.tokenizer, begun, settings.seed)
    model.set_attn_implementation("eager")  # rows are short: faster than sdpa, and compiles better
    trainee, draw = Trainee(model, prompts.image_at), Draw(pictures, prompts, settings)
    kept.restore(trainee)
    for number in range(len(kept.at.losses), len(settings.stages)):
        reference.widen(model, settings.stages[number].ffn)
        trainee.compile(settings.compiled)
        fit(trainee, draw, number, settings, kept)
    model.load_state_dict(kept.mean)
    model.set_attn_implementation("sdpa")
    return model


def train_reference(params: Mapping[str, Any] | ReferenceParams, out_dir: str | Path) -> Path:
    """Train the reference model and write it atomically to `out_dir`.

    `params` is the `reference` section of params.yaml. Until the end the state is in
    `<out_dir>-training/`, so a killed training resumes. Raises LopError for unknown entries, and if
    the data packages are missing.
    """
    check_dir(out_dir, TRAINED)
    settings = params if isinstance(params, ReferenceParams) else ReferenceParams.from_dict(params)
    torch.set_num_threads(settings.threads)
    frame = pd.concat([knowledge.load("train"), easyvqa.load("train")], ignore_index=True)
    tokenizer = reference.build_tokenizer(training_text(frame), settings.shape.vocab)
    processor = reference.build_processor(tokenizer)
    kept = Kept(Path(f"{out_dir}-training"), asdict(settings))
    model = trained(frame, processor, settings, kept)
    with replacing_dir(out_dir, TRAINED) as folder:
        reference.save(model, processor, folder)
        record = {"params": asdict(settings), "seconds": kept.at.seconds, "losses": kept.at.losses}
        (folder / "training.json").write_text(json.dumps(record, indent=2))
    kept.remove()
    return Path(out_dir)
