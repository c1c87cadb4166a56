"""The state of a recovery on disk, so that a killed run resumes and gives the same result."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import AdamW

from lop.files import replacing

STATE = "recovery-state.safetensors"
EVERY = 30.0  # seconds between two saves
MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # AdamW's state of a weight


@dataclass
class State:
    """Trained weights by name, their optimizer's state and the learning curve, in a directory.

    A state with another `key` (other inputs or settings) is ignored.
    """

    folder: Path | None
    key: str
    weights: Mapping[str, nn.Parameter]
    optimizer: AdamW
    curve: list[dict[str, float]] = field(default_factory=list)
    _saved: float = field(default_factory=time.monotonic)

    @property
    def path(self) -> Path | None:
        """The state's file."""
        return self.folder / STATE if self.folder else None

    def restore(self) -> int:
        """Load the saved state; returns the number of finished steps."""
        if self.path is None or not self.path.exists():
            return 0
        try:
            with safe_open(self.path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("key") != self.key:
                    return 0
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return 0  # ignore a broken file
        for name, weight in self.weights.items():
            weight.data.copy_(tensors[f"weight.{name}"])
        known = self.optimizer.state_dict()
        known["state"] = {
            i: {moment: tensors[f"{moment}.{name}"] for moment in MOMENTS}
            for i, name in enumerate(self.weights)
        }
        self.optimizer.load_state_dict(known)
        self.curve[:] = json.loads(metadata["curve"])
        return len(self.curve)

    def keep(self, now: bool = False) -> None:
        """Save everything that the next step depends on, if `EVERY` seconds have passed or
        `now`."""
        if self.path is None or not (now or time.monotonic() - self._saved > EVERY):
            return
        self._saved = time.monotonic()
        tensors: dict[str, Tensor] = {}
        for name, weight in self.weights.items():
            tensors[f"weight.{name}"] = weight.detach()
            known = self.optimizer.state[weight]
            tensors |= {f"{moment}.{name}": known[moment] for moment in MOMENTS}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"key": self.key, "curve": json.dumps(self.curve)}
        with replacing(self.path) as tmp:
            save_file({n: t.contiguous() for n, t in tensors.items()}, tmp, metadata=metadata)
