"""The steps that compare methods, and two models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lop.data.samples import check_answered, read_samples
from lop.evaluation.comparison import TITLES, Comparison, differences_markdown
from lop.evaluation.tasks.benchmarks import HEADLINE, own_tasks
from lop.files import check_file, check_own, replacing
from lop.steps.evaluating import evaluate
from lop.steps.grid import KEEP, prune_grid
from lop.steps.pruning import Cutter


def compare(
    out: Path,
    cutter: Cutter,
    methods: Sequence[str],
    ratios: Sequence[float | str],
    samples_path: Path,
    batch_size: int = 64,
    workers: int = 1,
    keep: str = KEEP,
) -> str:
    """Cut and evaluate every (method, ratio) and write the tables; returns comparison.md's text.

    Writes pruned/, evaluation/, comparison.csv and comparison.md to `out`. comparison.md compares
    the first method with every other method. With `keep` "none", a checkpoint is deleted after its
    evaluation, so the disk never holds more than `workers` of them.
    """
    check_own(out, lambda name: name in ("pruned", "evaluation"), "comparison")
    # check the samples before the first model is cut
    tasks = own_tasks(samples := read_samples(samples_path))
    if HEADLINE in tasks:
        check_answered(samples, HEADLINE)
    prune_grid(out / "pruned", methods, ratios, cutter, keep)
    inputs = (cutter.model_path, out / "pruned", samples_path)
    evaluate(
        out / "evaluation",
        *inputs,
        batch_size,
        workers=workers,
        tasks=tasks,
        # what was dropped is cut again, maybe from recovered weights
        recovered=cutter.recovered_path if keep != KEEP else None,
        scores_dir=cutter.scores_dir,
    )
    compared = Comparison.read(out / "evaluation", out / "pruned")
    page = compared.markdown() + "\n"
    if len(methods) > 1:
        unit = compared.by.unit
        title = f"{TITLES[methods[0]]} minus each other, {unit} ± paired standard error:"
        page += f"\n{title}\n\n{differences_markdown(compared.differences(methods[0]))}\n"
    with replacing(out / "comparison.csv") as tmp:
        nested = ["plan", "kept", "by_category", "tasks"]
        table = compared.table.drop(columns=nested, errors="ignore")
        smaller = 1 - table["parameters"] / compared.dense["parameters"]
        table.assign(reduction=smaller).to_csv(tmp, index=False)
    with replacing(out / "comparison.md") as tmp:
        tmp.write_text(page)
    return page


def diff(
    a: str,
    b: str,
    task: str,
    evaluation: Path,
    out: Path | None = None,
    samples: Path | None = None,
    limit: int = 200,
) -> str:
    """Compare the answers of models `a` and `b` to `task`; returns the counts as text.

    A model is given by its name in `evaluation` or by a folder of answers. With `out`, also writes
    a page with up to `limit` questions that the models answer differently; their pictures and texts
    come from `samples` (default: the task's file in data/samples).
    """
    from lop.report.diff import Diff, page
    from lop.report.questions import samples_file

    found = Diff.read(a, b, task, evaluation)
    if out:
        asked = samples or samples_file(Path("data/samples"), task)
        check_file(out, (asked, evaluation / a, evaluation / b, a, b))
        text = page(found, asked, limit)
        with replacing(out) as tmp:
            tmp.write_text(text)
    return found.text()
