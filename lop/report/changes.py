"""Questions whose answers pruning changed, with their pictures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pandas as pd

from lop.data.pictures import decode
from lop.data.samples import prompt_text
from lop.evaluation.comparison import TASK, Comparison, bold, markdown
from lop.plan import per_cent
from lop.report.html import literal
from lop.report.questions import questions, samples_file

SIDE = 256  # pixels, the largest side of a picture in a table


def thumbnail(picture: bytes) -> tuple[bytes, str]:
    """A picture as the model gets it, reduced to `SIDE` pixels, and its file suffix."""
    image, buffer = decode(picture), io.BytesIO()
    if max(image.size) <= SIDE:
        image.save(buffer, "PNG")
        return buffer.getvalue(), ".png"
    image.thumbnail((SIDE, SIDE))
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue(), ".jpg"


def example_ids(compared: Comparison, method: str, count: int) -> list[str]:
    """Ids of questions that only the dense model answers right, not `method` at its highest ratio.

    They are the first question of each category by id, then the second, and so on, up to `count`.
    """
    last = compared.of(method)["name"].iloc[-1]
    before, after = compared.answers("dense", TASK), compared.answers(last, TASK)
    lost = before[before["correct"] & ~after["correct"]]
    turn = lost.groupby("category").cumcount()
    order = lost.assign(turn=turn).sort_values(["turn", "category", "id"])
    return order["id"].head(count).tolist()


def examples(compared: Comparison, method: str, samples: Path, out: Path, count: int = 8) -> str:
    """A Markdown table of the questions of `example_ids` with every answer, wrong ones in bold.

    Pictures are written to `out`. The text is empty if no right answer was lost.
    """
    ids = example_ids(compared, method, count)
    if not ids:
        return ""
    names = ["dense", *compared.of(method)["name"]]
    answers = {name: compared.answers(name, TASK).set_index("id") for name in names}
    titles = ["dense", *map(per_cent, compared.of(method)["ratio"])]
    lines = [["image", "question", "right", *titles], ["---"] * (3 + len(names))]
    for i, sample in enumerate(questions(samples_file(samples, TASK), TASK, ids)):
        cells = [_given(answers[name].loc[sample["id"]]) for name in names]
        pictures = save_pictures(sample, out, f"example-{i}")
        lines.append([pictures, literal(prompt_text(sample)), literal(sample["answer"]), *cells])
    return markdown(lines)


def save_pictures(sample: dict[str, Any], out: Path, stem: str) -> str:
    """Write thumbnails of the sample's pictures to `out`; returns the Markdown that shows them."""
    names = []
    for i, image in enumerate(sample["images"]):
        small, suffix = thumbnail(image["bytes"])
        names.append(f"{stem}-{i}{suffix}")
        (out / names[-1]).write_bytes(small)
    return " ".join(f"![picture]({name})" for name in names)


def changed(compared: Comparison, method: str) -> str:
    """A table with the number of answers that `method` changed at each ratio, by kind of change."""
    before = compared.answers("dense", TASK)
    head = ["ratio", "answers changed", "right → wrong", "wrong → right"]
    lines = [head, ["---"] * len(head)]
    for row in compared.of(method).to_dict("records"):
        after = compared.answers(row["name"], TASK)
        counts = changes(before, after)
        lines.append([per_cent(row["ratio"]), *(f"{n:,}" for n in counts)])
    return markdown(lines)


def changes(before: pd.DataFrame, after: pd.DataFrame) -> tuple[int, int, int]:
    """How many answers differ, went from right to wrong, and from wrong to right; rows by id."""
    was, now = before["correct"].to_numpy(bool), after["correct"].to_numpy(bool)
    differ = before["prediction"].to_numpy() != after["prediction"].to_numpy()
    return int(differ.sum()), int((was & ~now).sum()), int((~was & now).sum())


def _given(answer: pd.Series) -> str:
    return bold(literal(str(answer["prediction"]), 60), not answer["correct"])
