"""The plan of units and bits that a cutter has for a size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lop.errors import LopError
from lop.joint import Choices
from lop.methods import plans_of
from lop.models.costs import amount
from lop.plan import Plan
from lop.predictor.sizes import SizePredictor

if TYPE_CHECKING:
    from lop.steps.pruning import Cutter


def within_size(cutter: Cutter, kind: str, target: str, method: str, compensate: bool) -> Plan:
    """The plan of units and bits within a size: the knapsack's, or for `lop` the predicted one.

    Raises LopError for another `kind` of target or method, and if the cutter has no profile or no
    size predictor for these bits.
    """
    if kind != "size" or plans_of(method) not in ("knapsack", "lop"):
        raise LopError("several bits: expected --size and method knapsack or lop, or one --bits")
    cutter.check_format(kind, target)
    if (profile := cutter.profile) is None:
        raise LopError("several bits: need a profile, measured at these bits")
    profile.check_fits(cutter.space)
    sizes = cutter.sizes(compensate)
    choices = Choices(profile, sizes, cutter.bits, cutter.space, cutter.others)
    if plans_of(method) == "knapsack":
        return choices.plan(choices.solve(amount(target)))
    if cutter.size_predictor_path is None:
        raise LopError(
            "several bits with method lop: need a predictor of units and bits, which "
            "`lop learn --bits` puts in a kit; or --method knapsack"
        )
    predictor = SizePredictor.from_pretrained(cutter.size_predictor_path)
    return predictor.plan(choices, amount(target))
