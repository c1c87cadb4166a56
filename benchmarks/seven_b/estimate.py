"""Memory, time and disk use of each stage, computed from shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.seven_b.rates import Rates
from benchmarks.seven_b.shape import BYTES, TOKENS, Shape
from lop.evaluation.footprint import BATCH
from lop.plan import RECOVERED
from lop.reward.captured import LOGITS
from lop.reward.choice import CANDIDATES
from lop.search import FINALISTS
from lop.search.carried import budgets
from lop.settings import Params

ANSWER = 4  # tokens that are generated
GPUS = 8


@dataclass(frozen=True)
class Card:
    """A GPU: bytes of memory, published dense bfloat16 FLOPs and bytes a second; the share of the
    FLOPs that is assumed to be reached, and bytes a second of the machine's disk."""

    name: str
    memory: float
    flops: float
    bandwidth: float
    share: float
    disk: float


@dataclass(frozen=True)
class Stage:
    """A stage: bytes on a GPU, seconds on one GPU and on eight, disk use, and the formula of its
    time."""

    name: str
    memory: float
    one: float
    eight: float
    disk: str
    formula: str


@dataclass(frozen=True)
class Estimate:
    """Memory, time and disk use, one method for each stage. D is the pass of a sample through the
    decoder, V the pass of its picture through processor and vision tower, W reading the weights
    from disk; all in seconds."""

    shape: Shape
    card: Card
    rates: Rates
    params: Params

    @property
    def decoder(self) -> float:
        """D."""
        return self.shape.decoder / self._rate

    @property
    def vision(self) -> float:
        """V."""
        return self.shape.vision / self._rate + self.rates.processor

    @property
    def load(self) -> float:
        """W."""
        return self.shape.weights / self.card.disk

    @property
    def _rate(self) -> float:
        return self.card.flops * self.card.share

    @property
    def base(self) -> float:
        """Bytes of the model, of one sample in it and of the logits that are held at once."""
        return self.shape.weights + self.shape.activations + 4 * LOGITS

    def left(self, ratio: float) -> float:
        """D of a decoder that has lost a share of its FFN neurons."""
        return self.decoder * (1 - ratio * self.shape.ffn)

    def room(self, states: int) -> int:
        """Samples that fit on the card with `states` hidden states kept for each token."""
        free = self.card.memory - self.base - 0.5e9  # for CUDA itself
        return int(free // (states * self.shape.captured))

    def importance(self) -> Stage:
        """One pass over calibration samples, and uniform plans of every score."""
        p, judged = self.params, self.params.importance.reward_samples
        plans = [self.left(q) * len(CANDIDATES) for q in p.importance.ratios]
        hours = self.load + p.prepare.calibration * (self.vision + self.decoder)
        hours += judged * (self.vision + self.decoder + sum(plans))
        memory = self.base + self.rates.stats_bytes + judged * self.shape.captured
        return Stage(
            "importance", memory, hours, hours, "15 MB",
            f"W + {p.prepare.calibration} (V + D) + {judged} (V + D + {len(CANDIDATES)} plans at "
            f"{len(plans)} ratios); one process",
        )  # fmt: skip

    def profile(self) -> Stage:
        """Each layer cut alone: the layers below it run once, the others once for each size."""
        samples, layers = self.params.prepare.reward, self.shape.layers
        sizes = len(self.params.profile.shares)
        passes = [(i + sizes * (layers - i)) / layers for i in range(layers)]
        shares = [sum(passes[i::GPUS]) for i in range(GPUS)]  # of the workers
        start = self.load + samples * self.vision
        one, eight = (start + samples * n * self.decoder for n in (sum(passes), max(shares)))
        return Stage(
            "profile", self.base + 2 * samples * self.shape.captured, one, eight, "1 MB",
            f"W + {samples} V + {samples} x {sum(passes):.0f} D",
        )  # fmt: skip

    def search(self) -> Stage:
        """One search for each target, then its plans at budgets between targets; one worker for
        each search at most."""
        p = self.params
        samples, seen = p.prepare.reward, p.prepare.reward * (1 - p.search.hold_out)
        judged = p.search.settings[0].simulations * seen
        judged += (FINALISTS + 1) * p.search.hold_out * samples
        searches = [judged * self.left(t) for t in p.search.targets] * len(p.search.seeds)
        between = budgets(p.search.targets, p.search.spacing)
        carried = [(1 + len(p.search.targets)) * seen * self.left(t) for t in between]
        start = self.load + samples * self.vision
        waves = math.ceil(len(searches) / GPUS) * max(searches)
        return Stage(
            "search", self.base + samples * self.shape.captured,
            start + sum(searches) + sum(carried), start + waves + sum(carried) / GPUS, "10 MB",
            f"W + {samples} V + {len(searches)} searches x {judged:.0f} D + {len(between)} budgets "
            f"x {1 + len(p.search.targets)} plans x {seen:.0f} D, D by ratio",
        )  # fmt: skip

    def recover(self) -> Stage:
        """LoRA with activation checkpointing; the unpruned model runs once for each sample."""
        p = self.params
        taught, seen = p.prepare.train or 0, p.recover.steps * self._step
        first, steps = taught * (self.vision + self.decoder), seen * 3 * self.decoder
        memory = self.base + (self.shape.layers + 1) * self.shape.captured
        return Stage(
            "recover, LoRA", memory, self.load + first + steps,
            self.load + first + steps / GPUS, f"{self.shape.weights / 1e9:.0f} GB",
            f"W + {taught} (V + D) + {p.recover.steps} steps x {self._step} samples x 3 D "
            "(forward, recomputed, backward); a sample at a time",
        )  # fmt: skip

    @property
    def lessons(self) -> float:
        """Bytes of all training samples as decoder inputs."""
        return (self.params.prepare.train or 0) * self.shape.captured

    @property
    def _step(self) -> int:
        return self.params.recover.batch_size * self.params.recover.accumulation

    def prune(self) -> list[Stage]:
        """Writing all checkpoints of the grid, or none."""
        written, count = sum(self._grid()), len(self._grid())
        hours = 2 * written / self.card.disk
        return [
            Stage(
                "prune, keep: all", 0, hours, hours,
                f"{written / 1e9:.0f} GB, twice with DVC's cache",
                f"{count} checkpoints, read and written",
            ),
            Stage("prune, keep: none", 0, 60, 60, "plans", "about a minute"),
        ]  # fmt: skip

    def evaluate(self) -> list[Stage]:
        """Answers in parallel, speed of one model at a time, digests, and cutting checkpoints that
        are not kept."""
        p, s = self.params, self.shape
        grid, asked = self._grid(), p.prepare.benchmark or 0
        decoding = ANSWER * s.weights / self.card.bandwidth / p.evaluate.batch_size
        whole = [0.0, *[0.0 for name in p.prune.methods if name.endswith(RECOVERED)][:1]]
        kept = [self.left(q) for q in [*whole, *self._ratios()]]
        answers = [asked * (self.vision + pruned + decoding) for pruned in kept]
        singles, batches = p.evaluate.latency_samples, max(2, p.evaluate.latency_samples // 2)
        timed = 4 * (singles + batches * BATCH) * (self.vision + self.decoder)
        timed += 2 * (self.load + 8 * (singles + batches) * s.weights / self.card.bandwidth)
        models, waves = len(answers), math.ceil(len(answers) / GPUS)
        digests, cut = (s.weights + sum(grid)) / self.rates.digest, 4 * sum(grid) / self.card.disk
        return [
            Stage(
                "evaluate, answers", self.base + 8 * (s.cache * TOKENS + s.activations),
                sum(answers) + models * self.load, waves * (max(answers) + self.load), "50 MB",
                f"{models} models x ({asked} (V + D + {ANSWER} tokens) + W); batches halve to fit",
            ),
            Stage(
                "evaluate, times", 2 * s.weights, models * timed, models * timed, "",
                f"{models} x ({4 * (singles + batches * BATCH)} (V + D) + 2 W), alone; two models",
            ),
            Stage(
                "evaluate, digests", 0, digests, digests / GPUS, "", "bytes / SHA-256, once each"
            ),
            Stage(
                "evaluate, keep: none", 0, cut, cut, f"{max(grid) / 1e9:.0f} GB a worker",
                "added to keep: all; every checkpoint is cut twice",
            ),
        ]  # fmt: skip

    def all(self) -> list[Stage]:
        """Every stage, in order."""
        samples = Stage("prepare", 0, 60, 60, "the samples", "no model; a minute")
        fit = Stage("train", 0, 60, 60, "10 MB", "a small network, on a CPU; a minute")
        before = [samples, self.importance(), self.profile(), self.search(), fit, self.recover()]
        return [*before, *self.prune(), *self.evaluate()]

    def _ratios(self) -> list[float]:
        ratios = [float(q) for q in self.params.prune.ratios if not isinstance(q, str)]
        return ratios * len(self.params.prune.methods)

    def _grid(self) -> list[float]:
        """Bytes of each checkpoint."""
        ffns = BYTES * self.shape.layers * 3 * self.shape.hidden * self.shape.width
        return [self.shape.weights - q * ffns for q in self._ratios()]
