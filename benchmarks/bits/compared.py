"""What is compared: a model in a draw of samples, its plans by bytes, and what they answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.full.scale import Questions
from benchmarks.grid import progress, steps
from benchmarks.grid.draw import Draw
from benchmarks.grid.scale import Scale
from benchmarks.real.scale import Texts
from lop.data.prepare import prepare_samples
from lop.data.samples import read_samples, write_samples
from lop.errors import LopError
from lop.files import replacing
from lop.joint import Choices, search, solve_size
from lop.models.checkpoint import load, load_processor, save
from lop.models.sizes import Sizes
from lop.models.space import find_space
from lop.plan import RECOVERED, WHOLE, Plan
from lop.profile import Profile
from lop.reward import Reward
from lop.search.drawn import HOLD_OUT, Drawn, held_out
from lop.settings import Learned, Recovery
from lop.steps import recovering, searching
from lop.steps.pruning import Cutter
from lop.steps.searching import PARTS

PLACE = Path("data/full/bits")
BUDGETS = (Fraction(1, 2), Fraction(1, 3), Fraction(1, 4), Fraction(1, 6))  # of the dense bytes
BITS = (4, 8)
STORED = torch.bfloat16  # what the weights and scales of all checkpoints are stored in
OTHERS = {
    "reference": ("embeddings", "vision", "projector"),
    "real": ("embeddings",),
}
JOINT = "joint"
# a method: how units are chosen, and bits a weight
METHODS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "prune_uniform": ("uniform", (WHOLE,)),
    "int8_uniform": ("uniform", (8,)),
    "int4_uniform": ("uniform", (4,)),
    "prune": ("knapsack", (WHOLE,)),
    "int8": ("knapsack", (8,)),
    "int4": ("knapsack", (4,)),
    "joint_added": ("knapsack", (*BITS, WHOLE)),
    JOINT: ("judged", (*BITS, WHOLE)),
}


def scale_of(name: str, quick: bool) -> Scale:
    """A model's samples and settings.

    It lies below `PLACE`: in bf16, which is cut and counted, and the same numbers in float32, which
    processors without bf16 compute with ten times as fast.
    """
    here: dict[str, Any] = {
        "model": PLACE / name / "float32",
        "runs": PLACE / name,
        "scope": "ffn+attention",
        "simulations": 24,
    }
    small: dict[str, Any] = {"calibration": 40, "reward": 40, "chosen_on": 20, "test": 60}
    small |= {"simulations": 3, "shares": (0.5,)}
    found: Scale = Questions() if name == "reference" else Texts(test=96)
    if quick and name == "real":
        small |= {"calibration": 4, "reward": 4, "chosen_on": 2, "test": 8}
    return replace(found, rivals=(), **(here | (small if quick else {})))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Compared:
    """A model in one draw of samples and seeds, with `recovery` steps."""

    name: str
    scale: Scale
    seed: int
    recovery: int

    @property
    def draw(self) -> Draw:
        """Its samples and scores."""
        return Draw(self.scale, self.seed)

    @property
    def profile_path(self) -> Path:
        """The profile at bits."""
        return self.draw.of(self.draw.chosen, "bits.parquet")

    @property
    def recovered(self) -> Path:
        """The recovered weights."""
        return self.draw.folder / f"recovered-{self.recovery}"

    def answers(self, recovered: bool = False) -> Path:
        """What was answered: a row a method, budget and test sample."""
        after = f"-{self.recovery}" if recovered else ""
        return self.draw.folder / f"answers{after}.parquet"

    @cached_property
    def cutter(self) -> Cutter:
        """What gives uniform plans, and cuts."""
        ranking = (self.draw.chosen.score, self.draw.chosen.compensate)
        paths = {"profile_path": self.profile_path, "others": OTHERS[self.name]}
        stored = str(self.scale.model.with_name("bf16"))
        return Cutter(stored, self.draw.importance, *ranking, **paths)  # type: ignore[arg-type]

    @cached_property
    def sizes(self) -> Sizes:
        """Bytes of plans."""
        return self.cutter.sizes(self.draw.chosen.compensate)

    def steps(self) -> Iterator[progress.Step]:
        """All that is done, in order; costs are samples that are read."""
        draw, scale = self.draw, self.scale
        yield from steps.made(draw)
        cost = len(scale.space.units) * (len(scale.shares) + 1) * (1 + len(BITS)) * scale.reward / 2
        yield progress.Step(f"draw {self.seed}: profile", self.profile_path, cost, self._profile)
        tests = len(METHODS) * len(BUDGETS) * scale.test
        yield progress.Step(f"draw {self.seed}: test", self.answers(), tests, self._judge)
        if self.recovery:
            label, spent = f"draw {self.seed}: recovery", self.recovery * 64 * 6
            config = self.recovered / "config.json"
            yield progress.Step(label, config, spent, self._recover)
            after = self.answers(recovered=True)
            yield progress.Step(f"{label}, test", after, tests, lambda: self._judge(True))

    def _profile(self) -> None:
        searching.profile(
            self.profile_path,
            *self.draw.place(self.draw.chosen),
            shares=self.scale.shares,
            compensate=self.draw.chosen.compensate,
            reward=self.scale.kind,
            batch_size=self.scale.batch_size,
            bits=BITS,
            others=OTHERS[self.name],
            workers=self.scale.workers,
        )

    def plans(self, model: Path) -> Iterator[tuple[str, Fraction, Plan]]:
        """Each method's plan at each budget that it can meet, and the dense one. Searches judge the
        weights of `model`."""
        profile, space = Profile.load(self.profile_path), self.cutter.space
        dense = self.sizes.of(space.dense)
        yield "dense", Fraction(1), space.dense
        with self._reward("reward", model, PARTS) as reward:
            for budget in BUDGETS:
                amount = float(budget * dense)
                for method, (kind, bits) in METHODS.items():
                    try:
                        if kind == "uniform":
                            plan = self._uniform(bits, amount)
                        elif kind == "knapsack":
                            plan = solve_size(profile, self.sizes, amount, bits, space)
                        else:
                            plan = self._searched(profile, amount, bits, reward)
                    except LopError:  # it cannot be met
                        continue
                    yield method, budget, plan

    def _searched(
        self, profile: Profile, amount: float, bits: tuple[int, ...], reward: Reward
    ) -> Plan:
        """The best of the knapsack's plans, with all bits and with fewer, on the reward samples; or
        what a search finds, if it is surely better on those that were held out of it."""
        choices = Choices(profile, self.sizes, bits, self.cutter.space)
        seen, held = held_out(len(reward.parts), HOLD_OUT)
        rng = np.random.default_rng(self.seed)
        *_, (last, _) = search(Drawn(reward, seen), choices, amount, self.scale.simulations, rng)
        best = max(map(choices.plan, choices.starts(amount)), key=reward)
        gain, error = Drawn(reward, held).gap(last, best)
        return last if gain > Learned().sure * error else best

    def _uniform(self, bits: tuple[int, ...], amount: float) -> Plan:
        cutter = replace(self.cutter, bits=bits)
        whole = cutter.planner("uniform")(0.0)
        if self.sizes.of(whole) <= amount:
            return whole
        return cutter.meeting("size", str(int(amount)), "uniform")[1]

    def _judge(self, recovered: bool = False) -> None:
        """Ask all test samples at every plan."""
        samples = read_samples(self.draw.samples("test"))
        dense = self.sizes.of(self.cutter.space.dense)
        place = self.recovered if recovered else self.scale.model
        found, rows = list(self.plans(place)), []
        with self._reward("test", place) as reward:
            for method, budget, plan in found:
                correct, loglik = reward.per_sample(plan)
                asked = {"id": samples["id"], "of": samples["image_id"], "correct": correct}
                share = {"budget": float(budget), "bytes_fraction": self.sizes.of(plan) / dense}
                rows.append(pd.DataFrame({"method": method, **share, **asked, "loglik": loglik}))
        table = pd.concat(rows, ignore_index=True)
        last = next(plan for method, _, plan in reversed(found) if method == JOINT)
        stored = self._stored(last, recovered)
        simulated = rows[max(i for i, each in enumerate(found) if each[0] == JOINT)]
        apart = np.abs(stored[1] - simulated["loglik"].to_numpy()).max()
        with replacing(self.answers(recovered)) as tmp:
            table.assign(stored_apart=apart).to_parquet(tmp)

    def _reward(self, purpose: str, model: Path, parts: int = 1) -> Reward:
        """The reward of float32 weights on a purpose's samples, quantized as they are stored."""
        samples, chosen = read_samples(self.draw.samples(purpose)), self.draw.chosen
        of = (load(model, dtype=torch.float32), load_processor(self.scale.model), samples)
        restored = chosen.compensate and model == self.scale.model
        return Reward(
            *of,
            self.cutter.scores[chosen.score],
            kind=self.scale.kind,
            batch_size=self.scale.batch_size,
            mean_activation=self.cutter.scores["mean_activation"] if restored else None,
            parts=parts,
            scope=self.scale.scope,
            stored=STORED,
        )

    def _stored(self, plan: Plan, recovered: bool) -> tuple[np.ndarray, np.ndarray]:
        """What a plan's checkpoint answers on all test samples, saved and loaded again."""
        samples, name = read_samples(self.draw.samples("test")), "knapsack"
        cutter = replace(self.cutter, recovered_path=self.recovered if recovered else None)
        name += RECOVERED if recovered else ""
        with TemporaryDirectory() as folder:
            out = Path(folder) / "small"
            cutter.ready([name])(name, plan.ratio, out, plan)
            small, processor = load(out, dtype=torch.float32), load_processor(out)
        scores = [torch.arange(n, 0, -1.0) for n in find_space(small, self.scale.scope).units]
        how = {"batch_size": self.scale.batch_size, "scope": self.scale.scope}
        with Reward(small, processor, samples, scores, **how) as reward:  # type: ignore[arg-type]
            return reward.per_sample(reward.space.dense)

    def _recover(self) -> None:
        """Train at the knapsack's plans of all budgets, before anything is quantized."""
        train, samples = self.draw.folder / "train.parquet", self.draw.samples("test")
        if not train.exists():
            write_samples(self._train_samples(), train)
        settings = Recovery(methods=["knapsack"], steps=self.recovery, seed=self.seed)
        if self.name == "real":
            more = {"batch_size": 16, "rank": 16, "low": 0.1, "high": 0.6, "right": 0.5}
            settings = settings.model_copy(update=more | {"text": 1.0, "whole": 0.2})
        curve = Path(f"{self.recovered}-training")
        recovering.recover(self.recovered, curve, train, self.cutter, settings, [samples])

    def _train_samples(self) -> pd.DataFrame:
        if self.name == "reference":
            sizes = {"calibration": 2, "reward": 2, "validation": 2, "train": 4000, "benchmark": 2}
            return prepare_samples("reference", 1000 + self.seed, sizes)["train"]
        return Texts().training(self.seed)


def ready(name: str, scale: Scale) -> None:
    """Put the model there."""
    if not (scale.model / "config.json").exists():
        given = Questions() if name == "reference" else Texts()
        given.ready()
        model, processor = load(given.model, dtype=torch.bfloat16), load_processor(given.model)
        save(model, processor, scale.model.with_name("bf16"))
        save(model.float(), processor, scale.model)
