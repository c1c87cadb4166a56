"""Monte-Carlo tree search over complete plans (LOP, appendix A.3, eq. 26-32).

A node is a plan that meets the budget; its children are small perturbations of it. Each simulation
selects a promising leaf, adds children to it, and evaluates one of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from lop.plan import Plan
from lop.search.base import MOVES, Evaluated, RewardOf, new_plan


@dataclass
class Node:
    """A plan in the tree, with statistics of the rewards at and below it."""

    plan: Plan
    depth: int = 0
    parent: Node | None = None
    children: list[Node] = field(default_factory=list)
    visits: int = 0
    total: float = 0.0
    best: float = -math.inf

    def path(self) -> Iterator[Node]:
        """This node and its ancestors, up to the root."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent


def mcts(
    reward: RewardOf,
    root: Plan,
    simulations: int,
    rng: np.random.Generator,
    children: int = 4,
    exploration: float = 0.1,
    step: float = 0.1,
    step_decay: float = 0.9,
    step_min: float = 0.01,
    move: str = "shake",
    value: str = "mean",
) -> Iterator[Evaluated]:
    """Evaluate `simulations` plans, the root first, and yield each as it is evaluated.

    Children of a node at depth t are its plan after a `move` (see `lop.search.base.MOVES`) of at
    most δ = max(step · step_decay^t, step_min). Selection follows UCB with rewards scaled to [0, 1]
    over the search so far, so that `exploration` does not depend on the reward's scale. The value
    of a node is the `mean` (as in the paper) or the `max` of the rewards at and below it. The
    defaults suit a good root, such as the knapsack's plan; from the uniform plan, `max` and a step
    of 0.3 find better plans.
    """
    top = Node(root)
    low, high = math.inf, -math.inf
    seen = {root.kept}

    def ucb(node: Node, parent_visits: int) -> float:
        if not node.visits:
            return math.inf
        worth = node.best if value == "max" else node.total / node.visits
        bonus = exploration * math.sqrt(math.log(parent_visits) / node.visits)
        return (worth - low) / ((high - low) or 1.0) + bonus

    for simulation in range(simulations):
        node = top
        while node.visits and node.children:
            visits = node.visits
            node = max(node.children, key=lambda child: ucb(child, visits))
        if node.visits:
            delta = max(step * step_decay**node.depth, step_min)
            parent = node.plan
            for _ in range(children):
                plan = new_plan(lambda: MOVES[move](parent, delta, rng), seen)  # noqa: B023
                node.children.append(Node(plan, node.depth + 1, node))
            node = node.children[0]
        gained = reward(node.plan)
        low, high = min(low, gained), max(high, gained)
        for ancestor in node.path():
            ancestor.visits += 1
            ancestor.total += gained
            ancestor.best = max(ancestor.best, gained)
        yield Evaluated(node.plan, gained, simulation, node.depth)
