"""What holds for every searcher, on a reward whose best plan is known."""

import numpy as np
import pytest
from toy import JOINT, SPACE, Noisy, reward

from lop.plan import Plan
from lop.search import SEARCHERS
from lop.search.base import MOVES, new_plan, transfer
from lop.search.drawn import Drawn, held_out


def run(name, seed=0, simulations=120, judge=reward, space=SPACE, **settings):
    root = Plan.uniform(space, 0.4)
    rng = np.random.default_rng(seed)
    if name == "surrogate" and judge is reward:
        judge = Drawn(Noisy(), range(5))
    return list(SEARCHERS[name](judge, root, simulations, rng, **settings))


@pytest.mark.parametrize("space", [SPACE, JOINT], ids=["ffn", "ffn+attention"])
@pytest.mark.parametrize("name", SEARCHERS)
def test_every_plan_meets_the_budget_and_seeds_repeat(name, space):
    found = run(name, simulations=40, space=space)
    assert found == run(name, simulations=40, space=space)
    assert all(e.plan.parameters == space.budget(0.4) for e in found)
    assert all((np.array(e.plan.kept) >= np.array(space.floors)).all() for e in found)
    assert all(e.reward == pytest.approx(reward(e.plan)) for e in found)


@pytest.mark.parametrize("name", ["mcts", "evolution", "random"])
def test_a_search_starts_at_its_root_and_hardly_meets_a_plan_twice(name):
    found = run(name)
    assert [e.simulation for e in found] == list(range(120))
    assert found[0].plan == Plan.uniform(SPACE, 0.4)
    # but where small steps have used up all plans around
    assert len({e.plan.kept for e in found}) >= 118


@pytest.mark.parametrize("name", ["mcts", "evolution", "local", "surrogate"])
def test_learning_from_rewards_beats_drawing_at_random(name):
    def best(name):
        most = 30 if name == "surrogate" else 120  # its model takes the cube of them
        return np.mean([max(e.reward for e in run(name, seed, most)) for seed in range(5)])

    assert best(name) > best("random") > run("uniform")[0].reward


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("value", ["mean", "max"])
def test_mcts_takes_every_move_and_value(move, value):
    found = run("mcts", move=move, value=value)
    assert max(e.reward for e in found) > found[0].reward + 0.2


def test_a_transfer_changes_two_layers_and_no_budget():
    plan, rng = Plan.uniform(SPACE, 0.4), np.random.default_rng(0)
    for _ in range(50):
        moved = np.subtract(transfer(plan, 0.3, rng).kept, plan.kept)
        assert moved.sum() == 0
        assert (moved != 0).sum() == 2
        assert 1 <= moved.max() <= 15


def test_where_only_one_plan_is_left_it_is_given_again():
    plan, seen = SPACE.dense, set()
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
    assert len(asked) <= 30 + 2 * len(SPACE.units)
    assert max(e.reward for e in found) > found[0].reward


def test_parts_are_held_out():
    assert held_out(10, 0.3) == (list(range(7)), [7, 8, 9])
    assert held_out(1, 0.3) == ([0], [])
    assert held_out(4, 0.0) == ([0, 1, 2, 3], [])
