"""Search with a model of the reward: many plans, each evaluated on few samples.

The gain of a plan over the root is modelled as a function of each layer's change and of pairs of
changes, by a Gaussian process with that kernel. It is fitted to plans that are each evaluated on
another part of the samples, as the difference from the root on the same samples. So no plan is
fitted to one set of samples, and the choice of the best plan uses all evaluations. (Rasmussen and
Williams, Gaussian Processes for Machine Learning, ch. 2 and 5.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from lop.plan import Plan
from lop.search.base import MOVES, Evaluated
from lop.search.drawn import Drawn

CANDIDATES = 400  # candidates for the next plan
FAVOURITES = 4  # plans that are evaluated on all samples at the end


@dataclass
class Surrogate:
    """A Gaussian process for the gain of a change `x` (L,) of the root's layer-wise ratios.

    Its data are changes `x` (n, L), their gains (n,) and the variances of the gains (n,).
    """

    x: list[np.ndarray] = field(default_factory=list)
    gains: list[float] = field(default_factory=list)
    variances: list[float] = field(default_factory=list)
    scales: tuple[float, float] = (1.0, 1.0)  # of single and of paired changes; see `fit`

    def add(self, x: np.ndarray, gain: float, error: float) -> None:
        """Add a gain with its standard error."""
        self.x.append(x)
        self.gains.append(gain)
        self.variances.append(error**2)

    def fit(self) -> None:
        """Choose the scales by type-II maximum likelihood."""
        x, y = np.stack(self.x), np.array(self.gains)
        size, spread = np.square(x).sum(1).mean(), np.square(y).mean()
        if not size or not spread:
            return
        grid = [spread * f for f in (0, 0.01, 0.1, 1.0)]
        options = [(a / size, b / size**2) for a, b in product(grid, grid) if a or b]
        self.scales = max(options, key=lambda scales: self._evidence(x, y, scales))

    def posterior(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Posterior mean and standard deviation, each (m,), of the gains of changes x (m, L)."""
        seen = np.stack(self.x)
        across = self._kernel(x @ seen.T, self.scales)
        solved = np.linalg.solve(self._covariance(seen, self.scales), across.T)  # (n, m)
        mean = solved.T @ np.array(self.gains)
        prior = self._kernel(np.square(x).sum(1), self.scales)
        return mean, np.sqrt(np.maximum(prior - (across * solved.T).sum(1), 0))

    @staticmethod
    def _kernel(inner: np.ndarray, scales: tuple[float, float]) -> np.ndarray:
        """Covariance from inner products: a linear term for single layers, a quadratic one for
        pairs."""
        return scales[0] * inner + scales[1] * inner**2

    def _covariance(self, x: np.ndarray, scales: tuple[float, float]) -> np.ndarray:
        kernel, noise = self._kernel(x @ x.T, scales), np.nan_to_num(self.variances)
        # an error estimated from few samples is itself uncertain, so small ones are raised
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
    """Evaluate each plan on one part of the samples, and the favourites on all parts at the end.

    A simulation is the cost of one evaluation on all of the search's samples. The next plan has the
    highest upper confidence bound (mean gain plus `exploration` standard deviations) among changes
    of at most `step` per layer around the plan with the highest mean gain so far. At the end, the
    `FAVOURITES` best plans are evaluated on all samples.
    """
    base = reward(root)
    yield Evaluated(root, base, 0, 0)
    process, plans, seen = Surrogate(), [root], {root.kept}
    centre, depth = root, 0
    parts = len(reward.parts)
    favourites = min(FAVOURITES, (simulations - 1) // 2)
    for trial in range(parts * (simulations - 1 - favourites)):
        options = _options(centre, step, move, rng, seen)
        chosen = options[0]
        if trial > len(root.kept):  # before that there are too few evaluations
            if trial % parts == 0:
                process.fit()
            mean, spread = process.posterior(_changes(options, root))
            chosen = options[int(np.argmax(mean + exploration * spread))]
        seen.add(chosen.kept)
        gain, error = reward.gap(chosen, root, [reward.parts[trial % parts]])
        process.add(_changes([chosen], root)[0], gain, error)
        plans.append(chosen)
        yield Evaluated(chosen, base + gain, 1 + trial // parts, depth + 1, 1 / parts)
        if trial % parts == parts - 1:
            best = plans[int(np.argmax(process.posterior(_changes(plans, root))[0]))]
            if best.kept != centre.kept:
                centre, depth = best, depth + 1
    if len(plans) > 1:
        best_first = _favourites(process, plans, centre, root, step, rng)
        for number, plan in enumerate(best_first[:favourites], simulations - favourites):
            yield Evaluated(plan, base + reward.gap(plan, root)[0], number, depth + 1)


def _options(
    centre: Plan,
    step: float,
    move: str,
    rng: np.random.Generator,
    seen: set[tuple[int, ...]],
) -> list[Plan]:
    """Plans near the centre that are not evaluated yet, if there are any."""
    drawn = [MOVES[move](centre, rng.uniform(0, step), rng) for _ in range(CANDIDATES)]
    return [plan for plan in drawn if plan.kept not in seen] or drawn


def _changes(plans: list[Plan], root: Plan) -> np.ndarray:
    """Units kept by plans minus units kept by the root, (n, S), as shares of each site's units."""
    kept = np.array([plan.kept for plan in plans]) - np.array(root.kept)
    return kept / np.array(root.space.units)


def _favourites(
    process: Surrogate,
    plans: list[Plan],
    centre: Plan,
    root: Plan,
    step: float,
    rng: np.random.Generator,
) -> list[Plan]:
    """Evaluated plans, and others near the best one, by decreasing mean gain.

    Far from the evaluated plans the mean gain goes to zero, so the others need no bound.
    """
    process.fit()
    near = _options(centre, step / 2, "mixed", rng, {plan.kept for plan in plans})
    pool = [*plans[1:], *near]
    mean, _ = process.posterior(_changes(pool, root))
    return [pool[i] for i in np.argsort(-mean)]
