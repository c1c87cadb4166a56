"""How much faster smaller models are, and how well that is predicted: `python -m benchmarks.speed`.

Dense and pruned are timed in turn, alone on the machine: run nothing else beside it. Writes
speed.csv, latency.csv and speed.md to docs/results.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.common import MODEL, RESULTS, origin
from benchmarks.real.scale import Texts
from lop.evaluation.comparison import markdown
from lop.evaluation.latency import Machine, Request, answer, measure
from lop.evaluation.timing import PAIRS, Paired, in_turn
from lop.files import replacing
from lop.methods import random_plan
from lop.models.checkpoint import load
from lop.models.costs import flops_per_token, smallest_ratio
from lop.models.space import find_sites, space_of
from lop.models.stored import Stored
from lop.plan import SCOPES, Plan, per_cent
from lop.progress import progress
from lop.pruning import prune

MODELS: Mapping[str, Path] = {"reference": Path(MODEL), "real": Texts.model}
RATIOS = (0.3, 0.5, 0.7)
BATCHES = {1: Request(64, 1, 8), 16: Request(64, 16, 4)}
MODES = ("prefill", "decode")
REACH = (0.15, 0.3, 0.5, 0.7, 0.85)  # of the way from the dense model's latency to the least
# that latency is predicted for: a model as small as the reference model takes a single one no time
SERVED = {"reference": Request(256, 16, 2), "real": Request(128, 1, 16)}


def cut(model: Any, plan: Plan) -> Any:
    """A copy of a model, cut to a plan; which units stay is no matter for its speed."""
    scores = [torch.arange(float(units), 0, -1) for units in plan.space.units]
    return prune(copy.deepcopy(model), plan, scores, scope=plan.space.scope)


def promised(source: Stored, plan: Plan, mode: str) -> float:
    """How many times fewer FLOPs a token takes: in decoding all linear maps, of a prompt all but
    the output embeddings, which read its last token alone."""
    cost = flops_per_token(source, plan.space)
    head = 2 * source.model.get_output_embeddings().weight.numel() if mode == "prefill" else 0
    return (cost.dense - head) / (cost.of(plan) - head)


def timed(name: str) -> Iterator[tuple[Any, ...]]:
    """The rows of speed.csv of one model."""
    source, model = Stored(MODELS[name]), load(MODELS[name])
    for scope in SCOPES:
        space = source.space(scope)
        for ratio in progress(RATIOS, f"{name}, {scope}", len(RATIOS), "ratio"):
            plan = Plan.uniform(space, ratio).evened()
            small = cut(model, plan)
            for batch, request in BATCHES.items():
                found = in_turn(
                    lambda: answer(model, request),  # noqa: B023
                    lambda: answer(small, request),  # noqa: B023
                )
                for mode, pair in zip(MODES, found, strict=True):
                    of = (pair.ratio, pair.low, pair.high)
                    yield name, scope, ratio, mode, batch, promised(source, plan, mode), *of


def predicted(name: str) -> Iterator[tuple[Any, ...]]:
    """The rows of latency.csv of one model: uneven plans that meet a target, and what they take."""
    model = load(MODELS[name])
    begun = time.perf_counter()
    profile = measure(model, SERVED[name])
    taken = time.perf_counter() - begun
    space = space_of(find_sites(model, "ffn+attention"))

    def at(ratio: float) -> Plan:
        return random_plan(ratio, space, {})

    dense, least = (profile.of(plan) for plan in (space.dense, Plan(space, space.floors)))
    for share in progress(REACH, f"{name}, targets", len(REACH), "target"):
        target = f"{dense - share * (dense - least):.0f}ms"
        aim = profile.amount(target)
        plan = at(smallest_ratio("latency in ms", space, profile.of, aim, at))
        small = cut(model, plan)
        found = in_turn(lambda: answer(model, SERVED[name]), lambda: answer(small, SERVED[name]))  # noqa: B023
        whole = 1e3 * sum(pair.second for pair in found)
        yield name, target, profile.of(plan), whole, taken


def text(speed: pd.DataFrame, latency: pd.DataFrame) -> str:
    """The page as Markdown."""
    tables = []
    for (name, batch), of in speed.groupby(["model", "batch"], sort=False):
        rows = [["scope", "part", *map(per_cent, RATIOS)], ["---"] * (2 + len(RATIOS))]
        for (scope, mode), line in of.groupby(["scope", "mode"], sort=False):
            by = line.set_index("ratio")
            cells = [_cell(by.loc[ratio]) for ratio in RATIOS]
            rows.append([f"`{scope}`", str(mode), *cells])
        prompts = "one prompt" if batch == 1 else f"{batch} prompts at once"
        tables.append(f"### {str(name).capitalize()} model, {prompts}\n\n{markdown(rows)}\n")
    rows = [["model", "target", "predicted", "measured", "off"], ["---"] * 5]
    for row in latency.to_dict("records"):
        off = row["measured_ms"] / row["predicted_ms"] - 1
        times = (f"{row[of]:.1f} ms" for of in ("predicted_ms", "measured_ms"))
        rows.append([row["model"], row["target"], *times, f"{off:+.1%}"])
    seconds = latency.groupby("model", sort=False)["profile_s"].first()
    spent = ", ".join(f"{of:.0f} s ({name})" for name, of in seconds.items())
    requests = ", ".join(
        f"{of.batch} x {of.prompt} tokens answered with {of.generated} ({name})"
        for name, of in SERVED.items()
    )
    machine = Machine.of(load(MODELS["reference"]))
    return f"""# Speed

{origin()}

On {machine}; torch {torch.__version__}. Dense and pruned are
timed in turn, {PAIRS} pairs, with nothing else running. Given is the median of the pairs' ratios,
how many times as fast; in brackets is what arithmetic promises, the ratio of FLOPs. *noise* stands
where the middle half of the pairs holds 1. Plans are uniform; prompts have {BATCHES[1].prompt}
tokens of text, answers {BATCHES[1].generated} tokens, or {BATCHES[16].generated} in batches. Ratios
are shares of the scope.

{chr(10).join(tables)}
## Latency, predicted and measured

`lop latency` takes {spent}. Targets lie between what the dense
model takes and what is reached at the floors, for {requests}.
Plans are uneven ones that the profile says meet them.

{markdown(rows)}

[speed.csv](speed.csv), [latency.csv](latency.csv)
"""


def _cell(row: pd.Series) -> str:
    noise = Paired(row["measured"], row["low"], row["high"]).is_noise
    return f"{row['measured']:.2f}{' noise' if noise else ''} ({row['promised']:.2f})"


def main() -> None:
    """Time both models, and write the page and its figures."""
    Texts().ready()
    of_speed = ["model", "scope", "ratio", "mode", "batch", "promised", "measured", "low", "high"]
    of_time = ["model", "target", "predicted_ms", "measured_ms", "profile_s"]
    latency = pd.DataFrame([row for name in MODELS for row in predicted(name)], columns=of_time)
    speed = pd.DataFrame([row for name in MODELS for row in timed(name)], columns=of_speed)
    for name, table in (("speed", speed), ("latency", latency)):
        with replacing(RESULTS / f"{name}.csv") as tmp:
            table.to_csv(tmp, index=False, float_format="%.4f")
    with replacing(RESULTS / "speed.md") as tmp:
        tmp.write_text(text(speed, latency))
    print(RESULTS / "speed.md")


if __name__ == "__main__":
    main()
