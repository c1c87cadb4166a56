"""The page of the scopes, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from benchmarks.common import origin
from benchmarks.scopes.compared import JOINT, RATIOS, Compared, gaps
from benchmarks.scopes.latency import SHARES, Timed
from lop.evaluation.comparison import TITLES, bold, markdown
from lop.plan import per_cent


def text(found: pd.DataFrame, compared: Sequence[Compared], timed: Sequence[Timed]) -> str:
    """The page, of the rows at equal parameters, and of what is judged at equal latency."""
    parts = []
    for each in compared:
        parts.append(section(found[found["model"] == each.name], each))
        parts += [latency(of) for of in timed if of.compared == each and of.draws]
    files = ["scopes.csv", *(["scopes_latency.csv"] if any(of.draws for of in timed) else [])]
    later = ", and at equal latency" if len(files) > 1 else ""
    return f"""# Attention and layers too

{origin()}

Attention's heads and FFN neurons pruned together (`space.scope: {JOINT}`) against FFNs alone
(`ffn`): at equal parameters of the whole model{later}.
Both see the same samples, and search, predictor and score are lop's own in each. A ratio is a share
of what can be cut of both together.

{chr(10).join(parts)}
{", ".join(f"[{file}]({file})" for file in files)}
"""


def section(found: pd.DataFrame, compared: Compared) -> str:
    """One model: its values, and how far apart the scopes are."""
    unit = (
        "Perplexity: less is better" if compared.is_text else "Accuracy in per cent: more is better"
    )
    head = ["scope", "method"]
    rows = [[*head, *map(per_cent, RATIOS)], ["---"] * (len(head) + len(RATIOS))]
    whole = found[found["scope"] == JOINT].groupby("ratio")["reduction"].mean()
    rows.append(["", "of the whole model", *(f"{whole[r]:.1%}" for r in RATIOS)])
    for (scope, method), of in found.groupby(["scope", "method"], sort=False):
        name, *ranking = str(method).split()
        cells = _shown(of, "ratio", RATIOS, compared)
        rows.append([f"`{scope}`", " ".join([TITLES.get(name, name), *ranking]), *cells])
    told = _told(
        ((per_cent(ratio), mean, error) for ratio, mean, error in gaps(compared)), compared
    )
    return f"""## The {"real decoder" if compared.is_text else "reference model"}

{unit}. Draws of samples and seeds: {len(compared.draws())}. Standard errors are by
{"document" if compared.is_text else "picture"}.

{markdown(rows)}

{TITLES[compared.ours.method]} with attention minus the same with FFNs alone, {told}.
"""


def latency(timed: Timed) -> str:
    """One model and request, at equal latency."""
    found, compared, request = timed.values(), timed.compared, timed.request
    targets = [f"{share:g}x" for share in SHARES if f"{share:g}x" in set(found["latency_target"])]
    rows = [["scope", *targets], ["---"] * (1 + len(targets))]
    for scope, of in found.groupby("scope", sort=False):
        rows.append([f"`{scope}`", *_shown(of, "latency_target", targets, compared)])
    taken = found.groupby("latency_target")["predicted_ms"].max()
    rows.append(["predicted ms, at most", *(f"{taken[target]:.0f}" for target in targets)])
    prompts = "one prompt" if request.batch == 1 else f"{request.batch} prompts"
    told = _told(((f"{share:g}x", mean, error) for share, mean, error in timed.gaps()), compared)
    return f"""### At equal latency, {prompts} at once

Plans of the knapsack that answer {prompts} of {request.prompt} tokens with {request.generated} in
these shares of the dense model's time, as a latency profile of one thread predicts it. Draws:
{len(timed.draws)}.

{markdown(rows)}

With attention minus FFNs alone, {told}.
"""


def _shown(
    of: pd.DataFrame, by: str, wanted: Sequence[float] | Sequence[str], compared: Compared
) -> list[str]:
    """Values with their standard errors, a dash where there is none."""
    share = _share(compared)
    table = share * of.set_index(by)[["value", "stderr"]]
    cells = {key: f"{value:.1f} ± {error:.1f}" for key, (value, error) in table.T.items()}
    return [cells.get(key, "–") for key in wanted]


def _told(found: Iterable[tuple[str, float, float]], compared: Compared) -> str:
    """How far apart the scopes are, in words."""
    what = "nats a token, less is better" if compared.is_text else "points, more is better"
    share = _share(compared)
    each = ", ".join(
        f"{at}: " + bold(f"{share * mean:+.3f} ± {share * error:.3f}", abs(mean) > 2 * error)
        for at, mean, error in found
    )
    return f"in {what}; bold is\nbeyond two standard errors: {each}"


def _share(compared: Compared) -> int:
    """What a value is multiplied by: accuracies are shown in per cent."""
    return 1 if compared.is_text else 100
