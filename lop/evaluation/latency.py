"""Predicts a plan's latency on this machine: each site is timed at a grid of sizes, and times add
up.

A model answers the same request with all sites cut to the same share, for each share in turn and in
several rounds, while the time of each site is measured. So a site is timed in the running model,
with cold processor caches and a growing key-value cache, not alone in a loop. The remaining time is
the rest, which no plan changes.
"""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from pydantic import ConfigDict, Field
from torch import Tensor
from transformers import PreTrainedModel

from lop.errors import LopError
from lop.files import reading, replacing
from lop.models.site import Site, attributes, restore, show_front
from lop.models.space import check_in_memory, find_sites, space_of
from lop.plan import Plan, Space
from lop.progress import progress
from lop.typed import as_typed

SHARES = (1.0, 0.75, 0.5, 0.3, 0.1)  # of a site's units
REPEATS = 7
COLUMNS = ("site", "kept", "prefill_ms", "decode_ms")
REST = -1  # the site number of the rest

Count = Annotated[int, Field(gt=0)]


@dataclass(frozen=True)
class Request:
    """The timed request: a batch of `batch` prompts of `prompt` tokens, each with `generated` new
    tokens."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    prompt: Count = 128
    batch: Count = 1
    generated: Count = 16


@dataclass(frozen=True)
class Machine:
    """The hardware and its use for which times are valid."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    device: str  # cpu or cuda
    name: str  # of the processor or the graphics card
    dtype: str
    threads: int  # of torch, on a processor

    @classmethod
    def of(cls, model: PreTrainedModel) -> Machine:
        """The machine of a model."""
        kind, dtype = model.device.type, str(model.dtype).removeprefix("torch.")
        if kind == "cuda":
            return cls(kind, torch.cuda.get_device_name(model.device), dtype, 0)
        return cls(kind, processor_name(), dtype, torch.get_num_threads())

    def here(self) -> Machine:
        """This machine, used in the same way: with the same kind of device and dtype."""
        if self.device == "cuda":
            count = torch.cuda.device_count()
            names = [torch.cuda.get_device_name(i) for i in range(count)] or ["no GPU"]
            name = self.name if self.name in names else names[0]
            return Machine("cuda", name, self.dtype, 0)
        return Machine("cpu", processor_name(), self.dtype, torch.get_num_threads())

    def __str__(self) -> str:
        threads = f", {self.threads} threads" if self.threads else ""
        return f"{self.name} ({self.device}, {self.dtype}{threads})"


@dataclass(frozen=True)
class LatencyProfile:
    """Milliseconds of each site at some of its sizes, and of the rest (site -1).

    `table` has site, kept, prefill_ms (the pass over the prompt) and decode_ms (all tokens after
    the first).
    """

    space: Space
    request: Request
    machine: Machine
    table: pd.DataFrame

    def of(self, plan: Plan) -> float:
        """Milliseconds of a plan's model for the request; sites outside the plan's space are
        whole."""
        return sum(self.parts(plan))

    def parts(self, plan: Plan) -> tuple[float, float]:
        """Milliseconds of the prompt and of decoding."""
        kept = dict(zip(_keys(self.space), self.space.units, strict=True))
        kept |= dict(zip(_keys(plan.space), plan.kept, strict=True))
        total = self._timed[REST][1:, 0].copy()
        for site, key in enumerate(_keys(self.space)):
            total += self.site(site, np.array([kept[key]]))[:, 0]
        return float(total[0]), float(total[1])

    def site(self, site: int, kept: np.ndarray) -> np.ndarray:
        """Milliseconds of a site of this space with `kept` units (n,), of prompt and decoding; (2,
        n).

        Linear between the timed sizes; 0 for a site that is skipped.
        """
        x, *measured = self._timed[site]
        times = [np.interp(kept, x, y) for y in measured]
        return np.stack(times) * (np.asarray(kept) > 0)

    @cached_property
    def _timed(self) -> dict[int, np.ndarray]:
        """By site: its sizes, and milliseconds of prompt and decoding; (3, n)."""
        groups = self.table.sort_values("kept").groupby("site")[list(COLUMNS[1:])]
        return {int(str(site)): rows.to_numpy(float).T for site, rows in groups}

    def cost(self, space: Space, site: int, kept: np.ndarray) -> np.ndarray:
        """Milliseconds of a site of `space` with `kept` units (n,); (n,)."""
        own = _keys(self.space).index(_keys(space)[site])
        return self.site(own, kept).sum(0)

    def rest(self, space: Space) -> float:
        """Milliseconds of everything that a plan of `space` does not change."""
        units = enumerate(space.units)
        own = sum(self.cost(space, site, np.array([n]))[0] for site, n in units)
        return self.of(space.dense) - float(own)

    def amount(self, target: str) -> float:
        """Milliseconds of a target such as 120ms, 1.2s, or 0.7x (of the dense model's latency)."""
        match = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*(x|ms|s)", target.strip())
        if not match:
            raise LopError(f"latency {target!r}: expected a value such as 0.7x, 120ms or 1.2s")
        unit = {"x": self.of(self.space.dense), "ms": 1.0, "s": 1000.0}[match[2]]
        return float(match[1]) * unit

    def check_fits(self, space: Space, machine: Machine | None) -> None:
        """Raise LopError unless the profile is of a model with these sites, and of `machine` if
        given."""
        own = dict(zip(_keys(self.space), self.space.units, strict=True))
        if any(own.get(key) != n for key, n in zip(_keys(space), space.units, strict=True)):
            raise LopError(
                f"latency profile of a model with units {list(self.space.units)} at its sites, "
                f"this one has {list(space.units)}"
            )
        if machine and machine != self.machine:
            raise LopError(
                f"latency profile of {self.machine}, this is {machine}: run lop latency here, or "
                "set --elsewhere if the model will run there"
            )

    def save(self, path: Path) -> None:
        """Write the table as Parquet, atomically, with the other fields in its metadata."""
        table = self.table.copy()
        for name in ("space", "request", "machine"):
            table.attrs[name] = asdict(getattr(self, name))
        with replacing(path) as tmp:
            table.to_parquet(tmp, index=False)

    @classmethod
    def load(cls, path: Path) -> LatencyProfile:
        """Read the file of `save`; LopError with file and column if it is not valid."""
        with reading(path, "a latency profile"):
            table = pd.read_parquet(path)
            parts = {"space": Space, "request": Request, "machine": Machine}
            of: dict[str, Any] = {
                name: as_typed(kind, table.attrs.get(name), name) for name, kind in parts.items()
            }
            _check_table(table, len(of["space"].units))
        return cls(**of, table=table[list(COLUMNS)])


def _check_table(table: pd.DataFrame, sites: int) -> None:
    if missing := [name for name in COLUMNS if name not in table]:
        raise LopError(f"column {missing[0]!r} is missing")
    numbers = table[list(COLUMNS)].apply(pd.to_numeric, errors="coerce")
    if not np.isfinite(numbers.to_numpy(float)).all():
        raise LopError("expected finite numbers")
    if set(table["site"]) != {REST, *range(sites)}:
        raise LopError(f"column 'site': expected {REST} to {sites - 1}")


def _keys(space: Space) -> list[tuple[int, str]]:
    return list(zip(space.layers, space.kinds, strict=True))


def processor_name() -> str:
    """The processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def measure(
    model: PreTrainedModel,
    request: Request | None = None,
    shares: Sequence[float] = SHARES,
    repeats: int = REPEATS,
) -> LatencyProfile:
    """Time each FFN and attention site of a model with each of `shares` of its units.

    Each size is timed once in each of `repeats` rounds; the result is from medians. During the
    measurement the model's sites have only their first units; afterwards it is as before. Raises
    LopError if weights are offloaded.
    """
    request, sites = request or Request(), find_sites(model, "ffn+attention")
    check_in_memory(sites)
    space, found = space_of(sites), []
    levels = [tuple(max(1, round(share * n)) for n in space.units) for share in shares]
    rounds = [level for _ in range(repeats + 1) for level in levels]
    with _kept(sites) as show:
        for number, level in enumerate(progress(rounds, "latency", len(rounds), "answer")):
            show(level)
            times = _watched(model, request, sites)
            if number >= len(levels):  # the first round is a warm-up
                found.append(pd.DataFrame(times).assign(kept=[*level, 0]))
    table = _typical(pd.concat(found, ignore_index=True), len(levels))
    return LatencyProfile(space, request, Machine.of(model), table)


def _typical(found: pd.DataFrame, levels: int) -> pd.DataFrame:
    """One row for each site and size, from the answers in `found`, each with all sites and the
    rest.

    Other load slows down a whole answer. So the result is the median of each site's share of an
    answer's time, times the median of whole answers. Medians of single sites would sum to too
    little.
    """
    rows = len(found[found["site"] == REST])
    sites = len(found) // rows
    level = np.arange(rows).repeat(sites) % levels
    table = found[["site", "kept"]].assign(level=level)
    for name in COLUMNS[2:]:
        each = found[name].to_numpy().reshape(rows, sites)
        whole, part = each.sum(1), each / np.maximum(each.sum(1, keepdims=True), 1e-9)
        for at in range(levels):
            share = np.median(part[at::levels], axis=0)
            typical = np.median(whole[at::levels]) * share / max(share.sum(), 1e-9)
            table.loc[table["level"] == at, name] = np.tile(typical, len(part[at::levels]))
    return table.groupby(["site", "kept"], as_index=False)[list(COLUMNS[2:])].median()


def answer(model: PreTrainedModel, request: Request) -> np.ndarray:
    """Seconds of one answer to a request, (2,): the pass over the prompt, and decoding."""
    marks: list[float] = []

    def mark(*_: Any) -> None:
        _wait(model)
        marks.append(time.perf_counter())

    with ExitStack() as hooks:
        hooks.callback(model.register_forward_hook(mark).remove)
        _wait(model)
        begun = time.perf_counter()
        _generate(model, request)
        _wait(model)
        end = time.perf_counter()
    return np.array([marks[0] - begun, end - marks[0]])


def _watched(model: PreTrainedModel, request: Request, sites: Sequence[Site]) -> dict[str, Any]:
    """Milliseconds of each site and of the rest, in the pass over the prompt and in decoding."""
    spent = np.zeros((2, len(sites)))
    open_: dict[int, Any] = {}
    calls = np.zeros(len(sites), int)
    events: list[tuple[int, int, Any, Any]] = []
    clock = _clock(model)

    def before(i: int, *_: Any) -> None:
        if i not in open_:
            open_[i] = clock()

    def after(i: int, *_: Any) -> None:
        events.append((min(int(calls[i]), 1), i, open_.pop(i), clock()))
        calls[i] += 1

    with ExitStack() as hooks:
        for i, site in enumerate(sites):
            # the module of an FFN may be its whole layer: time it from its input maps to its output
            # map
            is_ffn = site.kind == "ffn"
            for module in [site.map(name) for name in site.inputs] if is_ffn else [site.module]:
                first = module.register_forward_pre_hook(partial(before, i), with_kwargs=True)
                hooks.callback(first.remove)
            last = (site.out if is_ffn else site.module).register_forward_hook(partial(after, i))
            hooks.callback(last.remove)
        whole = answer(model, request)
    for phase, i, begun, end in events:
        spent[phase, i] += _between(begun, end)
    rest = whole - spent.sum(1)
    prefill, decode = (1e3 * np.append(spent[p], rest[p]) for p in (0, 1))
    return {"site": [*range(len(sites)), REST], "prefill_ms": prefill, "decode_ms": decode}


def _clock(model: PreTrainedModel) -> Callable[[], Any]:
    """A clock on the device's own time: a GPU works asynchronously."""
    if model.device.type != "cuda":
        return time.perf_counter

    def stamp() -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(model.device))
        return event

    return stamp


def _between(begun: Any, end: Any) -> float:
    return end - begun if isinstance(begun, float) else begun.elapsed_time(end) / 1e3


def _wait(model: PreTrainedModel) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)


@torch.inference_mode()
def _generate(model: PreTrainedModel, request: Request) -> None:
    shape = (request.batch, request.prompt)
    most = model.config.get_text_config().vocab_size
    ids = torch.randint(min(10, most - 1), most, shape, generator=torch.Generator().manual_seed(0))
    ids = ids.to(model.device)
    count = request.generated
    model.generate(  # type: ignore[operator]
        input_ids=_plain(model, ids),
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        min_new_tokens=count,
        max_new_tokens=count,
    )


def _plain(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Replace image and video tokens, because the request has no pictures."""
    names = ("image_token_id", "video_token_id", "image_token_index", "video_token_index")
    for name in names:
        token: int | None = getattr(model.config, name, None)
        if token is not None:
            ids = torch.where(ids == token, 1, ids)
    return ids


@contextmanager
def _kept(sites: Sequence[Site]) -> Iterator[Callable[[Sequence[int]], None]]:
    """Yields a function that makes sites compute with copies of their first units, in the block."""
    full = [site.tensors() for site in sites]
    before = [attributes(site) for site in sites]

    def show(units: Sequence[int]) -> None:
        for site, tensors, was, count in zip(sites, full, before, units, strict=True):
            restore(site, was)
            show_front(site, tensors, count, own=True)

    try:
        yield show
    finally:
        for site, tensors, was in zip(sites, full, before, strict=True):
            restore(site, was)
            show_front(site, tensors, site.units)
            restore(site, was)
