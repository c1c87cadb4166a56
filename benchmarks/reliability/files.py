"""Ways to break a file: of any kind by its bytes, JSON, tables, weights and pictures by content.

A way takes the file and a random source, changes the file in place, and says what it did and
whether a command that needs this file must refuse it.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import yaml


class Told(NamedTuple):
    """What was done to a file, in words, and whether nobody can make sense of it now."""

    what: str
    refuse: bool = False


Way = Callable[[Path, Random], Told]

# JSON values that stand for no number, name, list or table that lop or transformers would expect
WRONG: tuple[Any, ...] = (None, "nonsense", "", -1, math.nan, math.inf, [], {}, [None], {"a": 1})
ODD: tuple[Any, ...] = (0, True, 10**30, 1e308, "😀" * 50, [[[]]])


def truncated(path: Path, rng: Random) -> Told:
    content = path.read_bytes()
    end = rng.randrange(len(content))
    path.write_bytes(content[:end])
    broken = end < 0.9 * len(content) and path.suffix != ".yaml"  # whose settings have defaults
    return Told(f"cut after {end} of {len(content)} bytes", broken)


def flipped(path: Path, rng: Random) -> Told:
    content = bytearray(path.read_bytes())
    places = [rng.randrange(len(content)) for _ in range(rng.choice([1, 3, 30]))]
    for place in places:
        content[place] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return Told(f"bits flipped in bytes {places[:3]}")


def emptied(path: Path, rng: Random) -> Told:
    path.write_bytes(b"")
    return Told("empty", True)


def removed(path: Path, rng: Random) -> Told:
    path.unlink()
    return Told("removed", True)


def a_directory(path: Path, rng: Random) -> Told:
    path.unlink()
    path.mkdir()
    return Told("a directory in its place", True)


def a_bad_link(path: Path, rng: Random) -> Told:
    path.unlink()
    path.symlink_to(rng.choice([path.name, "nowhere"]))
    return Told("a link to itself or to nowhere in its place", True)


def noise(path: Path, rng: Random) -> Told:
    path.write_bytes(rng.randbytes(rng.choice([1, 8, 100, 5000])))
    return Told("random bytes", True)


def not_utf8(path: Path, rng: Random) -> Told:
    path.write_bytes("ÄÖÜ,é".encode("latin-1") * 20)
    return Told("text in Latin-1", True)


def doubled(path: Path, rng: Random) -> Told:
    path.write_bytes(path.read_bytes() * 2)
    return Told("its content twice")


ANY: list[Way] = [
    truncated, flipped, emptied, removed, a_directory, a_bad_link, noise, not_utf8, doubled,
]  # fmt: skip


# JSON


def a_value(path: Path, rng: Random) -> Told:
    document = json.loads(path.read_text())
    holder, key, name = _somewhere(document, rng)
    value = rng.choice([*WRONG, *WRONG, *ODD])
    holder[key] = value
    path.write_text(json.dumps(document))
    return Told(f"{name} becomes {value!r:.40}", _must_be_right(path, name) and value in WRONG)


def without_a_key(path: Path, rng: Random) -> Told:
    document = json.loads(path.read_text())
    holder, key, name = _somewhere(document, rng)
    value = holder.pop(key)
    renamed = isinstance(holder, dict) and rng.random() < 0.5
    if renamed:
        holder[f"{key}_"] = value
    path.write_text(json.dumps(document))
    whole = isinstance(holder, dict)
    return Told(
        f"{name} {'renamed' if renamed else 'left out'}", whole and _must_be_right(path, name)
    )


def another_document(path: Path, rng: Random) -> Told:
    text = rng.choice(["null", "[]", "{}", "3", '"text"', "[1, 2]", "[" * 100_000, "{", "NaN"])
    path.write_text(text)
    return Told(f"the whole document {text[:10]}", True)


JSON: list[Way] = [*[a_value] * 5, *[without_a_key] * 3, another_document]

# Keys without which nothing can be right, by the file's name; the last part of the name decides.
NEEDED = {
    "model/config.json": {"model_type", "hidden_size", "num_hidden_layers", "vocab_size"},
    "predictor/config.json": {
        "space", "units", "costs", "kinds", "layers", "floors", "multiple", "min_ratio",
        "max_ratio", "kind", "hidden", "depth", "heads", "model_fingerprint",
    },
    "pruned/plans.json": {"method", "ratio", "kept"},
    "evaluation/metrics.json": {"accuracy"},
    "search/index.json": {"0", "1"},
    "sharded/model.safetensors.index.json": {"weight_map"},
}  # fmt: skip


def _must_be_right(path: Path, name: str) -> bool:
    known = NEEDED.get(f"{path.parent.name}/{path.name}", set())
    return name.rpartition(".")[2] in known and "vision_config" not in name


def _somewhere(document: Any, rng: Random) -> tuple[Any, Any, str]:
    """A random place in a document: what holds it, its key there, and its name from the top."""
    places: list[tuple[Any, Any, str]] = []

    def walk(value: Any, name: str) -> None:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        for key in keys:
            full = f"{name}.{key}".lstrip(".")
            places.append((value, key, full))
            if isinstance(value[key], dict | list) and len(places) < 2000:
                walk(value[key], full)

    walk(document, "")
    return rng.choice(places)


# Text: CSV, JSON lines, templates


def a_line(path: Path, rng: Random) -> Told:
    lines = path.read_text().splitlines()
    number = rng.randrange(len(lines))
    line = rng.choice(
        ["", '"', "{", "," * 40, "\0", "null", "[]", "3", lines[number][:-5], "\ufeff"]
    )
    path.write_text("\n".join([*lines[:number], line, *lines[number + 1 :]]) + "\n")
    return Told(f"line {number} becomes {line[:20]!r}")


def a_field(path: Path, rng: Random) -> Told:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    row, column = rng.choice(rows), rng.choice(["question", "answer", "image", "image", "category"])
    values: tuple[Any, ...] = (
        None,
        math.nan,
        {},
        [[]],
        {"a": 1},
        "",
        -1,
        10**30,
        True,
        "😀" * 50_000,
    )
    value = rng.choice(values)
    row[column] = value
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    nothing = value in (None, {}, "") or value == [[]] or value == {"a": 1} or value != value
    return Told(f"{column} of a row becomes {value!r:.30}", nothing and column != "category")


_LOOP = "{{% for i in range(99999) %}}{{% for j in range(99999) %}}{{{{ {!r} }}}}"


def a_template(path: Path, rng: Random) -> Told:
    begin = path.read_text()
    text, refuse = rng.choice(
        [
            (_LOOP.format("x") + "{% endfor %}{% endfor %}", True),
            ("{{ raise_exception('no') }}", True),
            ("{{ nothing.of.this }}", True),
            ("{% if %}", True),
            ("{{ ''.__class__.__mro__ }}" + begin, False),
            ("{{ 'x' * 10 ** 9 }}", True),
            ("{{ messages[7] }}", False),
            ("nothing that was asked", True),
        ]
    )
    path.write_text(text)
    return Told(f"the template {text[:50]}", refuse)


CSV: list[Way] = [a_line] * 5
LINES: list[Way] = [*[a_field] * 5, a_line]
TEMPLATE: list[Way] = [a_template] * 6

# params.yaml


def a_setting(path: Path, rng: Random) -> Told:
    document = yaml.safe_load(path.read_text())
    holder, key, name = _somewhere(document, rng)
    before, value = holder[key], rng.choice([*WRONG, *WRONG, *ODD])
    holder[key] = value
    path.write_text(yaml.safe_dump(document))
    free = before is None or key in ("path", "source", "address", "benchmark")
    same = type(value) is type(before) and not isinstance(value, list)
    refuse = value in WRONG and not free and not (same and isinstance(key, int))
    return Told(f"{name} becomes {value!r:.40}", refuse)


def an_unknown_setting(path: Path, rng: Random) -> Told:
    document = yaml.safe_load(path.read_text())
    holder, key, name = _somewhere(document, rng)
    while not isinstance(holder, dict):
        holder, key, name = _somewhere(document, rng)
    holder[f"{key}_"] = holder.pop(key) if rng.random() < 0.5 else 1
    path.write_text(yaml.safe_dump(document))
    return Told(f"{name}_ is a new key", True)


def another_yaml(path: Path, rng: Random) -> Told:
    begin = path.read_text()
    text = rng.choice(
        [
            "null", "[]", "3", "search: [", "\tsearch: 1", "search: !!python/name:os.system",
            "a: &a [*a]", "search: *nothing", "[" * 5000, begin + "\nsearch: {}\n", "\0", "a: b: c",
        ]
    )  # fmt: skip
    path.write_text(text)
    return Told(f"YAML {text[-20:]!r}", True)


SETTINGS: list[Way] = [*[a_setting] * 12, *[an_unknown_setting] * 5, *[another_yaml] * 4]


# Folders


def foreign(path: Path, rng: Random) -> Told:
    (path / rng.choice(["notes.txt", "more.json", ".hidden"])).write_text("not of lop")
    return Told("a foreign file in it")


def hollow(path: Path, rng: Random) -> Told:
    shutil.rmtree(path)
    path.mkdir()
    return Told("an empty folder", True)


def a_file(path: Path, rng: Random) -> Told:
    shutil.rmtree(path)
    path.write_text("text")
    return Told("a file in its place", True)


def one_less(path: Path, rng: Random) -> Told:
    chosen = rng.choice(sorted(p for p in path.rglob("*") if p.is_file()))
    os.unlink(chosen)
    return Told(f"without {chosen.relative_to(path)}")


FOLDER: list[Way] = [foreign, hollow, hollow, a_file, one_less, one_less, one_less]


def ways(name: str) -> list[Way]:
    """The ways to break an input of this name."""
    from benchmarks.reliability import content

    base = name.partition("#")[0]
    by_suffix: dict[str, list[Way]] = {
        "": ANY if base == "token" else FOLDER,
        ".json": [*ANY, *JSON],
        ".yaml": [*ANY, *SETTINGS],
        ".csv": [*ANY, *CSV],
        ".jsonl": [*ANY, *LINES],
        ".jinja": [*ANY, *TEMPLATE],
        ".parquet": [*ANY, *content.TABLE],
        ".safetensors": [*ANY, *content.WEIGHTS],
        ".png": [*ANY, *content.PICTURE],
    }
    return by_suffix[Path(base).suffix]
