"""The pipeline's steps as functions from files to files; flows and the command line call them."""

from lop.steps.judging import (
    EVALUATION_MODULES,
    compare,
    diff,
    evaluate,
    evaluate_one,
    report,
)
from lop.steps.promoting import promote
from lop.steps.pruning import Cutter, prune_grid, prune_one
from lop.steps.searching import importance, prepare, profile, reward_of, search
from lop.steps.timing import plan_times
from lop.steps.training import train

__all__ = [
    "EVALUATION_MODULES",
    "Cutter",
    "compare",
    "diff",
    "evaluate",
    "evaluate_one",
    "importance",
    "plan_times",
    "prepare",
    "profile",
    "promote",
    "prune_grid",
    "prune_one",
    "report",
    "reward_of",
    "search",
    "train",
]
