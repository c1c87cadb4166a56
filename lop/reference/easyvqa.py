"""The easy-VQA task: questions about colours and shapes, for vision rather than knowledge.

Train and holdout are the package's train images, split by image; test is the package's test split.
"""

import random
import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from lop.errors import LopError

HOLDOUT_SHARE = 0.1
SPLIT_SEED = 0
COLOURS = ("black", "gray", "red", "green", "blue", "yellow", "teal", "brown")
SHAPES = ("circle", "rectangle", "triangle")


def category(question: str, answer: str) -> str:
    """The category of a question: colour, shape, or presence of a colour or shape."""
    if answer in COLOURS:
        return "colour"
    if answer in SHAPES:
        return "shape"
    words = set(re.findall("[a-z]+", question))
    return "presence of shape" if words & set(SHAPES) else "presence of colour"


def true_words(questions: Iterable[str], answers: Iterable[str]) -> set[str]:
    """The colour and shape words that are true for a picture, from its questions and answers."""
    true = set()
    for question, answer in zip(questions, answers, strict=True):
        words = set(re.findall("[a-z]+", question))
        denied = bool(words & {"not", "no"}) == (answer == "yes")
        if answer not in ("yes", "no") or not denied:
            true |= words | {answer}
    return true & {*COLOURS, *SHAPES}


def _package() -> object:
    try:
        import easy_vqa
    except ImportError as error:
        raise LopError("easy-vqa is missing: pip install 'lop[reference]'") from error
    return easy_vqa


def _chosen_images(split: str, images: list[int]) -> set[int]:
    """The split's image numbers; holdout is a seeded share of the train images."""
    if split == "test":
        return set(images)
    shuffled = sorted(images)
    random.Random(SPLIT_SEED).shuffle(shuffled)
    cut = round(len(shuffled) * HOLDOUT_SHARE)
    return set(shuffled[:cut] if split == "holdout" else shuffled[cut:])


def load(split: str) -> pd.DataFrame:
    """The questions of `split` (train, holdout or test), in the package's order.

    Columns: id, image_id, images (one PNG of 64 x 64 px), question, choices, answer, category.
    """
    if split not in ("train", "holdout", "test"):
        raise LopError(f"easy-VQA has no split {split!r}: use train, holdout or test")
    package = _package()
    source = "test" if split == "test" else "train"
    questions, answers, numbers = getattr(package, f"get_{source}_questions")()
    paths = getattr(package, f"get_{source}_image_paths")()
    chosen = _chosen_images(split, list(paths))
    pictures = {n: [{"bytes": Path(paths[n]).read_bytes(), "path": None}] for n in sorted(chosen)}
    rows = [
        {
            "id": f"easyvqa-{source}-{row}",
            "image_id": f"easyvqa-{source}-{number}",
            "images": pictures[number],
            "question": question,
            "choices": None,
            "answer": answer,
            "category": category(question, answer),
        }
        for row, (question, answer, number) in enumerate(
            zip(questions, answers, numbers, strict=True)
        )
        if number in chosen
    ]
    return pd.DataFrame(rows)
