"""Settings of the searchers, a model each."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from lop.settings.types import Count, Move, NotNegative, Section, Share


class Searching(Section):
    """The settings that all searchers have."""

    simulations: Count = Field(description="plans judged in each search")


class Surrogate(Searching):
    """A model of the reward, learned from plans that are each judged on a part of the samples."""

    searcher: Literal["surrogate"] = "surrogate"
    step: Share = Field(0.1, description="largest distance of a ratio from that of the best plan")
    move: Move = Field("mixed", description="change of a plan: `shake`, `transfer` or `mixed`")
    exploration: NotNegative = Field(
        1.0, description="standard deviations added to the expected reward of a plan"
    )


class Local(Searching):
    """Steps up and down around the current plan, one site at a time."""

    searcher: Literal["local"]
    step: Share = Field(0.1, description="share of a site's units that a step moves at the start")
    step_min: Annotated[float, Field(gt=0, le=1)] = Field(
        0.01, description="share of a site's units that a step moves at the end"
    )


class Mcts(Searching):
    """A search tree."""

    searcher: Literal["mcts"]
    children: Count = Field(4, description="children of a node")
    exploration: NotNegative = Field(
        0.1, description="UCB's constant, for rewards scaled to [0, 1]"
    )
    step: Share = Field(
        0.1, description="largest distance of a child's ratios from its parent's, at the root"
    )
    step_decay: Share = Field(0.9, description="factor on the step for each level of the tree")
    step_min: Share = Field(0.01, description="smallest step")
    move: Move = Field("shake", description="how a child is made: `shake`, `transfer` or `mixed`")
    value: Literal["mean", "max"] = Field(
        "mean", description="value of a node: the `mean` or `max` of the rewards below it"
    )


class Evolution(Searching):
    """A population of plans."""

    searcher: Literal["evolution"]
    population: Count = Field(16, description="plans that survive each generation")
    crossover: Share = Field(0.3, description="probability of a second parent")
    step: Annotated[float, Field(gt=0, le=1)] = Field(
        0.3, description="how far a child's ratios move at the start"
    )
    step_end: Annotated[float, Field(gt=0, le=1)] = Field(
        0.05, description="how far a child's ratios move at the end"
    )
    move: Move = Field("mixed", description="change of a plan: `shake`, `transfer` or `mixed`")


class Random(Searching):
    """Plans drawn at random."""

    searcher: Literal["random"]
    step: Share = Field(0.5, description="largest distance of a plan's ratios from the first plan")


class Uniform(Searching):
    """The uniform plan alone."""

    searcher: Literal["uniform"]


class Knapsack(Searching):
    """The plan solved from a profile, alone."""

    searcher: Literal["knapsack"]


def listed(values: Any) -> Any:
    """Searcher settings as a list; the default searcher is `surrogate`."""
    found = [values] if isinstance(values, dict) else values
    if not isinstance(found, list):
        return found
    return [{"searcher": "surrogate"} | each if isinstance(each, dict) else each for each in found]


Searcher = Annotated[
    Surrogate | Local | Mcts | Evolution | Random | Uniform | Knapsack,
    Field(discriminator="searcher"),
]
