"""The report's plots: each function writes one PNG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

COLOURS = {
    "lop_recovered": "#7b1e3a",
    "lop": "#d1495b",
    "knapsack_recovered": "#8a6212",
    "uniform_recovered": "#2f3437",
    "knapsack": "#e3a72f",
    "random": "#b5a7c9",
    "uniform": "#6c757d",
    "magnitude": "#b08968",
    "wanda_sp": "#3d7ea6",
    "flap": "#5a9367",
}


@contextmanager
def picture(path: Path, width: float = 5, height: float = 3.6) -> Iterator[tuple[Any, Any]]:
    """Yield a figure and its axes; after the block the figure is written to `path`."""
    from matplotlib.figure import Figure  # takes a second to import; no global state

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    yield figure, axes
    figure.savefig(path, dpi=150)


def curves(
    rows: pd.DataFrame, dense: float, titles: Mapping[str, str], axis: str, path: Path
) -> None:
    """`value` against `ratio`, one line for each `method`, with error bars of one `stderr`; `axis`
    is the title of the value axis."""
    with picture(path) as (figure, axes):
        axes.axhline(dense, color="black", lw=0.8, ls=":", label="Dense")
        for method in [m for m in titles if m in set(rows["method"])]:
            line = rows[rows["method"] == method].sort_values("ratio")
            axes.errorbar(
                100 * line["ratio"],
                line["value"],
                line["stderr"],
                label=titles[method],
                color=COLOURS[method],
                lw=2.4 if method == "lop" else 1.4,
                marker="o",
                ms=4,
                capsize=2,
                zorder=3 if method == "lop" else 2,
            )
        axes.set(xlabel="Removed (%)", ylabel=axis)
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)


def pareto(
    points: pd.DataFrame,
    cost: str,
    titles: Mapping[str, str],
    axes_titles: tuple[str, str],
    path: Path,
) -> None:
    """`value` against the column `cost`, one point for each model, with the Pareto front."""
    with picture(path) as (figure, axes):
        for method, title in {"dense": "Dense", **titles}.items():
            rows = points[points["method"] == method]
            if rows.empty:
                continue
            axes.errorbar(
                rows[cost],
                rows["value"],
                rows["stderr"],
                label=title,
                color=COLOURS.get(method, "black"),
                ls="none",
                marker="D" if method == "dense" else "o",
                ms=5,
                elinewidth=0.8,
            )
        front = pareto_front(points, cost)
        axes.step(front[cost], front["value"], where="post", color="black", lw=1, zorder=1)
        axes.set(xlabel=axes_titles[0], ylabel=axes_titles[1])
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)


def tradeoff(rows: pd.DataFrame, titles: Mapping[str, str], axis: str, path: Path) -> None:
    """`value` against `size`, and against `speed` if measured: one line for each `method`, from the
    whole model to the smallest; `axis` is the title of the value axis."""
    from matplotlib.figure import Figure

    timed = rows.dropna(subset=["speed"])
    panels: list[tuple[str, pd.DataFrame, Any]]
    panels = [("Size (% of the dense model's bytes)", rows.assign(x=100 * rows["size"]), None)]
    if len(timed) > 1:
        spread = [timed["speed"] - timed["speed_low"], timed["speed_high"] - timed["speed"]]
        panels.append(("Speed (times the dense model's)", timed.assign(x=timed["speed"]), spread))
    figure = Figure(figsize=(4.4 * len(panels), 3.6), layout="constrained")
    for axes, (label, of, spread) in zip(
        figure.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels, strict=True
    ):
        axes.spines[["top", "right"]].set_visible(False)
        for method, title in titles.items():
            mine = of["method"] == method
            if not mine.any():
                continue
            wide = [each[mine].clip(lower=0) for each in spread] if spread else None
            axes.errorbar(
                of["x"][mine],
                of["value"][mine],
                of["stderr"][mine],
                wide,
                label=title if axes.get_subplotspec().is_first_col() else None,
                color=COLOURS.get(method, "black"),
                marker="D" if method == "dense" else "o",
                ls="none" if method == "dense" else "-",
                ms=5,
                lw=1.6,
                elinewidth=0.8,
                capsize=2,
            )
        axes.set(xlabel=label)
    figure.axes[0].invert_xaxis()  # smaller and faster are to the right
    figure.axes[0].set_ylabel(axis)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)


def pareto_front(points: pd.DataFrame, cost: str) -> pd.DataFrame:
    """The models for which no other is better at the same or a lower `cost`, by cost."""
    ordered = points.sort_values([cost, "value"], ascending=[True, False])
    return ordered[ordered["value"] > ordered["value"].cummax().shift(fill_value=float("-inf"))]


def plan_heat_map(rows: pd.DataFrame, path: Path) -> None:
    """LOP's plans: share of pruned units, with a row for each ratio and a column for each site."""
    plans = 100 * np.stack(rows["plan"].to_list())
    with picture(path, height=max(2.2, 0.9 + 0.45 * len(plans))) as (figure, axes):
        image = axes.imshow(plans, cmap="magma_r", vmin=0, vmax=100, aspect="auto")
        kinds = rows["kinds"].iloc[0] if "kinds" in rows else ["ffn"] * plans.shape[1]
        names = [f"{i}" for i in rows["layers"].iloc[0]] if "layers" in rows else None
        axes.set_xticks(range(plans.shape[1]), names)
        axes.set_yticks(range(len(plans)), [f"{100 * r:g} %" for r in rows["ratio"]])
        both = "Decoder layer, its attention and its FFN"
        label = both if "attention" in kinds else "Decoder layer"
        axes.set(xlabel=label, ylabel="Removed")
        if plans.shape[1] <= 16:
            for (y, x), value in np.ndenumerate(plans):
                colour = "white" if value > 55 else "black"
                axes.text(x, y, f"{value:.0f}", ha="center", va="center", color=colour, size=8)
        figure.colorbar(image, ax=axes, label="% of the site")


def search_progress(progress: pd.DataFrame, path: Path) -> None:
    """Best reward so far against simulations, mean over seeds; one line for each searcher and
    target."""
    from matplotlib import colormaps

    styles = dict(
        zip(sorted(progress["searcher"].unique()), cycle(["-", "--", ":", "-."]), strict=False)
    )
    several = len(styles) > 1
    top = progress["target"].max()
    with picture(path) as (_, axes):
        for (searcher, target), rows in progress.groupby(["searcher", "target"]):
            gain = rows.groupby("simulation")["best"].mean()
            label = f"{100 * float(target):g} %" + (f", {searcher}" if several else "")
            colour = colormaps["viridis_r"](float(target) / top)  # a colour cycle has too few
            axes.step(
                gain.index + 1,
                gain - gain.iloc[0],
                where="post",
                label=label,
                color=colour,
                ls=styles[searcher],
            )
        axes.set(xlabel="Plans evaluated", ylabel="Best reward, above that of the first plan")
        axes.legend(
            title="Target", frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5)
        )


def gains(table: pd.DataFrame, path: Path) -> None:
    """Gains of searchers on validation samples by ratio, with errors; one panel for each model."""
    from matplotlib.figure import Figure

    models, names = table["model"].unique(), list(table["searcher"].unique())
    figure = Figure(figsize=(4.6 * len(models) + 2, 3.8), layout="constrained")
    panels = figure.subplots(1, len(models), squeeze=False)[0]
    for axes, model in zip(panels, models, strict=True):
        of = table[table["model"] == model]
        ratios = sorted(of["ratio"].unique())
        for i, name in enumerate(names):
            rows = of[of["searcher"] == name].set_index("ratio").reindex(ratios)
            at = np.arange(len(ratios)) + (i - (len(names) - 1) / 2) * 0.8 / len(names)
            axes.errorbar(
                at, rows["gain_validation"], rows["stderr"], fmt="o", ms=4, label=name, elinewidth=1
            )
        axes.axhline(0, color="black", lw=0.8)
        axes.set_xticks(range(len(ratios)), [f"{100 * ratio:g} %" for ratio in ratios])
        axes.set(xlabel="Removed", title=str(model))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("Gain over the knapsack, validation (nats)")
    panels[-1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=150)


def times(seconds: Mapping[str, float], path: Path) -> None:
    """Seconds to make a plan, on a logarithmic axis."""
    with picture(path, height=1.9) as (_, axes):
        labels = [f"{name} ({_time(value)})" for name, value in seconds.items()]
        axes.barh(labels, list(seconds.values()), color=["#6c757d", COLOURS["lop"]])
        axes.set(xscale="log", xlabel="Seconds to a plan")
        axes.invert_yaxis()


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"
