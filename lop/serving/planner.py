"""Batching of plan requests: requests that arrive at about the same time are answered together.

One pass of the predictor over many budgets takes little longer than over one budget. Each plan is
the same as in a batch of one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from lop.errors import LopError
from lop.plan import Plan
from lop.serving.champion import Served

BATCH = 32  # plans computed at once
WAITING = 512  # plans that may wait
GATHER = 0.002  # seconds that the first request waits for others

Waiting = tuple[Served, Sequence[float], asyncio.Future]


class Busy(LopError):
    """Too many plan requests are waiting."""


class Planner:
    """Plans of the current predictor, which `served` returns, computed in a separate thread."""

    def __init__(self, served: Callable[[], Served]) -> None:
        self.served = served
        self.thread = ThreadPoolExecutor(1, "plans")
        self.waiting: list[Waiting] = []
        self.worker: asyncio.Task[None] | None = None

    async def plans(self, ratios: Sequence[float]) -> tuple[Served, list[Plan]]:
        """The plans for some pruning ratios, and the predictor that made them.

        Raises LopError for a ratio outside the predictor's range, Busy if too many plans wait.
        """
        served = self.served()
        for ratio in ratios:
            served.predictor.check_ratio(ratio)
        if sum(len(request[1]) for request in self.waiting) + len(ratios) > WAITING:
            raise Busy(f"more than {WAITING} plans are waiting; try again later")
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((served, ratios, future))
        if self.worker is None or self.worker.done():
            self.worker = asyncio.create_task(self._answer())
        return served, await future

    async def _answer(self) -> None:
        loop = asyncio.get_running_loop()
        while self.waiting:
            await asyncio.sleep(GATHER)
            served, batch = self._next()
            budgets = [ratio for _, ratios, _ in batch for ratio in ratios]
            try:
                plans = await loop.run_in_executor(self.thread, served.predictor.plans, budgets)
            except Exception as error:  # pass it to all requests, which would wait forever
                for _, _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for _, ratios, future in batch:
                mine, plans = plans[: len(ratios)], plans[len(ratios) :]
                if not future.done():  # it is done if the client has disconnected
                    future.set_result(mine)

    def _next(self) -> tuple[Served, list[Waiting]]:
        """Take the next batch: the oldest request, and those after it with the same predictor that
        fit in."""
        served, size, count = self.waiting[0][0], 0, 0
        for predictor, ratios, _ in self.waiting:
            if predictor is not served or (count and size + len(ratios) > BATCH):
                break
            size, count = size + len(ratios), count + 1
        batch, self.waiting = self.waiting[:count], self.waiting[count:]
        return served, batch

    def close(self) -> None:
        """End the thread, without waiting for it."""
        self.thread.shutdown(wait=False, cancel_futures=True)
