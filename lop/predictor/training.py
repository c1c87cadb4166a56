"""Trains a predictor on the good plans of the searches (LOP, appendix A.1)."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from lop.errors import LopError
from lop.predictor import Predictor, PredictorConfig
from lop.predictor.base import GRID, PlanNetwork
from lop.profile import Profile, solve
from lop.progress import progress


def good_samples(samples: pd.DataFrame, sure: float = 1.0) -> pd.DataFrame:
    """A predictor's training samples: each target's plans that are significantly better than their
    root.

    These are the plans whose gain on held-out samples is more than `sure` standard errors. A plan's
    `weight` is its gain shrunken by its error, g · (1 - e² / g²) (James-Stein): a gain that is
    mostly noise counts little. A target without such a plan has only its root, with a gain of 0.
    Every target has the same total weight; the mean weight is 1.

    Raises LopError for samples without gains, or a negative `sure`.
    """
    if sure < 0:
        raise LopError(f"train.samples.sure {sure}: expected at least 0")
    if missing := [name for name in ("gain", "gain_error") if name not in samples]:
        raise LopError(
            f"search samples without {' and '.join(missing)}: of an earlier version; search again"
        )
    chosen = []
    for _, rows in samples.groupby("target"):
        better = rows[(rows["gain"] > sure * rows["gain_error"]) & (rows["gain"] > 0)]
        better = better[~better["kept"].map(tuple).duplicated()]
        if better.empty:
            root = rows.sort_values("simulation", kind="stable").iloc[[0]]
            better = root.assign(gain=0.0, gain_error=0.0, weight=1.0)
        else:
            shrunken = better["gain"] - better["gain_error"] ** 2 / better["gain"]
            better = better.assign(weight=shrunken.clip(lower=1e-12))
        chosen.append(better.assign(weight=better["weight"] / better["weight"].sum()))
    good = pd.concat(chosen, ignore_index=True)
    return good.assign(weight=good["weight"] * len(good) / len(chosen))


def gains(good: pd.DataFrame) -> dict[float, float]:
    """By target, the weighted mean gain of the training plans; 0 if there are none."""
    parts = good.assign(gain=good["gain"] * good["weight"]).groupby("target")[["gain", "weight"]]
    return {float(target): row["gain"] / row["weight"] for target, row in parts.sum().iterrows()}


def mix_neighbours(samples: pd.DataFrame, between: int) -> pd.DataFrame:
    """Smooth across targets: add plans at `between` budgets between any two neighbouring targets.

    A budget is linear in the plan, Σ θ_i·d_i·c_i = b·Σ d_i·c_i, so (1−λ)θ + λθ' meets
    (1−λ)b + λb' when θ meets b and θ' meets b': mixup (arXiv 1710.09412) along the budget. Plans
    are paired by rank.
    """
    if between < 0:
        raise LopError(f"train.fit_options.smooth {between}: expected 0 or more")
    table = samples[["target", "plan", "weight"]].assign(plan=samples["plan"].map(np.asarray))
    targets = [rows.reset_index(drop=True) for _, rows in table.groupby("target")]
    tables = [table]
    for low, high in pairwise(targets):
        pairs = range(min(len(low), len(high)))
        for share in np.linspace(0, 1, between + 2)[1:-1]:
            tables.append((1 - share) * low.loc[pairs] + share * high.loc[pairs])
    return pd.concat(tables, ignore_index=True)


def train(
    samples: pd.DataFrame,
    config: PredictorConfig,
    seed: int,
    epochs: int = 200,
    batch_size: int = 16,
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    smooth: int = 0,
    profile: Profile | None = None,
    log: Callable[[str, float, int], Any] | None = None,
) -> Predictor:
    """Fit a predictor to the plans in `samples` by MSE, an autoregressive one with teacher forcing.

    Columns: target, plan (None: the base plan), and weight in the loss (default 1). `smooth` is the
    number of budgets that `mix_neighbours` adds. With a `profile` it learns the difference from the
    knapsack's plans, not from uniform plans. AdamW with a cosine learning rate. `log(name, value,
    epoch)` is called with `train_mse` every epoch, and with `free_running_mse` (without teacher
    forcing) every tenth.

    Raises LopError for fewer than 1 epoch.
    """
    if "weight" not in samples:
        samples = samples.assign(weight=1.0)
    torch.manual_seed(seed)
    predictor = Predictor(config)
    network = predictor.network.train()
    if profile:
        profile.check_fits(config.space)
        network.base.copy_(knapsack_base(profile))
    bases = network.base_plan(
        torch.tensor(samples["target"].to_numpy(), dtype=torch.float32)
    ).tolist()
    known = [b if p is None else p for p, b in zip(samples["plan"], bases, strict=True)]
    samples = mix_neighbours(samples.assign(plan=known), smooth)
    fit(network, samples, seed, epochs, batch_size, lr, weight_decay, log)
    return predictor


def fit(
    network: PlanNetwork,
    samples: pd.DataFrame,
    seed: int,
    epochs: int = 200,
    batch_size: int = 16,
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    log: Callable[[str, float, int], Any] | None = None,
) -> None:
    """Fit a network to the columns target, plan and weight of `samples`, as `train` does."""
    if epochs < 1:
        raise LopError(f"train.fit_options.epochs {epochs}: expected at least 1")
    budgets = torch.tensor(samples["target"].to_numpy(), dtype=torch.float32)
    plans = torch.tensor(np.stack(samples["plan"].to_list()), dtype=torch.float32)
    weights = torch.tensor(samples["weight"].to_numpy(), dtype=torch.float32)[:, None]
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=weight_decay)
    steps = epochs * math.ceil(len(plans) / batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    with one_thread():
        for epoch in progress(range(epochs), "predictor", epochs, "epoch"):
            order = torch.randperm(len(plans), generator=generator)
            losses = []
            for rows in order.split(batch_size):
                errors = network(budgets[rows], plans[rows]) - plans[rows]
                loss = (weights[rows] * errors.square()).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
            if log:
                log("train_mse", float(np.mean(losses)), epoch)
                if epoch % 10 == 9:
                    log("free_running_mse", _free_running_mse(network, budgets, plans), epoch)
    network.eval()


def knapsack_base(profile: Profile) -> Tensor:
    """The knapsack's plans at the budgets of a network's base, (GRID, S); beyond the largest
    possible ratio, the plan of that ratio."""
    most = profile.space.max_ratio
    plans = [solve(profile, min(b, most)).ratios for b in np.linspace(0, 1, GRID)]
    return torch.tensor(plans)


def _free_running_mse(network: PlanNetwork, budgets: Tensor, plans: Tensor) -> float:
    return F.mse_loss(network.generate(budgets), plans).item()


def latency_ms(predictor: Predictor, repeats: int = 50) -> float:
    """Median milliseconds from a ratio to a finished plan, on one core."""
    low, high = predictor.config.min_ratio, predictor.config.max_ratio
    times = []
    with one_thread():
        for ratio in np.linspace(low, high, repeats):
            begun = time.perf_counter()
            predictor.plan(float(ratio))
            times.append(1000 * (time.perf_counter() - begun))
    return float(np.median(times))


@contextmanager
def one_thread() -> Iterator[None]:
    """Run the block on one thread: a network this small is slower on several threads, and far
    slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def samples_fingerprint(samples: pd.DataFrame) -> str:
    """Twelve hex digits over the targets, plans and rewards of a predictor's training samples."""
    rows = [(r["target"], tuple(r["kept"]), r["reward"]) for r in samples.to_dict("records")]
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:12]
