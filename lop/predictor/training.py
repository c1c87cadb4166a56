"""Trains a predictor on the good plans that search found (LOP, appendix A.1)."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from lop.predictor import Predictor, PredictorConfig
from lop.progress import progress


def good_samples(samples: pd.DataFrame, top: int) -> pd.DataFrame:
    """The `top` distinct plans of highest reward for each target, over all its searches."""
    unique = samples.assign(key=samples["kept"].map(tuple)).drop_duplicates(["target", "key"])
    ranked = unique.sort_values("reward", ascending=False, kind="stable")
    return ranked.groupby("target").head(top).drop(columns="key").sort_values("target")


def train(
    samples: pd.DataFrame,
    config: PredictorConfig,
    seed: int,
    epochs: int = 200,
    batch_size: int = 16,
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    log: Callable[[str, float, int], Any] | None = None,
) -> Predictor:
    """Fit a predictor to the plans in `samples` (columns target, plan) by MSE with teacher forcing.

    AdamW with a cosine learning rate. `log(name, value, epoch)` is called with `train_mse` once an
    epoch, and `free_running_mse` (no teacher) every tenth.
    """
    torch.manual_seed(seed)
    predictor = Predictor(config)
    network = predictor.network.train()
    budgets = torch.tensor(samples["target"].to_numpy(), dtype=torch.float32)
    plans = torch.tensor(np.stack(samples["plan"].to_list()), dtype=torch.float32)
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=weight_decay)
    steps = epochs * math.ceil(len(plans) / batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    with one_thread():
        for epoch in progress(range(epochs), "predictor", epochs, "epoch"):
            order = torch.randperm(len(plans), generator=generator)
            losses = []
            for rows in order.split(batch_size):
                loss = F.mse_loss(network(budgets[rows], plans[rows]), plans[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
            if log:
                log("train_mse", float(np.mean(losses)), epoch)
                if epoch % 10 == 9:
                    log("free_running_mse", _free_running_mse(predictor, budgets, plans), epoch)
    network.eval()
    return predictor


def _free_running_mse(predictor: Predictor, budgets: Tensor, plans: Tensor) -> float:
    return F.mse_loss(predictor.network.generate(budgets), plans).item()


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
    """A network this small is slower on several threads, and far slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def samples_fingerprint(samples: pd.DataFrame) -> str:
    """Twelve hex digits over the targets, plans and rewards that a predictor learned from."""
    rows = [(r["target"], tuple(r["kept"]), r["reward"]) for r in samples.to_dict("records")]
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:12]
