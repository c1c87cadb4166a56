"""What holds for every searcher, on a reward whose best plan is known."""

from types import SimpleNamespace

import numpy as np
import pytest

from lop.plan import Plan, budget, min_kept
from lop.search import SEARCHERS
from lop.search.base import MOVES, new_plan, transfer
from lop.search.drawn import Drawn, held_out

WIDTHS = (50, 40, 50, 30)


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


def run(name, seed=0, simulations=120, judge=reward, **settings):
    root = Plan.uniform(WIDTHS, 0.4)
    rng = np.random.default_rng(seed)
    if name == "surrogate" and judge is reward:
        judge = Drawn(Noisy(), range(5))
    return list(SEARCHERS[name](judge, root, simulations, rng, **settings))


@pytest.mark.parametrize("name", SEARCHERS)
def test_every_plan_meets_the_budget_and_seeds_repeat(name):
    found = run(name)
    assert found == run(name)
    assert all(sum(e.plan.kept) == budget(WIDTHS, 0.4) for e in found)
    assert all((np.array(e.plan.kept) >= min_kept(WIDTHS)).all() for e in found)
    assert all(e.reward == pytest.approx(reward(e.plan)) for e in found)


@pytest.mark.parametrize("name", ["mcts", "evolution", "random"])
def test_a_search_starts_at_its_root_and_hardly_meets_a_plan_twice(name):
    found = run(name)
    assert [e.simulation for e in found] == list(range(120))
    assert found[0].plan == Plan.uniform(WIDTHS, 0.4)
    # but where small steps have used up all plans around
    assert len({e.plan.kept for e in found}) >= 118


@pytest.mark.parametrize("name", ["mcts", "evolution", "local", "surrogate"])
def test_learning_from_rewards_beats_drawing_at_random(name):
    def best(name):
        return np.mean([max(e.reward for e in run(name, seed)) for seed in range(5)])

    assert best(name) > best("random") > run("uniform")[0].reward


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("value", ["mean", "max"])
def test_mcts_takes_every_move_and_value(move, value):
    found = run("mcts", move=move, value=value)
    assert max(e.reward for e in found) > found[0].reward + 0.2


def test_a_transfer_changes_two_layers_and_no_budget():
    plan, rng = Plan.uniform(WIDTHS, 0.4), np.random.default_rng(0)
    for _ in range(50):
        moved = np.subtract(transfer(plan, 0.3, rng, 0.1).kept, plan.kept)
        assert moved.sum() == 0
        assert (moved != 0).sum() == 2
        assert 1 <= moved.max() <= 15


def test_where_only_one_plan_is_left_it_is_given_again():
    plan, seen = Plan(WIDTHS, WIDTHS), set()
    assert [new_plan(lambda: plan, seen) for _ in range(2)] == [plan, plan]


def test_few_samples_a_plan_are_enough_for_the_surrogate():
    """What one plan's samples say is noise; what all of them say is not."""
    judge = Noisy(noise=1.0)
    found = run("surrogate", judge=Drawn(judge, range(5)), simulations=60)
    by_parts, whole = [[e for e in found if (e.share == 1) == w] for w in (False, True)]
    assert len(by_parts) == 5 * (60 - 1 - 4)
    assert reward(whole[1].plan) > reward(found[0].plan) + 0.3
    best_by_luck = max(by_parts, key=lambda e: e.reward)
    assert reward(whole[1].plan) > reward(best_by_luck.plan)


def test_local_search_asks_no_more_than_it_may():
    asked = []
    found = run("local", judge=lambda plan: asked.append(plan) or reward(plan), simulations=30)
    assert len(asked) <= 30 + 2 * len(WIDTHS)
    assert max(e.reward for e in found) > found[0].reward


def test_parts_are_held_out():
    assert held_out(10, 0.3) == (list(range(7)), [7, 8, 9])
    assert held_out(1, 0.3) == ([0], [])
    assert held_out(4, 0.0) == ([0, 1, 2, 3], [])
