"""What every searcher yields; a searcher is a function that evaluates plans one after another."""

from dataclasses import dataclass

from lop.plan import Plan


@dataclass(frozen=True)
class Evaluated:
    """A plan and its reward, and where in the search it was met."""

    plan: Plan
    reward: float
    simulation: int
    depth: int
