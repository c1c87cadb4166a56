"""Where a recovery stands, on disk, so that a killed one goes on and ends the same."""

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
EVERY = 30.0  # seconds from one saving to the next
MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # what AdamW knows of a weight


@dataclass
class State:
    """Weights that learn by name, what their optimizer knows, and the curve so far, in a folder.

    What other settings (`key`) left there is not gone on with.
    """

    folder: Path | None
    key: str
    weights: Mapping[str, nn.Parameter]
    optimizer: AdamW
    curve: list[dict[str, float]] = field(default_factory=list)
    _saved: float = field(default_factory=time.monotonic)

    @property
    def path(self) -> Path | None:
        """The one file."""
        return self.folder / STATE if self.folder else None

    def restore(self) -> int:
        """Take up what is there; returns the steps that are done."""
        if self.path is None or not self.path.exists():
            return 0
        try:
            with safe_open(self.path, "pt") as file:
                said = file.metadata() or {}
                if said.get("key") != self.key:
                    return 0
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return 0  # a broken file is no state
        for name, weight in self.weights.items():
            weight.data.copy_(tensors[f"weight.{name}"])
        known = self.optimizer.state_dict()
        known["state"] = {
            i: {moment: tensors[f"{moment}.{name}"] for moment in MOMENTS}
            for i, name in enumerate(self.weights)
        }
        self.optimizer.load_state_dict(known)
        self.curve[:] = json.loads(said["curve"])
        return len(self.curve)

    def keep(self, now: bool = False) -> None:
        """Write all that the next step depends on, if it is time."""
        if self.path is None or not (now or time.monotonic() - self._saved > EVERY):
            return
        self._saved = time.monotonic()
        tensors: dict[str, Tensor] = {}
        for name, weight in self.weights.items():
            tensors[f"weight.{name}"] = weight.detach()
            known = self.optimizer.state[weight]
            tensors |= {f"{moment}.{name}": known[moment] for moment in MOMENTS}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        said = {"key": self.key, "curve": json.dumps(self.curve)}
        with replacing(self.path) as tmp:
            save_file({n: t.contiguous() for n, t in tensors.items()}, tmp, metadata=said)
