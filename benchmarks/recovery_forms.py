"""Recovery in the forms of four benchmarks, which it was not trained on.

`python -m benchmarks.recovery_forms`, after `python -m benchmarks.recovery`: LOP's checkpoints of
the reference model, before and after recovery, in each of its draws.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.common import RESULTS, origin
from benchmarks.grid.figures import with_draws
from benchmarks.recovery import PIPELINE, PLACE, Questions, reference_runs
from lop.errors import LopError
from lop.evaluation.comparison import bold, markdown
from lop.evaluation.paired import paired, read_answers
from lop.evaluation.tasks.benchmarks import benchmark, locate
from lop.files import replacing
from lop.plan import RECOVERED, checkpoint_name, per_cent
from lop.progress import progress
from lop.steps.evaluating import evaluate_one
from lop.steps.pruning import prune_one

FORMS = ("easyvqa_mme", "easyvqa_mmbench", "easyvqa_mmmu", "easyvqa_pope")
RATIOS = (0.5, 0.7)
RUN = "lop"  # the elastic run at LOP's plans
BATCH = 64


def answered(draw: Questions, ratio: float, recovered: bool) -> Path:
    """The folder of a checkpoint's answers in all forms; computes what is not there yet.

    Checkpoints before recovery are the same in all draws, and are asked once.
    """
    method = RUN + (RECOVERED if recovered else "")
    own = draw.folder if recovered else draw.folder.parent
    name = checkpoint_name(method, ratio)
    place, answers = own / "cut" / name, own / "forms" / name
    cutter = replace(draw.cutter(), recovered_path=draw.folder / RUN)
    if not place.exists():
        prune_one(place, method, ratio, cutter)
    tasks = locate(FORMS, PIPELINE / "samples/benchmark.parquet")
    evaluate_one(answers, place, None, BATCH, 0, tasks)
    return answers


def rows(draws: list[Questions]) -> Iterator[dict[str, object]]:
    """A row a form and ratio: its main figure before and after, and the difference with its error.

    The error of a draw is by picture; all draws ask the same questions, so that their mean's is no
    smaller, and the draws' own spread comes on top.
    """
    asked = [(ratio, draw) for ratio in RATIOS for draw in draws]
    places = {
        (ratio, draw.seed): (answered(draw, ratio, False), answered(draw, ratio, True))
        for ratio, draw in progress(asked, "checkpoints", unit="checkpoint")
    }
    for form in FORMS:
        scorer = benchmark(form).scorer
        metric = scorer.primary
        for ratio in RATIOS:
            found: list[tuple[float, ...]] = []
            for draw in draws:
                before, after = (
                    scorer.clusters(read_answers(place, form)) for place in places[ratio, draw.seed]
                )
                sums = [float(scorer.figure(each.sum(), metric)) for each in (before, after)]
                found.append((*sums, *paired(scorer, after, before, metric)))
            before, after, gain, error = np.mean(found, 0)
            error = with_draws(float(error), [each[2] for each in found])
            yield {
                "form": form, "metric": metric, "ratio": ratio, "before": before, "after": after,
                "gain": gain, "stderr": error, "draws": len(found),
            }  # fmt: skip


def page(table: pd.DataFrame, steps: str) -> str:
    """The page as Markdown."""
    head = ["form", "figure", "removed", "before", "after", "after − before"]
    lines = [head, ["---"] * len(head)]
    for row in table.to_dict("records"):
        scale = 1 if row["metric"] == "score" else 100
        gain, error = scale * row["gain"], scale * row["stderr"]
        shown = bold(f"{gain:+.1f} ± {error:.1f}", abs(gain) > 2 * error)
        values = [f"{scale * row[name]:.1f}" for name in ("before", "after")]
        named = [row["form"], row["metric"], per_cent(row["ratio"])]
        lines.append([*map(str, named), *values, shown])
    return f"""# Recovery in other forms

{origin()}

LOP's checkpoints of the reference model, before and after one recovery of {steps} steps for all
budgets, asked easy-VQA's test pictures in the forms of four benchmarks. Recovery saw training
pictures and open questions alone. Draws of samples and seeds: {table["draws"].iloc[0]}. Figures in
per cent, but MME's score, of 2,000; standard errors are by picture and of the draws, and bold is
beyond two of them.

{markdown(lines)}

[recovery_forms.csv](recovery_forms.csv)
"""


def main() -> None:
    """Compute what is not there yet, and write page and CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600, help="of the elastic runs to ask")
    args = parser.parse_args()
    name = f"reference-{args.steps}"
    try:
        folders = sorted(PLACE.glob(f"{name}/draw-*/{RUN}/config.json"))
        draws = [
            Questions(name, int(path.parts[-3].removeprefix("draw-")), reference_runs(args.steps))
            for path in folders
        ]
        if not draws:
            raise LopError(f"{PLACE}/{name}: no recovered model; run benchmarks.recovery first")
        table = pd.DataFrame(rows(draws))
    except LopError as error:
        sys.exit(f"recovery_forms: {error}")
    with replacing(RESULTS / "recovery_forms.csv") as tmp:
        table.to_csv(tmp, index=False, float_format="%.5f")
    with replacing(RESULTS / "recovery_forms.md") as tmp:
        tmp.write_text(page(table, f"{args.steps:,}"))
    print(RESULTS / "recovery_forms.md")


if __name__ == "__main__":
    main()
