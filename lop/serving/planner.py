"""Answers plan requests that come at about the same time together: a network's pass over many
budgets takes little longer than over one, and each plan is the same as if it were asked for alone.
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
GATHER = 0.002  # seconds that the first waits for others

Asked = tuple[Served, Sequence[float], asyncio.Future]


class Busy(LopError):
    """More plan requests wait than will be answered in good time."""


class Planner:
    """Plans of the predictor that `served` gives, from one thread beside the event loop."""

    def __init__(self, served: Callable[[], Served]) -> None:
        self.served = served
        self.thread = ThreadPoolExecutor(1, "plans")
        self.waiting: list[Asked] = []
        self.worker: asyncio.Task[None] | None = None

    async def plans(self, ratios: Sequence[float]) -> tuple[Served, list[Plan]]:
        """The plans for some pruning ratios, and the predictor they are of.

        Raises LopError outside the range that it was trained on, Busy when too many are waiting.
        """
        served = self.served()
        for ratio in ratios:
            served.predictor.check_ratio(ratio)
        if sum(len(asked[1]) for asked in self.waiting) + len(ratios) > WAITING:
            raise Busy(f"more than {WAITING} plans are waiting; ask again later")
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
            asked = [ratio for _, ratios, _ in batch for ratio in ratios]
            try:
                plans = await loop.run_in_executor(self.thread, served.predictor.plans, asked)
            except Exception as error:  # whoever asked must hear of it, or would wait for ever
                for _, _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for _, ratios, future in batch:
                mine, plans = plans[: len(ratios)], plans[len(ratios) :]
                if not future.done():  # its client may have gone
                    future.set_result(mine)

    def _next(self) -> tuple[Served, list[Asked]]:
        """Take what is answered next: the first of all, and what fits beside it."""
        served, size, count = self.waiting[0][0], 0, 0
        for which, ratios, _ in self.waiting:
            if which is not served or (count and size + len(ratios) > BATCH):
                break
            size, count = size + len(ratios), count + 1
        batch, self.waiting = self.waiting[:count], self.waiting[count:]
        return served, batch

    def close(self) -> None:
        """Let the thread end."""
        self.thread.shutdown(wait=False, cancel_futures=True)
