"""Questions about easy-VQA's test pictures in the forms of MME, MMBench, MMMU and POPE.

The reference model knows shapes, colours, flags and emoji, and cannot answer the published
benchmarks. These tasks have the benchmarks' columns and are scored by the same code, so that the
whole evaluation runs anywhere. Their figures say nothing about the published benchmarks.

There are no new annotations: questions and answers are from the data set, or follow from it (each
easy-VQA picture shows one shape in one colour, so every other shape and colour is absent). The
wordings are easy-VQA's. The form of choices (one per line without letters, or none) was chosen on
held-out train and validation pictures, not on test pictures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lop.files import replacing
from lop.reference import easyvqa, knowledge
from lop.reference.easyvqa import COLOURS, SHAPES, true_words

QUESTIONS = 1000  # in easyvqa_mmbench (before rotation); at least so many in easyvqa_mmmu
POPE_IMAGES = 250  # in each split, with four questions each
LETTERS = "ABCD"
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def build(seed: int) -> dict[str, list[dict[str, Any]]]:
    """Each task's rows, with its benchmark's columns, drawn from the test splits with `seed`."""
    seen, facts = easyvqa.load("test"), knowledge.load("test")
    return {
        "easyvqa_mme": mme(seen),
        "easyvqa_mmbench": mmbench(seen, np.random.default_rng(seed)),
        "easyvqa_mmmu": mmmu(seen, facts, np.random.default_rng(seed)),
        "easyvqa_pope": pope(seen, np.random.default_rng(seed)),
    }


def write(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write a task's rows to Parquet, atomically; image columns as {"bytes", "path"}."""
    table = pa.Table.from_pylist(list(rows))
    images = [name for name in table.column_names if name.startswith("image") and "_s" not in name]
    for name in images:
        column = pa.array([row[name] for row in rows], _IMAGE)
        table = table.set_column(table.column_names.index(name), name, column)
    with replacing(path) as tmp:
        pq.write_table(table, tmp)


def mme(samples: pd.DataFrame) -> list[dict[str, Any]]:
    """MME: for each picture and subtask, its first question with answer yes and with answer no.

    Pairs without one of the answers are left out. Perception asks whether a colour or shape is
    present; cognition asks the same with `not` or `no`.
    """
    negated = samples["question"].str.contains(r"\b(?:not|no)\b")
    kinds = {"presence of colour": "colour", "presence of shape": "shape"}
    about = samples["category"].map(kinds)
    subtask = about.where(~negated, "negated_" + about)
    asked = samples.assign(subtask=subtask).dropna(subset="subtask")
    rows = []
    for (name, image), group in asked.groupby(["subtask", "image_id"], sort=False):
        by_answer = group.drop_duplicates("answer").set_index("answer")
        if set(by_answer.index) != {"yes", "no"}:
            continue
        for answer in ("yes", "no"):
            one = by_answer.loc[answer]
            rows.append(
                {
                    "question_id": f"{name}/{image}",
                    "image": one["images"][0],
                    "question": one["question"],
                    "answer": answer.capitalize(),
                    "category": name,
                }
            )
    return rows


def mmbench(samples: pd.DataFrame, rng: np.random.Generator) -> list[dict[str, Any]]:
    """MMBench: questions for the colour with four of eight colours as choices, and for the shape
    with all three shapes."""
    rows: list[dict[str, Any]] = []
    for category, words in (("colour", COLOURS), ("shape", SHAPES)):
        of = samples[samples["category"] == category]
        for at in np.sort(rng.permutation(len(of))[: QUESTIONS // 2]):
            one = of.iloc[at]
            texts = _choices(one["answer"], words, rng)
            shown = dict.fromkeys(LETTERS) | dict(zip(LETTERS, texts, strict=False))
            rows.append(
                {
                    "index": len(rows),
                    "question": one["question"],
                    "hint": None,
                    "answer": LETTERS[texts.index(one["answer"])],
                    **shown,
                    "category": category,
                    "L2-category": category,
                    "image": one["images"][0],
                    "source": "easy-VQA",
                    "split": "dev",
                }
            )
    return rows


def mmmu(
    samples: pd.DataFrame, facts: pd.DataFrame, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """MMMU: equally many questions for each subject, half with four choices (shapes: three), half
    open.

    Subjects are the kinds of facts about flags and emoji, and easy-VQA's colours and shapes.
    """
    seen = samples[samples["category"].isin(["colour", "shape"])]
    pool = pd.concat([facts, seen], ignore_index=True)
    subjects = pool.groupby("category", sort=True)
    each = -(-QUESTIONS // subjects.ngroups)
    rows = []
    for subject, of in subjects:
        words = sorted(of["answer"].unique())
        for number, at in enumerate(rng.permutation(len(of))[:each]):
            one = of.iloc[at]
            texts = [] if number % 2 else _choices(one["answer"], words, rng)
            answer = LETTERS[texts.index(one["answer"])] if texts else one["answer"]
            rows.append(
                {
                    "id": f"test_{str(subject).capitalize().replace(' ', '_')}_{number + 1}",
                    "question": "<image 1>" + one["question"],
                    "options": str(texts),
                    "answer": answer,
                    "question_type": "multiple-choice" if texts else "open",
                    "image_1": one["images"][0],
                    **dict.fromkeys(f"image_{i}" for i in range(2, 8)),
                }
            )
    return rows


def pope(samples: pd.DataFrame, rng: np.random.Generator) -> list[dict[str, Any]]:
    """POPE: whether the picture's colour, its shape, another colour or another shape is present.

    By split, the other word is random, the most frequent in all pictures, or the most frequent
    together with the picture's shape (or colour).
    """
    shown = _shown(samples)
    pictures = samples.drop_duplicates("image_id").set_index("image_id")["images"]
    names = sorted(shown)
    chosen = [names[i] for i in np.sort(rng.permutation(len(names))[:POPE_IMAGES])]
    rows: list[dict[str, Any]] = []
    for split in ("random", "popular", "adversarial"):
        number = 0
        for name in chosen:
            for word, answer in _asked(shown[name], split, shown, rng):
                number += 1
                kind = f"{word} shape" if word in COLOURS else word
                rows.append(
                    {
                        "id": str(len(rows)),
                        "question_id": str(number),
                        "question": f"is there a {kind} in the image?",
                        "answer": answer,
                        "image_source": name,
                        "image": pictures[name][0],
                        "category": split,
                    }
                )
    return rows


def _asked(
    own: tuple[str, str], split: str, shown: dict[str, tuple[str, str]], rng: np.random.Generator
) -> Iterator[tuple[str, str]]:
    """A picture's colour and shape with answer `yes`, each followed by an absent word with `no`."""
    for position, words in enumerate((COLOURS, SHAPES)):
        absent = [word for word in words if word != own[position]]
        if split == "random":
            other = absent[rng.integers(len(absent))]
        else:
            beside = [
                pair[position]
                for pair in shown.values()
                if split == "popular" or pair[1 - position] == own[1 - position]
            ]
            count = Counter(beside)
            other = max(absent, key=lambda word: (count[word], word))
        yield own[position], "yes"
        yield other, "no"


def _shown(samples: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Colour and shape of each picture whose questions determine both."""
    found = {}
    for name, rows in samples.groupby("image_id"):
        true = true_words(rows["question"], rows["answer"])
        colour, shape = true & set(COLOURS), true & set(SHAPES)
        if len(colour) == len(shape) == 1:
            found[str(name)] = (colour.pop(), shape.pop())
    return found


def _choices(answer: str, words: Sequence[str], rng: np.random.Generator) -> list[str]:
    """The answer and up to three other words, in a random order."""
    others = [word for word in words if word != answer]
    texts = [answer, *(others[i] for i in rng.permutation(len(others))[:3])]
    return [texts[i] for i in rng.permutation(len(texts))]
