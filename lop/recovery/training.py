"""One training run for all budgets: each step draws a budget and trains the model at its plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim import AdamW
from transformers import PreTrainedModel, ProcessorMixin

from lop.data.samples import fingerprint as samples_fingerprint
from lop.errors import LopError
from lop.models.fingerprints import digest, fingerprint
from lop.plan import Plan
from lop.progress import progress
from lop.recovery.lessons import Lesson, Lessons
from lop.recovery.loss import loss_of
from lop.recovery.state import State
from lop.recovery.student import Student
from lop.settings import Recovery

VERSION = 1  # of the result: raise it when a change of this code changes it
WARMUP = 0.05  # share of the steps with a rising learning rate
CLIP = 1.0  # largest norm of a step's gradient
FIGURES = ("loss", "answers", "text", "right", "hidden")  # losses of a step
SHOWN = 20  # ratios whose plans are part of the state's key

PlanAt = Callable[[float], Plan]


def recover(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    samples: pd.DataFrame,
    scores: Sequence[Tensor],
    plans: Sequence[PlanAt],
    settings: Recovery,
    folder: Path | None = None,
) -> pd.DataFrame:
    """Train a model in place for all budgets at once; returns the learning curve.

    Each step draws a ratio, one of `plans` (functions from a ratio to a plan) and a part of the
    samples. The teacher is the unpruned model, as it is at the start. `scores`, (d_i,) for each
    site, decide which units a plan keeps. The state is saved in `folder`: a killed run resumes from
    it and gives the same result.

    The curve has a row for each step: `step`, `ratio`, `loss` and its parts: in nats a token,
    `answers` and `text` (divergence from the unpruned model) and `right` (cross-entropy of the
    answers); `hidden` (relative distance of hidden states); and the learning rate `lr`.

    Raises LopError for a ratio outside the range of the plans, and for a loss that is not finite;
    the state before that step is saved in `folder`.
    """
    if settings.low is None or settings.high is None:
        raise LopError("recovery: expected low and high, the range of ratios to draw from")
    for plan_at in plans:  # fail before any long computation
        for ratio in (settings.low, settings.high):
            plan_at(ratio)
    ratios = np.linspace(settings.low, settings.high, SHOWN).tolist()
    shown = [[plan_at(ratio) for ratio in ratios] for plan_at in plans]
    accelerator = Accelerator()
    before = {n: p.dtype for n, p in model.named_parameters()}
    key = digest(
        VERSION,
        fingerprint(model),
        samples_fingerprint(samples),
        settings.model_dump(),
        accelerator.num_processes,
        [[plan.kept for plan in each] for each in shown],
        *scores,
    )
    model.to(accelerator.device)
    if not settings.bf16:
        model.float()
    scope = shown[0][0].space.scope
    student = Student(model, scores, scope, settings.rank, settings.seed)
    with student:
        size, seed, layered = settings.batch_size, settings.seed, settings.hidden > 0
        lessons = Lessons(student, model, processor, samples, size, seed, layered)
        for weight in student.trained.values():
            weight.data = weight.data.float()  # steps are too small for 16 bits
        if settings.checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.train()
        optimizer = AdamW(student.trained.values(), weight_decay=settings.weight_decay)
        state = State(folder, key, student.trained, optimizer)
        run = _Run(accelerator, student, model, lessons, plans, optimizer, settings)
        run.all(state)
        model.eval()
        if settings.checkpointing:
            model.gradient_checkpointing_disable()
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(before[name])
    return pd.DataFrame(state.curve)


class _Run:
    """The training loop and its state."""

    def __init__(
        self,
        accelerator: Accelerator,
        student: Student,
        model: PreTrainedModel,
        lessons: Lessons,
        plans: Sequence[PlanAt],
        optimizer: AdamW,
        settings: Recovery,
    ) -> None:
        self.accelerator, self.student, self.model = accelerator, student, model
        self.lessons, self.plans, self.settings = lessons, plans, settings
        self.optimizer = optimizer
        self.called: Any = accelerator.prepare_model(student)  # distributed over processes

    def all(self, state: State) -> None:
        """Run all steps that are not finished."""
        done, steps = state.restore(), self.settings.steps
        bar = progress(range(done, steps), "recovery", steps, "step")
        bar.initial = bar.n = done
        for step in bar:
            figures = self.step(step)
            if not math.isfinite(figures["loss"]):
                where = f"; the state of step {len(state.curve)} is in {state.path}"
                state.keep(now=True)
                raise LopError(
                    f"recovery: the loss is {figures['loss']} at step {step + 1}: set a smaller "
                    f"learning rate than {self.settings.lr:g}{where if state.path else ''}"
                )
            for group in self.optimizer.param_groups:
                group["lr"] = figures["lr"]
            weights = list(self.student.trained.values())
            self.accelerator.clip_grad_norm_(weights, CLIP)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=False)
            state.curve.append(figures)
            if self.accelerator.is_main_process:
                state.keep()
            bar.set_postfix(loss=f"{figures['loss']:.3f}", refresh=False)

    def step(self, number: int) -> dict[str, float]:
        """Compute the gradient of one step; returns its ratio, losses and learning rate."""
        chosen, world = self.settings, self.accelerator.num_processes
        rng = np.random.default_rng((chosen.seed, number))  # the same in every process
        between = rng.uniform(chosen.low or 0.0, chosen.high or 0.0)
        ratio = 0.0 if rng.random() < chosen.whole else float(between)
        plan_at = self.plans[int(rng.integers(len(self.plans)))]
        self.student.show(plan_at(ratio) if ratio else self.student.space.dense)
        rows, rank = [], self.accelerator.process_index
        for i in range(chosen.accumulation):
            part = self.lessons.at((number * chosen.accumulation + i) * world + rank, chosen.seed)
            if chosen.places is not None:
                own = np.random.default_rng((chosen.seed, number, i, rank))
                part = [lesson.some(chosen.places, own) for lesson in part]
            rows += [self._learn(lesson, len(part)) for lesson in part]
        figures = dict(zip(FIGURES, np.mean(rows, 0), strict=True))
        losses = {name: float(value) for name, value in figures.items()}
        return {"step": number + 1, "ratio": ratio, **losses, "lr": chosen.lr * self._rate(number)}

    def _learn(self, lesson: Lesson, batches: int) -> list[float]:
        """Add a batch's gradient; returns the loss and its parts."""
        chosen, here = self.settings, lesson.to(self.accelerator.device)
        device = self.accelerator.device.type
        with torch.autocast(device, torch.bfloat16, enabled=chosen.bf16):
            states = self.called(here.batch, bool(here.layers))
            parts = loss_of(self.model, here, *states)
            loss = parts.answers + chosen.text * parts.text + chosen.right * parts.right
            loss = loss + chosen.hidden * parts.hidden
        self.accelerator.backward(loss / (batches * chosen.accumulation))
        losses = (loss, parts.answers, parts.text, parts.right, parts.hidden)
        return [float(part.detach()) for part in losses]

    def _rate(self, step: int) -> float:
        """Factor on the learning rate: linear warm-up and cosine decay."""
        steps = self.settings.steps
        cosine = (1 + math.cos(math.pi * step / steps)) / 2
        return cosine * min(1.0, (step + 1) / max(1.0, WARMUP * steps))
