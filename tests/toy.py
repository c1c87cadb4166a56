"""A reward whose best plan is known, and the same seen with noise."""

from types import SimpleNamespace

import numpy as np

from lop.plan import Space

SPACE = Space.ffns((50, 40, 50, 30))
JOINT = Space.of(
    (4, 48, 4, 32), (12, 1, 12, 1), ("attention", "ffn", "attention", "ffn"), (0, 0, 1, 1)
)


def reward(plan):
    """Best where the first layers lose little; layers interact."""
    a, b, c, d = plan.ratios
    return -(4 * a + 2 * b + c + d + 3 * a * d)


class Noisy:
    """The reward by parts of 10 samples, each of which sees it with noise of its own."""

    def __init__(self, noise=0.0, parts=5):
        self.noise = noise
        self.parts = [SimpleNamespace(pictures=np.arange(10) + 10 * i) for i in range(parts)]

    def values(self, plan, part):
        own = np.random.default_rng([*plan.kept, part]).normal(size=10)
        return reward(plan) + self.noise * own
