"""Search by a model of the reward: many plans, each judged by few samples, and all of them pooled.

How much better or worse than the root a plan is depends on each layer's change, and on pairs of
changes. A Gaussian process with that kernel learns it from plans that are judged by a fresh part of
the samples each, always in difference to the root on the same samples. So nothing is fitted to one
set of samples, and what it takes for the best plan rests on all evaluations together.
(Rasmussen and Williams, Gaussian Processes for Machine Learning, ch. 2 and 5.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from lop.plan import Plan
from lop.search.base import MOVES, Evaluated
from lop.search.drawn import Drawn

CANDIDATES = 400  # plans that the model chooses the next one from
FAVOURITES = 4  # plans that are judged by all samples at the end


@dataclass
class Surrogate:
    """Beliefs about the gain over the root of a change `x` (L,) of its layer-wise ratios.

    Seen are changes `x` (n, L), their gains (n,) and the variances of those (n,).
    """

    x: list[np.ndarray] = field(default_factory=list)
    gains: list[float] = field(default_factory=list)
    variances: list[float] = field(default_factory=list)
    scales: tuple[float, float] = (1.0, 1.0)  # of single and of paired changes; see `fit`

    def add(self, x: np.ndarray, gain: float, error: float) -> None:
        """Take in a gain with its standard error."""
        self.x.append(x)
        self.gains.append(gain)
        self.variances.append(error**2)

    def fit(self) -> None:
        """Choose the scales that make what was seen most likely (type-II maximum likelihood)."""
        x, y = np.stack(self.x), np.array(self.gains)
        size, spread = np.square(x).sum(1).mean(), np.square(y).mean()
        if not size or not spread:
            return
        grid = [spread * f for f in (0, 0.01, 0.1, 1.0)]
        options = [(a / size, b / size**2) for a, b in product(grid, grid) if a or b]
        self.scales = max(options, key=lambda scales: self._evidence(x, y, scales))

    def believe(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the gain of each of the changes x (m, L); (m,) both."""
        seen = np.stack(self.x)
        across = self._of(x @ seen.T, self.scales)
        solved = np.linalg.solve(self._covariance(seen, self.scales), across.T)  # (n, m)
        mean = solved.T @ np.array(self.gains)
        prior = self._of(np.square(x).sum(1), self.scales)
        return mean, np.sqrt(np.maximum(prior - (across * solved.T).sum(1), 0))

    @staticmethod
    def _of(inner: np.ndarray, scales: tuple[float, float]) -> np.ndarray:
        """Covariance by inner products: linear in each layer's change, quadratic in all pairs."""
        return scales[0] * inner + scales[1] * inner**2

    def _covariance(self, x: np.ndarray, scales: tuple[float, float]) -> np.ndarray:
        kernel, noise = self._of(x @ x.T, scales), np.nan_to_num(self.variances)
        # errors of few samples are uncertain themselves: none counts as far surer than the others
        least = 0.1 * noise.mean() + 1e-6 * kernel.diagonal().mean() + 1e-12
        return kernel + np.diag(np.maximum(noise, least))

    def _evidence(self, x: np.ndarray, y: np.ndarray, scales: tuple[float, float]) -> float:
        covariance = self._covariance(x, scales)
        _, log_determinant = np.linalg.slogdet(covariance)
        return float(-y @ np.linalg.solve(covariance, y) - log_determinant)


def surrogate(
    reward: Drawn,
    root: Plan,
    simulations: int,
    rng: np.random.Generator,
    step: float = 0.1,
    move: str = "mixed",
    exploration: float = 1.0,
) -> Iterator[Evaluated]:
    """Judge plans by one part of the samples each; yield the favourites judged by all of them.

    A simulation is worth an evaluation on all samples that the search sees. The next plan is that
    of most `exploration` standard deviations above its expected gain, among changes of at most
    `step` a layer of the plan that is expected to be best, which moves as more is known. At the end
    `FAVOURITES` are judged by all samples.
    """
    base = reward(root)
    yield Evaluated(root, base, 0, 0)
    beliefs, plans, seen = Surrogate(), [root], {root.kept}
    centre, depth = root, 0
    parts = len(reward.parts)
    favourites = min(FAVOURITES, (simulations - 1) // 2)
    for trial in range(parts * (simulations - 1 - favourites)):
        options = _options(centre, step, move, rng, seen)
        chosen = options[0]
        if trial > len(root.kept):  # before that the model has nothing to go by
            if trial % parts == 0:
                beliefs.fit()
            mean, spread = beliefs.believe(_changes(options, root))
            chosen = options[int(np.argmax(mean + exploration * spread))]
        seen.add(chosen.kept)
        gain, error = reward.gap(chosen, root, [reward.parts[trial % parts]])
        beliefs.add(_changes([chosen], root)[0], gain, error)
        plans.append(chosen)
        yield Evaluated(chosen, base + gain, 1 + trial // parts, depth + 1, 1 / parts)
        if trial % parts == parts - 1:
            best = plans[int(np.argmax(beliefs.believe(_changes(plans, root))[0]))]
            if best.kept != centre.kept:
                centre, depth = best, depth + 1
    if len(plans) > 1:
        best_first = _favourites(beliefs, plans, centre, root, step, rng)
        for number, plan in enumerate(best_first[:favourites], simulations - favourites):
            yield Evaluated(plan, base + reward.gap(plan, root)[0], number, depth + 1)


def _options(
    centre: Plan,
    step: float,
    move: str,
    rng: np.random.Generator,
    seen: set[tuple[int, ...]],
) -> list[Plan]:
    """Plans near the centre that were not judged yet, where there are any."""
    drawn = [MOVES[move](centre, rng.uniform(0, step), rng) for _ in range(CANDIDATES)]
    return [plan for plan in drawn if plan.kept not in seen] or drawn


def _changes(plans: list[Plan], root: Plan) -> np.ndarray:
    """How much more of each site plans keep than the root does, (n, S), as shares of its units."""
    kept = np.array([plan.kept for plan in plans]) - np.array(root.kept)
    return kept / np.array(root.space.units)


def _favourites(
    beliefs: Surrogate,
    plans: list[Plan],
    centre: Plan,
    root: Plan,
    step: float,
    rng: np.random.Generator,
) -> list[Plan]:
    """Plans by their expected gain, the best first: of those judged, and of others near the best.

    Expected gains shrink to zero where little is known, so the others need no bound of their own.
    """
    beliefs.fit()
    near = _options(centre, step / 2, "mixed", rng, {plan.kept for plan in plans})
    pool = [*plans[1:], *near]
    mean, _ = beliefs.believe(_changes(pool, root))
    return [pool[i] for i in np.argsort(-mean)]
