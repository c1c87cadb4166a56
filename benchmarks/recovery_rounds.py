"""Whether a second round pays: scores and plans found anew on recovered weights, recovered again.

`python -m benchmarks.recovery_rounds`, after `python -m benchmarks.recovery`: two rounds of so many
steps against one run of twice as many, at the knapsack's plans, in each draw.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.common import MODEL, RESULTS, origin
from benchmarks.grid.figures import difference
from benchmarks.recovery import PIPELINE, PLACE, judge, recovered
from lop.errors import LopError
from lop.evaluation.comparison import bold, markdown
from lop.files import replacing
from lop.plan import per_cent
from lop.settings import Recovery
from lop.steps import scoring, searching
from lop.steps.pruning import Cutter

RATIOS = (0.3, 0.5, 0.7, 0.8)
METHOD = "knapsack"  # plans that need no search, so that a round is scores, profile and training
BATCH = 100


@dataclass(frozen=True)
class Rounds:
    """One draw of training and test samples, in the folder that the recovery benchmark made."""

    source: Path
    steps: int
    seed: int

    @property
    def folder(self) -> Path:
        """Where this benchmark keeps what it makes."""
        return self.source / f"rounds-{self.steps}"

    def answers(self, name: str) -> pd.DataFrame:
        """Right answers at each ratio, a row a test sample and ratio; computed if not there."""
        out = self.folder / f"{name}.parquet"
        if not out.exists():
            first = self._cutter(MODEL, PIPELINE / "importance", PIPELINE / "profile.parquet")
            if name == "one":
                self._judge(out, self._recovered("one-long", first, 2 * self.steps), first)
            else:
                half = self._recovered("first", first, self.steps)
                second = self._found_anew(half)
                self._judge(out, self._recovered("second", second, self.steps), second)
        return pd.read_parquet(out)

    @staticmethod
    def _cutter(model: str | Path, scores: Path, profile: Path) -> Cutter:
        return Cutter(str(model), scores, "auto", "auto", None, profile)

    def _found_anew(self, model: Path) -> Cutter:
        """Scores and a profile of a recovered model."""
        scores, profile = self.folder / "importance", self.folder / "profile.parquet"
        reward = PIPELINE / "samples/reward.parquet"
        if not scores.exists():
            calibration = PIPELINE / "samples/calibration.parquet"
            scoring.importance(scores, str(model), calibration, BATCH, reward)
        if not profile.exists():
            searching.profile(profile, str(model), reward, scores, "auto", compensate="auto")
        return self._cutter(model, scores, profile)

    def _recovered(self, name: str, cutter: Cutter, steps: int) -> Path:
        settings = Recovery(methods=[METHOD], steps=steps, seed=self.seed)
        return recovered(self.folder / name, self.source, cutter, settings)

    def _judge(self, out: Path, model: Path, cutter: Cutter) -> None:
        judge(out, self.source, cutter, model, METHOD, (0.0, *RATIOS), restored=False)


def table(draws: list[Rounds]) -> pd.DataFrame:
    """A row a ratio: accuracy after one run and after two rounds, and their difference."""
    found, rows = [[draw.answers(name) for name in ("one", "two")] for draw in draws], []
    for ratio in (0.0, *RATIOS):
        pairs = [[each[np.isclose(each["ratio"], ratio)] for each in pair] for pair in found]
        one, two = ([pair[i]["correct"].to_numpy(float) for pair in pairs] for i in (0, 1))
        pictures = [pair[0]["of"].to_numpy(str) for pair in pairs]
        gain, error = difference(two, one, [np.ones(len(each)) for each in one], pictures)
        means = [float(np.concatenate(each).mean()) for each in (one, two)]
        rows.append((ratio, *means, gain, error, len(draws)))
    columns = ["ratio", "one_run", "two_rounds", "difference", "stderr", "draws"]
    return pd.DataFrame(rows, columns=columns)


def page(found: pd.DataFrame, steps: int) -> str:
    """The page as Markdown."""
    head = ["removed", "one run", "two rounds", "two rounds − one run"]
    lines = [head, ["---"] * len(head)]
    for row in found.to_dict("records"):
        gain, error = 100 * row["difference"], 100 * row["stderr"]
        shown = bold(f"{gain:+.2f} ± {error:.2f}", abs(gain) > 2 * error)
        values = [f"{100 * row[name]:.1f}" for name in ("one_run", "two_rounds")]
        lines.append([per_cent(row["ratio"]), *values, shown])
    return f"""# A second round of recovery

{origin()}

On the reference model, at the knapsack's plans: one run of {2 * steps:,} steps, against
{steps:,} steps, scores and profile found anew on the recovered weights, and {steps:,} steps more.
Accuracy in per cent on questions that nothing else saw; draws of samples and seeds:
{found["draws"].iloc[0]}. Standard errors are by picture, and bold is beyond two of them.

{markdown(lines)}

[recovery_rounds.csv](recovery_rounds.csv)
"""


def main() -> None:
    """Compute what is not there yet, and write page and CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--of", type=int, default=600, help="steps of the benchmark to go on from")
    parser.add_argument("--steps", type=int, default=300, help="of a round")
    parser.add_argument("--draws", type=int, default=3)
    args = parser.parse_args()
    try:
        sources = [PLACE / f"reference-{args.of}" / f"draw-{seed}" for seed in range(args.draws)]
        if missing := [path for path in sources if not (path / "test.parquet").exists()]:
            raise LopError(f"{missing[0]}: no samples; run benchmarks.recovery first")
        found = table([Rounds(path, args.steps, seed) for seed, path in enumerate(sources)])
    except LopError as error:
        sys.exit(f"recovery_rounds: {error}")
    with replacing(RESULTS / "recovery_rounds.csv") as tmp:
        found.to_csv(tmp, index=False, float_format="%.5f")
    with replacing(RESULTS / "recovery_rounds.md") as tmp:
        tmp.write_text(page(found, args.steps))
    print(RESULTS / "recovery_rounds.md")


if __name__ == "__main__":
    main()
