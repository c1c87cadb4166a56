"""Malformed values for every option of every command, taken from the parser itself."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from hypothesis import strategies as st

from benchmarks.reliability.inputs import VALID, arguments
from lop.cli.parser import build_parser

# What options take, by their names. Others get values of every kind, none of them a must.
INTEGERS = {
    "seed", "calibration", "validation", "train", "benchmark", "batch_size", "simulations", "top",
    "smooth", "epochs", "multiple_of", "workers", "port", "queue", "keep", "limit", "prompt",
    "batch", "generated", "repeats", "steps", "accumulation", "rank",
    "group",
}  # fmt: skip
RATIOS = {"target", "ratio", "ratios", "low", "high"}
NUMBERS = INTEGERS | RATIOS | {"poll"}
AMOUNTS = {"params", "size", "flops_per_token", "latency"}
NAMES = {
    "score", "reward", "searcher", "weight", "kind", "format", "method", "methods", "tasks",
    "others",
}  # fmt: skip
INPUTS = {
    "model", "samples", "scores", "profile", "predictor", "search", "source", "token_file",
    "latency_profile", "kit",
}  # fmt: skip
NOT_ZERO = INTEGERS - {"seed", "smooth", "port", "limit"} | {"poll"}
# large ones are work, not nonsense
LONG = {
    "simulations", "epochs", "smooth", "workers", "prompt", "batch", "generated", "repeats",
    "steps", "accumulation", "rank",
}  # fmt: skip
# What these commands have no use for, with the methods they are called with.
UNREAD = {
    ("prune", "profile"), ("compare", "predictor"), ("compare", "latency_profile"),
    ("recover", "profile"), ("prepare", "model"),  # whose tokenizer only texts need
}  # fmt: skip
FLOWS = {"evaluation", "pruned", "search", "training"}  # what a report cannot do without

NO_NUMBERS = ("x", "", "1.5.2", "0x10", "1e", "--", "nine", "1,5", "½")
NO_INTEGERS = (*NO_NUMBERS, "1.5", "nan", "inf", "1e3")
NO_NAMES = ("nonsense", "", "../x", "FLAP", "x" * 300, "\N{PILE OF POO}", "flap flap2", "None")
NO_AMOUNTS = ("x", "", "-1", "nan", "inf", "0", "1e999", "5X", "9GBB", "1.2.3B", "-5GB", "B")
NO_INPUTS = (
    "missing", "", "/dev/null", "n" * 300, "bad\udcff", "loop", "dangling", "token", "pictures",
    "https://example.com/x", "models:/none@champion", "pictures/0.png", "samples.csv/x",
)  # fmt: skip
# Whatever is there and is no output of the command: inputs, others' files, what is no directory.
NO_OUTPUTS = (
    "", "fifo", "token", "samples.csv/x", "loop", "n" * 300, "pictures", "sharded", ".hidden",
    "model", "data/samples", "data/importance", "data/search", "data/predictor", "data/pruned",
    "data/profile.parquet", "/proc/nothing/there",
)  # fmt: skip
ODD_OUTPUTS = (".", "new/deep/out", "bad\udcff", "dangling", "to-foreign", "two words")
# What each command may well replace or add to, beside what does not exist.
OWN_OUTPUTS = {
    "prepare": {"data/samples"},
    "importance": {"data/importance"},
    "profile": {"data/profile.parquet", "out.parquet"},
    "latency": {"out.parquet"},
    "search": {"data/search"},
    "train": {"data/predictor"},
    "diff": set[str](),
}
FITTING = {
    "model": {"model", "sharded"},
    "samples": {"samples.csv", "samples.jsonl"},
    "source": {"samples.csv", "samples.jsonl"},
}


@dataclass(frozen=True)
class Change:
    """One option made wrong: the words of the call, what was done, whether it must be refused."""

    kind: str
    words: tuple[str, ...]
    refuse: bool


Values = st.SearchStrategy[str]
Calls = st.SearchStrategy[Change]


@cache
def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command."""
    found = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(next(found).choices)


def options(command: str) -> Iterator[argparse.Action]:
    """What a command takes, but for --help."""
    return (a for a in parsers()[command]._actions if a.dest != "help")


def changes(command: str, option: argparse.Action) -> Calls:
    """Calls of a command in which this one option is wrong."""
    ways = [_shape(command, option)]
    if option.nargs != 0:
        ways += [_values(command, option)] * 8
    return st.one_of(ways)


def _shape(command: str, option: argparse.Action) -> Calls:
    """Left out, without its value, twice, or with a name that there is not."""
    name = name_of(option)
    without = {k: v for k, v in VALID[command].items() if k != name}
    whole = arguments(command)
    found = [Change("unknown option", (*whole, "--no-such-option", "1"), True)]
    if option.required and name in VALID[command]:
        found.append(Change("left out", tuple(arguments(command, without)), True))
    if option.option_strings and option.nargs != 0:
        found.append(Change("without a value", (*arguments(command, without), name), True))
    if option.option_strings and option.nargs == 0:
        found.append(Change("flag with a value", (*whole, f"{name}=1"), True))
    return st.sampled_from(found)


def _values(command: str, option: argparse.Action) -> Calls:
    """The values that must be refused, and others that may be."""
    name, dest = name_of(option), option.dest
    wrong: Values = st.nothing()
    others: Values = st.nothing()
    if dest in NUMBERS or (command, dest) == ("prepare", "reward"):
        kind, others = "number", _numbers(dest)
    elif dest in AMOUNTS:
        kind, wrong = "amount", st.sampled_from(NO_AMOUNTS)
    elif dest in NAMES:
        kind, wrong = "name", st.sampled_from(NO_NAMES)
    elif dest == "out":
        kind, (wrong, others) = "output", _outputs(command)
    elif dest in INPUTS | FLOWS:
        kind, (wrong, others) = "path", _inputs(command, dest)
    else:
        text = st.text(st.characters(exclude_characters="\0"), max_size=20)
        kind, others = "text", st.one_of(text, st.sampled_from((*NO_NUMBERS, *NO_INPUTS)))

    def change(value: str, refuse: bool) -> Change:
        return Change(f"{kind} of --{dest}", _with(command, name, value), refuse)

    return st.one_of(
        wrong.map(lambda value: change(value, True)),
        others.map(lambda value: change(value, kind == "number" and is_nonsense(dest, value))),
    )


def _numbers(dest: str) -> Values:
    if dest in RATIOS | {"poll"}:
        odd = ("nan", "inf", "-inf", "1e400", "-0.1", "1", "1.0000001", "-1e-9")
        return st.one_of(st.sampled_from((*NO_NUMBERS, *odd)), st.floats(-2, 2).map(str))
    most = 3 if dest in LONG else 10**12
    drawn = st.one_of(st.integers(-(10**12), 0), st.integers(0, most), st.just(-1))
    return st.one_of(st.sampled_from(NO_INTEGERS), drawn.map(str))


def is_nonsense(dest: str, text: str) -> bool:
    """Whether a number must be refused, whatever else is right."""
    try:
        value = float(text) if dest in RATIOS | {"poll"} else int(text)
    except ValueError:
        return True
    if not math.isfinite(value) or value < 0:
        return True
    if dest in RATIOS:
        return value >= 1
    return (value == 0 and dest in NOT_ZERO) or (dest == "port" and value > 65535)


def _inputs(command: str, dest: str) -> tuple[Values, Values]:
    """Paths that must be refused, and others that may be."""
    kinds = {path for values in VALID.values() for v in values.values() for path in v.split()}
    known = {path for path in kinds if path.startswith(("model", "data/"))} | {"sharded"}
    fits = FITTING.get(dest, set()) | {VALID[command].get(f"--{dest}", "")}
    if dest in ("samples", "source"):
        fits |= {path for path in known if "samples" in path}
    if command == "report":
        fits = {f"data/{dest}"}
        if dest not in FLOWS:  # those are not needed for a page
            return st.nothing(), st.sampled_from((*NO_INPUTS, *sorted(known)))
    if (command, dest) in UNREAD:
        return st.nothing(), st.sampled_from((*NO_INPUTS, *sorted(known)))
    if dest == "token_file":
        fits.add("token")
    wrong = sorted({*NO_INPUTS, *known} - fits)
    return st.sampled_from(wrong), st.sampled_from(sorted(fits | {"."} - {""}))


def _outputs(command: str) -> tuple[Values, Values]:
    own = OWN_OUTPUTS.get(command, set())
    wrong = tuple(path for path in NO_OUTPUTS if path not in own)
    return st.sampled_from(wrong), st.sampled_from(ODD_OUTPUTS)


def _with(command: str, name: str, value: str) -> tuple[str, ...]:
    """The valid call with another value, which is one word, blanks or not."""
    rest = {k: v for k, v in VALID[command].items() if k != name and not _excludes(name, k)}
    if name.startswith("-"):  # the form with = lets a value begin with a hyphen
        return (*arguments(command, rest), f"{name}={value}")
    return tuple(value if w == VALID[command][name] else w for w in arguments(command))


def _excludes(name: str, other: str) -> bool:
    targets = {"--ratio", "--params", "--size", "--flops-per-token"}
    return name in targets and other in targets


def name_of(option: argparse.Action) -> str:
    """How a call names an option: its first flag, or the name of its place."""
    return str([*option.option_strings, option.metavar or option.dest][0])
