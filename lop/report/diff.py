"""`lop diff`: where two models answer differently, as counts, a significance test and a page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lop.data.samples import prompt_text
from lop.errors import LopError
from lop.evaluation.comparison import bold, markdown
from lop.evaluation.paired import check_pairs, read_answers
from lop.report.changes import changes, thumbnail
from lop.report.html import literal, to_html
from lop.report.questions import questions


@dataclass(frozen=True)
class Diff:
    """The answers of models `a` and `b` to one task: tables with the same ids in the same order."""

    task: str
    names: tuple[str, str]
    a: pd.DataFrame
    b: pd.DataFrame

    @classmethod
    def read(cls, a: str, b: str, task: str, evaluation: Path) -> Diff:
        """Read the answers of two models, given by their names in `evaluation` or their folders.

        Raises LopError if there are no answers, or they are not to the same questions.
        """
        one, other = (read_answers(_folder(name, evaluation), task) for name in (a, b))
        if "correct" not in one:
            raise LopError(f"{task}: has no answers that are right or wrong, so none to compare")
        check_pairs(one, other)
        return cls(task, (Path(a).name, Path(b).name), one, other)

    def lines(self) -> list[tuple[str, int, int, int, int]]:
        """Numbers of questions, different answers, right → wrong and wrong → right, in total and by
        category."""
        rows = [("all", len(self.a), *changes(self.a, self.b))]
        for name, mine in self.a.groupby("category"):
            rows.append((str(name), len(mine), *changes(mine, self.b.loc[mine.index])))
        return rows

    @property
    def p_value(self) -> float:
        """Exact two-sided p-value of McNemar's test, assuming independent questions."""
        _, _, _, lost, won = self.lines()[0]
        return mcnemar(lost, won)

    def text(self) -> str:
        """The counts, for a terminal."""
        table = pd.DataFrame(self.lines(), columns=["", "questions", "differ", *_FLOW])
        right = [100 * t["correct"].mean() for t in (self.a, self.b)]
        return (
            f"{self.task}: {self.names[0]} {right[0]:.2f} % right, "
            f"{self.names[1]} {right[1]:.2f} %\n{table.to_string(index=False)}\n"
            f"McNemar, exact, two-sided: p = {self.p_value:.3g}"
        )


_FLOW = ("right → wrong", "wrong → right")


def mcnemar(lost: int, won: int) -> float:
    """Exact two-sided p-value that `lost` and `won` come from a fair coin (McNemar 1947)."""
    from scipy.stats import binomtest

    return float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0


def page(found: Diff, samples: Path, limit: int) -> str:
    """HTML with the counts, and up to `limit` questions with different answers and their pictures.

    Lost questions come first, then won ones, then those whose answers differ but are both right or
    both wrong. Raises LopError if the samples are not those that the models answered.
    """
    a, b = found.names
    pictures: dict[str, bytes] = {}
    shown, total = _table(found, samples, limit, pictures), found.lines()[0][2]
    head = ["", "questions", "answers differ", *_FLOW]
    counts = [[literal(str(c)) for c in row] for row in found.lines()]
    note = "" if total <= limit else f", the first {limit:,} of {total:,}"
    text = f"""# {literal(found.task)}: {literal(a)} and {literal(b)}

{markdown([head, ["---"] * len(head), *counts])}

The probability of a split between right → wrong and wrong → right at least this uneven, if both
models were equally good: p = {found.p_value:.3g} (McNemar's test, exact, two-sided; it assumes
independent questions, which questions about the same image are not quite).

## Where they differ{note}

First the questions that {literal(b)} lost, then those that it won, then those with different
answers that are both right or both wrong. Wrong answers are in **bold**.

{shown}
"""
    return to_html(text, pictures.__getitem__)


def _table(found: Diff, samples: Path, limit: int, pictures: dict[str, bytes]) -> str:
    """A Markdown table of the questions with different answers; adds pictures to `pictures`."""
    differ = found.a["prediction"].to_numpy() != found.b["prediction"].to_numpy()
    gain = found.b["correct"].astype(int) - found.a["correct"].astype(int)
    order = gain[differ].map({-1: 0, 1: 1, 0: 2}).sort_values(kind="stable").index[:limit]
    if not len(order):
        return "All answers are the same."
    head = ["picture", "question", "right", *map(literal, found.names), "category"]
    lines = [head, ["---"] * len(head)]
    asked = questions(samples, found.task, found.a.loc[order, "id"].tolist())
    for i, sample in zip(order, asked, strict=True):
        images = []
        for image in sample["images"]:
            small, suffix = thumbnail(image["bytes"])
            images.append(f"![picture]({len(pictures)}{suffix})")
            pictures[f"{len(pictures)}{suffix}"] = small
        answers = [_given(table.loc[i]) for table in (found.a, found.b)]
        texts = [literal(prompt_text(sample)), literal(sample["answer"]), *answers]
        lines.append([" ".join(images), *texts, literal(str(found.a.loc[i, "category"]))])
    return markdown(lines)


def _given(answer: pd.Series) -> str:
    return bold(literal(str(answer["prediction"])), not answer["correct"])


def _folder(name: str, evaluation: Path) -> Path:
    """The folder of answers of a model; LopError with the known names if there is none."""
    known = evaluation / name
    if known.is_dir():
        return known
    if Path(name).is_dir():
        return Path(name)
    if not evaluation.is_dir():
        raise LopError(f"{evaluation}: no such folder of evaluations, and no folder {name}")
    there = sorted(p.name for p in evaluation.iterdir() if p.is_dir() and p.name[0] != ".")
    raise LopError(f"{evaluation}: no model {name!r}; evaluated are {', '.join(there) or 'none'}")
