"""The cases of the fuzz campaign: one call of one command, with one thing wrong.

A target is an option of a command, or a file that it reads. Cases come round by round, one a
target, in an order that the seed decides; so a small campaign sees many targets, and a large one
all. What is wrong is drawn by hypothesis, from the seed, the target and the round alone: a case has
the same number in a campaign of any size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from random import Random
from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from benchmarks.reliability import files, options
from benchmarks.reliability.inputs import VALID, WEIGHTS, arguments

T = TypeVar("T")
DEPTH = 12  # values drawn a target at a time; a strategy's first are always its simplest

PARAMS = "params.yaml"  # not a command, but read like one's options

_CONFIG = ("config.json", "generation_config.json")
_WORDS = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "processor_config.json")
_HEAD = ("config.json", WEIGHTS)
_ASKED = tuple(f"model/{name}" for name in (*_CONFIG, WEIGHTS, *_WORDS))
_SAMPLES = ("data/samples/reward.parquet",)
_SCORES = ("data/importance/flap.safetensors", "data/importance")
_PREDICTOR = ("data/predictor/config.json", f"data/predictor/{WEIGHTS}", "data/predictor")
_SEARCH = ("data/search/index.json", "data/search/mcts-0.2-0-*.parquet", "data/search")
_PROFILE = ("data/profile.parquet",)
_CUT = (*(f"model/{name}" for name in _HEAD), *_SCORES, *_PREDICTOR)

# What each command reads, by the files' names in the inputs.
READS: dict[str, tuple[str, ...]] = {
    "prepare": ("data/samples/benchmark.parquet", "samples.csv", "samples.jsonl", "pictures/0.png"),
    "importance": (*_ASKED, *_SAMPLES, "sharded/model.safetensors.index.json", "model"),
    "profile": (*_SCORES, *_SAMPLES),
    "latency": tuple(f"model/{name}" for name in _HEAD),
    "search": (*_SCORES, *_SAMPLES, *_PROFILE),
    "samples": _SEARCH,
    "train": (*_SEARCH, *_PROFILE, _SCORES[0]),
    "predict": (*(f"model/{name}" for name in _HEAD), *_PREDICTOR),
    "prune": (*_CUT, "sharded/model.safetensors.index.json", "sharded"),
    "evaluate": (
        *_ASKED, *_SAMPLES,
        *(f"data/{name}.parquet" for name in ("mme", "mmbench", "mmmu", "pope")),
    ),
    "compare": _PROFILE,
    "report": (
        "data/evaluation/metrics.json", "data/pruned/plans.json", "data/training/metrics.json",
        "data/evaluation/dense/lop_vqa.parquet", "data/evaluation", *_SEARCH[:2],
    ),
    "serve": (*_CUT, "token"),
    "track": (".lop/untracked/*/record.json",),
    PARAMS: tuple(f"params.yaml#{part}" for part in range(12)),  # as many as its sections
    "diff": ("data/evaluation/dense/lop_vqa.parquet", "data/samples/benchmark.parquet"),
}  # fmt: skip
SLOW = ("track", "compare", "report", "rollback", "evaluate")  # seconds a case: not in every round
# Files that a command can do without, or with any content.
OPTIONAL = (
    "generation_config.json",
    "tokenizer_config.json",
    "record.json",
    "training/metrics.json",
    "token",
)
OPTIONAL_TO = {"samples": ("search/index.json",)}  # it lists what a killed search left too
TABLES = {"samples.csv", "samples.jsonl", "pictures/0.png"}


@dataclass(frozen=True)
class Target:
    """What is made wrong: an option, or a file."""

    command: str
    name: str
    file: bool

    def __str__(self) -> str:
        return f"{self.command} {self.name}"


@dataclass(frozen=True)
class Case:
    """A call with one thing wrong. A file is broken in its folder, by `files.ways` and `draw`."""

    number: int
    target: Target
    kind: str
    words: tuple[str, ...]
    refuse: bool = False  # for files, what the way says decides
    way: int = 0
    draw: int = 0

    def spoil(self, folder: Path) -> files.Told:
        """Make what is wrong in a fresh copy of the inputs; says what that is."""
        if not self.target.file:
            return files.Told(self.kind, self.refuse)
        (path,) = sorted(folder.glob(self.target.name.partition("#")[0]))
        told = files.ways(self.target.name)[self.way](path, Random(self.draw))
        return files.Told(f"{path.relative_to(folder)}: {told.what}", told.refuse and self._needed)

    @property
    def _needed(self) -> bool:
        target = self.target
        return not target.name.endswith((*OPTIONAL, *OPTIONAL_TO.get(target.command, ())))


def targets() -> list[Target]:
    """Every option of every command, and every file that one reads."""
    found = [
        Target(command, options.name_of(option), False)
        for command in options.parsers()
        for option in options.options(command)
    ]
    return found + [
        Target(command, name, True) for command, names in READS.items() for name in names
    ]


def cases(seed: int, chosen: list[Target] | None = None) -> Iterator[Case]:
    """Cases without end, the same for the same seed."""
    order = targets() if chosen is None else chosen
    Random(seed).shuffle(order)
    number = count()
    for turn in count():
        for target in order:
            if target.command not in SLOW or turn % 4 == 0:
                drawn = _drawn(seed, target, turn // DEPTH)
                yield _case(next(number), target, drawn[turn % len(drawn)])


def _case(number: int, target: Target, drawn: options.Change | tuple[int, int]) -> Case:
    if isinstance(drawn, options.Change):
        return Case(number, target, drawn.kind, drawn.words, drawn.refuse)
    way, draw = drawn
    kind = files.ways(target.name)[way].__name__.replace("_", " ")
    return Case(number, target, f"file: {kind}", _words(target), way=way, draw=draw)


def _words(target: Target) -> tuple[str, ...]:
    """The valid call that reads this file."""
    if target.command == PARAMS:
        return (PARAMS,)
    given = dict(VALID[target.command])
    if target.name.startswith("sharded"):
        given["--model"] = "sharded"
    if target.name in TABLES:
        given["--source"] = target.name.replace("pictures/0.png", "samples.csv")
    return tuple(arguments(target.command, given))


@cache
def _drawn(seed: int, target: Target, block: int) -> list[options.Change | tuple[int, int]]:
    if target.file:
        ways = range(len(files.ways(target.name)))
        strategy: st.SearchStrategy = st.tuples(st.sampled_from(ways), st.integers(0, 2**32 - 1))
    else:
        found = {options.name_of(o): o for o in options.options(target.command)}
        strategy = options.changes(target.command, found[target.name])
    text = f"{seed} {target} {block}"
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    drawn = draw(strategy, number, DEPTH)
    Random(number).shuffle(drawn)
    return drawn


def draw(strategy: st.SearchStrategy[T], seed: int, most: int) -> list[T]:
    """Up to so many different values of a strategy, the same for the same seed."""
    found: list[T] = []

    @seeded(seed)
    @settings(
        max_examples=most, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def collect(value: T) -> None:
        if value not in found:
            found.append(value)

    collect()
    return found
