"""The state of the reference model's training on disk, so that a killed training resumes."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.optim import Optimizer

from lop.files import replacing
from lop.models.fingerprints import digest
from lop.models.space import find_space
from lop.reference import model as reference

if TYPE_CHECKING:
    from lop.reference.training import Trainee

STATE = "reference-state.pt"


@dataclass
class Reached:
    """The progress of a training."""

    losses: list[float] = field(default_factory=list)  # last loss of each finished stage
    step: int = 0  # finished steps of the current stage
    seconds: float = 0.0  # of all stages


class Kept:
    """The saved state of one training in a folder; a state of other settings is ignored.

    `mean` has the model's weights averaged over the ends of the last `ends` stages, which have the
    same width.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.path, self.key = folder / STATE, digest(dict(settings))
        self.at, self._since = Reached(), time.monotonic()
        self.ends, self.mean = 0, {}
        self._state: dict[str, Any] | None = None
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            if state["key"] == self.key:
                self._state, self.at = state, Reached(**state["at"])
                self.ends, self.mean = state["ends"], state["mean"]

    def restore(self, trainee: "Trainee") -> None:
        """Restore the model, at its saved width, and the shape head."""
        if self._state:
            reference.widen(trainee.model, self._state["width"])
            trainee.model.load_state_dict(self._state["model"])
            trainee.head.load_state_dict(self._state["head"])
            torch.set_rng_state(self._state["torch"])  # `widen` draws random weights

    def restore_stage(self, optims: Sequence[Optimizer], rng: np.random.Generator) -> None:
        """Restore the optimizers of the stage and the generator that draws samples."""
        if state := self._state:
            rng.bit_generator.state = state["rng"]
            if self.at.step:
                for optim, saved in zip(optims, state["optims"], strict=True):
                    optim.load_state_dict(saved)
                torch.set_rng_state(state["torch"])
            self._state = None

    def save(
        self, trainee: "Trainee", optims: Sequence[Optimizer], rng: np.random.Generator, step: int
    ) -> None:
        """Save everything that the next step depends on."""
        now = time.monotonic()
        self.at.step, self.at.seconds = step, self.at.seconds + now - self._since
        self._since = now
        state = {
            "key": self.key,
            "at": asdict(self.at),
            "width": find_space(trainee.model).units[0],
            "model": trainee.model.state_dict(),
            "head": trainee.head.state_dict(),
            "ends": self.ends,
            "mean": self.mean,
            "optims": [optim.state_dict() for optim in optims],
            "rng": rng.bit_generator.state,
            "torch": torch.get_rng_state(),
        }
        with replacing(self.path) as path:
            torch.save(state, path)

    def end_stage(self, trainee: "Trainee", rng: np.random.Generator, loss: float) -> None:
        """Save the weights, and their mean over the ends of all stages of this width.

        The next stage has new optimizers.
        """
        self.at.losses.append(loss)
        weights, before = trainee.model.state_dict(), self.mean
        alike = before and all(before[name].shape == of.shape for name, of in weights.items())
        self.ends = self.ends + 1 if alike else 1
        self.mean = {
            name: torch.lerp(before[name], of, 1 / self.ends) if alike else of.clone()
            for name, of in weights.items()
        }
        self.save(trainee, [], rng, 0)

    def remove(self) -> None:
        """Delete the saved state after the training is complete."""
        self.path.unlink(missing_ok=True)
        if self.path.parent.exists() and not any(self.path.parent.iterdir()):
            self.path.parent.rmdir()
