"""Units and bits by a budget of bytes, against either alone: `python -m benchmarks.bits`.

For each model, stored in bf16, over draws of samples and seeds: prune only, all weights at 8 or 4
bits beside as much pruning as the budget asks for, and plans of units and bits together; then the
same of weights that recovery has trained. Plans are judged in memory at dequantized weights, on
samples that nothing else saw; a checkpoint is cut, loaded and asked the same, and how far apart its
answers are stands on the page.

It can be stopped and goes on from where it was; `--steps 0` leaves recovery out, `--quick` is a
smoke run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch

from benchmarks.common import RESULTS, origin
from benchmarks.full.scale import Questions
from benchmarks.grid import progress, steps
from benchmarks.grid.draw import Draw
from benchmarks.grid.figures import difference, perplexity, rate
from benchmarks.grid.scale import Scale
from benchmarks.real import windows
from benchmarks.real.scale import Texts
from lop.data.prepare import prepare_samples
from lop.data.samples import read_samples, write_samples
from lop.errors import LopError
from lop.evaluation.comparison import bold, markdown
from lop.files import replacing
from lop.joint import Choices, candidates, search, solve_size
from lop.models.checkpoint import load, load_processor, save
from lop.models.sizes import Sizes
from lop.plan import RECOVERED, WHOLE, Plan
from lop.profile import Profile
from lop.reward import Reward
from lop.settings import Recovery
from lop.steps import recovering, searching
from lop.steps.pruning import Cutter

PLACE = Path("data/full/bits")
BUDGETS = (Fraction(1, 2), Fraction(1, 3), Fraction(1, 4), Fraction(1, 6))  # of the dense bytes
BITS = (4, 8)
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
TITLES = {
    "dense": "not pruned, bf16",
    "prune_uniform": "prune only, uniform",
    "int8_uniform": "8 bits, uniform widths",
    "int4_uniform": "4 bits, uniform widths",
    "prune": "prune only, knapsack",
    "int8": "8 bits, knapsack",
    "int4": "4 bits, knapsack",
    "joint_added": "joint, by the profile alone",
    JOINT: "joint",
}


def scale_of(name: str, quick: bool) -> Scale:
    """A model's samples and settings.

    It lies below `PLACE`: in bf16, which is cut and counted, and the same numbers in float32, which
    processors without bf16 compute with ten times as fast.
    """
    here = {"model": PLACE / name / "float32", "runs": PLACE / name, "scope": "ffn+attention"}
    small = {"calibration": 40, "reward": 40, "chosen_on": 20, "test": 60, "simulations": 3}
    small |= {"shares": (0.5,)}
    found: Scale = Questions() if name == "reference" else Texts(test=96)
    if quick and name == "real":
        small |= {"calibration": 4, "reward": 4, "chosen_on": 2, "test": 8}
    return replace(found, rivals=(), **here, **(small if quick else {}))  # type: ignore[arg-type]


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

    def plans(self) -> Iterator[tuple[str, Fraction, Plan]]:
        """Each method's plan at each budget that it can meet, and the dense one."""
        profile, space = Profile.load(self.profile_path), self.cutter.space
        dense = self.sizes.of(space.dense)
        yield "dense", Fraction(1), space.dense
        with self.draw.reward("reward", self.draw.chosen) as reward:
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
        """The best on the reward samples of the knapsack's plans, and of what a search finds."""
        found = candidates(profile, self.sizes, amount, bits, self.cutter.space)
        choices = Choices(profile, self.sizes, bits, self.cutter.space)
        rng = np.random.default_rng(self.seed)
        *_, (last, _) = search(reward, choices, amount, self.scale.simulations, rng)
        return max([*found, last], key=reward)

    def _uniform(self, bits: tuple[int, ...], amount: float) -> Plan:
        cutter = replace(self.cutter, bits=bits)
        whole = cutter.planner("uniform")(0.0)
        if self.sizes.of(whole) <= amount:
            return whole
        return cutter.meeting("size", str(int(amount)), "uniform")[1]

    def _judge(self, recovered: bool = False) -> None:
        """Ask all test samples at every plan."""
        samples, draw = read_samples(self.draw.samples("test")), self.draw
        scores, dense = self.cutter.scores, self.sizes.of(self.cutter.space.dense)
        place = self.recovered if recovered else self.scale.model
        model, processor = load(place, dtype=torch.float32), load_processor(self.scale.model)
        of = (model, processor, samples, scores[draw.chosen.score])
        means = scores["mean_activation"] if draw.chosen.compensate and not recovered else None
        size = {"batch_size": self.scale.batch_size, "mean_activation": means}
        found, rows = list(self.plans()), []
        with Reward(*of, scope=self.scale.scope, **size) as reward:  # type: ignore[arg-type]
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

    def _stored(self, plan: Plan, recovered: bool) -> tuple[np.ndarray, np.ndarray]:
        """What a plan's checkpoint answers on all test samples, saved and loaded again."""
        samples, name = read_samples(self.draw.samples("test")), "knapsack"
        cutter = replace(self.cutter, recovered_path=self.recovered if recovered else None)
        name += RECOVERED if recovered else ""
        with TemporaryDirectory() as folder:
            out = Path(folder) / "small"
            cutter.ready([name])(name, plan.ratio, out, plan)
            small, processor = load(out, dtype=torch.float32), load_processor(out)
        scores = [torch.arange(n, 0, -1.0) for n in _units(small, self.scale.scope)]
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
        documents = read_samples(Texts().text / "validation.jsonl")
        tokenizer = load_processor(self.scale.model)
        return windows.draw(documents, tokenizer, Texts().window, 1600, self.seed)


def _units(model: torch.nn.Module, scope: str) -> tuple[int, ...]:
    from lop.models.space import find_space

    return find_space(model, scope).units  # type: ignore[arg-type]


def ready(name: str, scale: Scale) -> None:
    """Put the model there."""
    if not (scale.model / "config.json").exists():
        given = Questions() if name == "reference" else Texts()
        given.ready()
        model, processor = load(given.model, dtype=torch.bfloat16), load_processor(given.model)
        save(model, processor, scale.model.with_name("bf16"))
        save(model.float(), processor, scale.model)


def figure(name: str, of: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """What is summed and by how much it is divided: right answers, or nats of text; (N,) both."""
    if name == "reference":
        return of["correct"].to_numpy(float), np.ones(len(of))
    return -of["loglik"].to_numpy(float), np.full(len(of), float(Texts().window))


def values(name: str, draws: list[pd.DataFrame], suffix: str = "") -> pd.DataFrame:
    """A row a method and budget over all draws: accuracy or perplexity, and how far behind
    `JOINT` it is."""
    rows = []
    for (method, budget), first in draws[0].groupby(["method", "budget"], sort=False):
        each = [_at(draw, str(method), budget) for draw in draws]
        if not all(len(of) for of in each):
            continue
        parts = [(*figure(name, of), of["of"].to_numpy(str)) for of in each]
        mean = rate if name == "reference" else perplexity
        value, error = mean(*map(np.concatenate, zip(*parts, strict=True)))
        joint = [_at(draw, JOINT, budget) for draw in draws]
        gap = (np.nan, np.nan)
        if all(len(of) for of in joint):
            ours = [figure(name, of)[0] for of in joint]
            clusters = [of for _, _, of in parts]
            gap = difference(ours, [v for v, _, _ in parts], [n for _, n, _ in parts], clusters)
        share = float(np.mean([of["bytes_fraction"].iloc[0] for of in each]))
        rows.append((name, f"{method}{suffix}", budget, share, value, error, *gap))
        del first
    columns = ["model", "method", "budget", "bytes_fraction", "value", "stderr"]
    return pd.DataFrame(rows, columns=[*columns, "joint_ahead", "joint_ahead_error"])


def _at(draw: pd.DataFrame, method: str, budget: float) -> pd.DataFrame:
    return draw[(draw["method"] == method) & np.isclose(draw["budget"], budget)]


def section(name: str, found: pd.DataFrame, draws: int, apart: float) -> str:
    """One model: a row a method, a column a budget."""
    questions = name == "reference"
    unit, shared = ("Accuracy in per cent", "picture") if questions else ("Perplexity", "document")
    scale = 100 if questions else 1
    lines = [["method", *map(str, BUDGETS)], ["---"] * (1 + len(BUDGETS))]
    ahead = [["joint against", *map(str, BUDGETS)], lines[1]]
    dense = found[found["method"] == "dense"].iloc[0]
    for method, of in found[found["method"] != "dense"].groupby("method", sort=False):
        cells, gaps = [], []
        for budget in BUDGETS:
            at = of[np.isclose(of["budget"], float(budget))]
            if at.empty:
                cells.append("–"), gaps.append("–")
                continue
            row = at.iloc[0]
            cells.append(f"{scale * row['value']:.1f} ± {scale * row['stderr']:.1f}")
            mean, error = scale * row["joint_ahead"], scale * row["joint_ahead_error"]
            gaps.append(bold(f"{mean:+.2f} ± {error:.2f}", abs(mean) > 2 * error))
        base = str(method).removesuffix(RECOVERED)
        title = TITLES[base] + (", recovered" if base != method else "")
        lines.append([title, *cells])
        if base != JOINT:
            ahead.append([title, *gaps])
    points = "points, more is better" if questions else "nats a token, less is better"
    return f"""## The {"reference model" if questions else "real decoder"}

{unit}; the dense model in bf16: {scale * dense["value"]:.1f} ± {scale * dense["stderr"]:.1f}. Draws
of samples and seeds: {draws}. Standard errors are by {shared}.

{markdown(lines)}

Joint plans minus the others, in {points}; bold is beyond two standard errors.

{markdown(ahead)}

The joint plan's checkpoint at the smallest budget, saved and loaded again: no test sample's
log-likelihood is further than {apart:.1g} from what dequantized weights gave in memory.
"""


def page(sections: list[str]) -> str:
    """The page as Markdown."""
    return f"""# Units and bits

{origin()}

Checkpoints of at most these shares of the dense one's bytes in bf16: of all weights, scales
included. Weights are quantized in groups of 32, and embeddings, vision tower and projector too. A
dash: the method cannot be that small. *Uniform widths* are as many units at every site; *knapsack*
chooses units by what each site loses at that number of bits; *joint* chooses units and bits: of the
knapsack's plans with all choices of bits and with fewer, and of what a search goes on to, the one
that is best on the reward samples. Recovery comes before quantizing.

{chr(10).join(sections)}
[bits.csv](bits.csv)
"""


def written(models: list[str], draws: int, recovery: int, quick: bool) -> Path:
    """The page and its figures, of what is there; LopError where nothing is."""
    tables, sections = [], []
    for name in models:
        scale = scale_of(name, quick)
        if not (scale.model / "config.json").exists():
            continue
        every = [Compared(name, scale, seed, recovery) for seed in range(draws)]
        parts = []
        for after in (False, True):
            there = [path for of in every if (path := of.answers(after)).exists()]
            if there:
                read = [pd.read_parquet(path) for path in there]
                parts.append((values(name, read, RECOVERED if after else ""), read))
        if parts:
            found = pd.concat([table for table, _ in parts], ignore_index=True)
            apart = max(float(of["stored_apart"].max()) for _, read in parts for of in read)
            tables.append(found)
            sections.append(section(name, found, len(parts[0][1]), apart))
    if not tables:
        raise LopError("no draw has been judged yet")
    out = PLACE / "page" if quick else RESULTS
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / "bits.csv") as tmp:
        pd.concat(tables).to_csv(tmp, index=False, float_format="%.5f")
    with replacing(out / "bits.md") as tmp:
        tmp.write_text(page(sections))
    return out / "bits.md"


def main() -> None:
    """Compute what is not there yet, and write page and CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=list(OTHERS), action="append", help="only this one")
    parser.add_argument("--draws", type=int, default=3, help="of samples and seeds")
    parser.add_argument("--steps", type=int, default=200, help="of recovery; 0 for none")
    parser.add_argument("--quick", action="store_true", help="a smoke run, with few samples")
    parser.add_argument("--page", action="store_true", help="only the page, of what is there")
    args = parser.parse_args()
    try:
        for name in (args.model or list(OTHERS)) if not args.page else []:
            scale = scale_of(name, args.quick)
            ready(name, scale)
            for seed in range(args.draws):
                compared = Compared(name, scale, seed, args.steps)
                for step in compared.steps():
                    progress.run([step])
        print(written(list(OTHERS), args.draws, args.steps, args.quick))
    except LopError as error:
        sys.exit(f"bits: {error}")


if __name__ == "__main__":
    main()
