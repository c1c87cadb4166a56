"""The step from a plan to a smaller checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import Tensor

from lop.errors import LopError
from lop.evaluation.latency import LatencyProfile
from lop.files import check_dir
from lop.importance import load_all_scores, made_for
from lop.joint import at_bits
from lop.kit import Kit
from lop.methods import TRAINED, Method, PlanInputs, Scores, method, plans_of
from lop.models.costs import COSTS, PlanAt, amount, next_ratio, smallest_ratio
from lop.models.cutting import CutFile
from lop.models.quantized import others_of
from lop.models.sizes import Sizes
from lop.models.stored import Stored
from lop.plan import WHOLE, Plan, Space
from lop.predictor import Predictor
from lop.profile import Profile, solve_within
from lop.pruning import PRUNED, checkpoint_files, prune_checkpoint
from lop.recovery.files import check_recovered
from lop.reward.choice import AUTO, Candidate, chosen
from lop.steps.bits import within_size

Cut = Callable[..., Plan]  # arguments: method name, ratio, directory, and optionally a plan
FORMATS = ("per_layer", "padded")


def prune_one(out: Path, name: str, ratio: float, cutter: Cutter, plan: Plan | None = None) -> Plan:
    """Write the checkpoint of method `name` at `ratio`; `plan` replaces the method's own plan."""
    check_dir(out, PRUNED, cutter.inputs)
    return cutter.ready([name])(name, ratio, out, plan)


@dataclass(frozen=True)
class Cutter:
    """All files and settings for cutting checkpoints out of one model.

    Files are read only if a method needs them: lop needs a predictor, knapsack a profile.
    """

    model_path: str
    scores_dir: Path
    score: str
    compensate: bool | str = False
    predictor_path: str | Path | None = None  # a directory, or models:/NAME@ALIAS of the registry
    profile_path: Path | None = None
    size_predictor_path: Path | None = None  # the predictor of units and bits
    format: str = "per_layer"  # or padded; see `lop.models.cutting.cut`
    widest: float | None = None  # the largest share of its neurons that an FFN may keep
    latency_path: Path | None = None  # the latency profile, for targets in latency
    elsewhere: bool = False  # the latency profile is for another machine, which will run the model
    recovered_path: Path | None = None  # output of `lop recover`, for methods that cut it
    sibling: bool = False  # only warn if predictor and scores are for a model with other weights
    mapped: bool = False  # `source` has its weights memory-mapped, not on the meta device
    bits: Sequence[int] = ()  # one for all weights, or several from which `meeting` a size chooses
    group: int = 32  # quantized weights that share a scale
    others: Sequence[str] = ()  # quantized besides the sites, if the model has them

    @classmethod
    def of_kit(
        cls,
        model_path: str,
        kit: Kit,
        score: str = AUTO,
        compensate: bool | str = AUTO,
        **given: Any,
    ) -> Cutter:
        """The Cutter of a model and a kit; fields in `given` replace the kit's.

        Score and compensation are the kit's unless one of them is given.
        """
        by = kit.by if score == compensate == AUTO else (score, compensate)
        own: dict[str, Any] = {
            "predictor_path": kit.predictor_path,
            "profile_path": kit.profile_path,
            "size_predictor_path": kit.size_predictor_path,
            "latency_path": kit.latency_path,
        }
        own |= {name: value for name, value in given.items() if value is not None}
        return cls(model_path, kit.scores_dir, *by, **own)

    @property
    def inputs(self) -> tuple[str | Path | None, ...]:
        """All input paths: no output may replace them."""
        given = (self.predictor_path, self.size_predictor_path, self.profile_path)
        return self.model_path, self.scores_dir, *given, self.latency_path, self.recovered_path

    @cached_property
    def source(self) -> Stored:
        """The model's checkpoint, opened once."""
        return Stored(self.model_path, self.mapped)

    @cached_property
    def recovered(self) -> Stored:
        """The recovered weights; LopError if they were recovered from another model."""
        if self.recovered_path is None:
            names = ", ".join(sorted(TRAINED))
            raise LopError(f"{names}: need recovered weights, which `lop recover` makes")
        check_recovered(self.recovered_path, self.source.fingerprint)
        return Stored(self.recovered_path)

    @cached_property
    def space(self) -> Space:
        """The space recorded in the scores, bounded by `widest`."""
        space, _ = made_for(self.scores_dir)
        return space if self.widest is None else space.bounded(self.widest)

    @cached_property
    def scores(self) -> Scores:
        """Every score; LopError if they are for another model."""
        found = load_all_scores(self.scores_dir, self.source.fingerprint, self.sibling)
        if not self.space.fits(own := self.source.space(self.space.scope)):
            raise LopError(
                f"{self.scores_dir}: scores of units {list(self.space.units)}, the model has "
                f"{list(own.units)}"
            )
        return found

    @cached_property
    def scored(self) -> Candidate:
        """Score and compensation of lop's own methods, with `auto` resolved."""
        return chosen(self.scores_dir, self.score, self.compensate)

    def meeting(self, kind: str, target: str, name: str = "lop") -> tuple[float, Plan]:
        """The smallest ratio at which method `name` meets a target, and its plan there.

        `kind` is one of `lop.models.costs.COSTS`, with a target such as 9GB, or `latency`, with a
        target such as 0.7x or 120ms, which needs a latency profile. For a latency, or a size with
        several `bits`, the knapsack gives the plan of least loss within the target, whatever its
        number of parameters. Raises LopError if the target is out of reach.
        """
        rule = self._rule(name)
        if len(self.bits) > 1:
            plan = within_size(self, kind, target, name, rule.compensate)
            return plan.ratio, plan
        if kind == "latency" and plans_of(name) == "knapsack":
            return self._fastest(target)
        predictor, at = self.plan_inputs([name]).predictor, self.planner(name)
        ratio = self.ratio_at(kind, target, at, rule.compensate, predictor)
        return ratio, at(ratio)

    def ratio_at(
        self, kind: str, target: str, at: PlanAt, compensate: bool, predictor: Predictor | None
    ) -> float:
        """The smallest ratio whose plan, `at(ratio)`, meets a target of `meeting`.

        It is in the range of `predictor`, if that makes the plans.
        """
        what, cost, aim = self._cost(kind, target, compensate)
        between = (predictor.config.min_ratio, predictor.config.max_ratio) if predictor else (0, 1)
        return smallest_ratio(what, self.space, cost, aim, at, between)

    def ratios(self, wanted: Sequence[float | str], methods: Sequence[str]) -> list[float]:
        """Ratios, with each target such as `size 9GB` replaced by a ratio.

        All methods meet the target at this ratio. It is the smallest such ratio at or above the
        largest of the methods' own ratios: costs do not always fall with the ratio. Raises LopError
        if there is none.
        """
        found = []
        for each in wanted:
            if isinstance(each, str):
                kind, _, target = each.partition(" ")
                each = self._common(kind, target, methods)
            found.append(each)
        return found

    def _common(self, kind: str, target: str, methods: Sequence[str]) -> float:
        """A ratio at which all methods meet a target."""
        start, end, rules = 0.0, 1.0, []
        for name in methods:
            at, compensate = self.planner(name), self._rule(name).compensate
            predictor = self.plan_inputs([name]).predictor
            start = max(start, self.ratio_at(kind, target, at, compensate, predictor))
            end = min(end, predictor.config.max_ratio) if predictor else end
            _, cost, aim = self._cost(kind, target, compensate)
            rules.append((at, cost, aim))

        def meets(ratio: float) -> bool:
            return all(cost(at(ratio)) <= aim for at, cost, aim in rules)

        found = next_ratio(self.space, meets, (start, end))
        if found is None:
            raise LopError(
                f"{kind} {target}: no ratio of at least {start:.4f} at which all of "
                f"{', '.join(methods)} meet it"
            )
        return found

    def _cost(
        self, kind: str, target: str, compensate: bool
    ) -> tuple[str, Callable[[Plan], float], float]:
        """A target's cost: its name, the function of a plan that counts it, and the amount."""
        self.check_format(kind, target)
        if kind == "latency":
            return "latency in ms", self.latency.of, self.latency.amount(target)
        if kind == "size" and self.bits:
            return "size", self.sizes(compensate).of, amount(target)
        cost = COSTS[kind](self.source, self.space, compensate)
        return cost.name, cost.of, amount(target)

    def check_format(self, kind: str, target: str) -> None:
        """Raise LopError if padding would undo a target."""
        if self.format == "padded":
            raise LopError(f"{kind} {target}: padding would exceed such a target; give a ratio")

    def _fastest(self, target: str) -> tuple[float, Plan]:
        """The knapsack's ratio and plan within a latency."""
        self.check_format("latency", target)
        profile, found = self.profile, self.latency
        assert profile  # else there is no such method
        profile.check_fits(self.space)
        rest = found.rest(self.space)
        try:
            cost = partial(found.cost, self.space)
            plan = solve_within(profile, cost, found.amount(target) - rest, self.space)
        except LopError as error:
            least = found.of(Plan(self.space, self.space.floors))
            raise LopError(
                f"latency of {target} cannot be met: this model reaches {least:.1f} ms"
            ) from error
        return plan.ratio, plan

    def sizes(self, compensate: bool) -> Sizes:
        """Counts the bytes of plans with bits."""
        return Sizes(self.source, self.space, self.group, compensate)

    def _quantized(self, plan: Plan) -> Plan:
        """The plan at the single number in `bits`, if there is one."""
        if len(self.bits) > 1:
            raise LopError("several bits: expected a --size to choose from them, or one --bits")
        if not self.bits or self.bits[0] == WHOLE:
            return plan
        known = others_of(self.source.model, self.source.sites(self.space.scope))
        return at_bits(plan, self.bits[0], [n for n in self.others if n in known], self.group)

    @cached_property
    def latency(self) -> LatencyProfile:
        """The latency profile; LopError if it is for another model or another machine."""
        if self.latency_path is None:
            raise LopError("a target in latency needs a latency profile, which `lop latency` makes")
        found = LatencyProfile.load(self.latency_path)
        here = None if self.elsewhere else found.machine.here()
        found.check_fits(self.space, here)
        return found

    def planner(self, name: str, space: Space | None = None) -> PlanAt:
        """A function from a ratio to a method's plan; `space` may have tighter bounds."""
        rule, within = self._rule(name), space or self.space
        return lambda ratio: self._quantized(rule.plan(ratio, within, self.scores))

    def _rule(self, name: str) -> Method:
        """The method called `name`, with its inputs."""
        return method(name, self.plan_inputs([name]))

    def cut_as(self, name: str) -> dict[str, Any]:
        """Score, compensation, format and weights with which a method's plans are cut."""
        rule = self._rule(name)
        how = {"score": rule.score, "compensate": rule.compensate, "format": self.format}
        return how | {"of": "recovered" if rule.recovered else "dense"}

    @cached_property
    def predictor(self) -> Predictor | None:
        """The predictor, read once; LopError if it is for another model."""
        if self.predictor_path is None:
            return None
        found = Predictor.from_pretrained(on_disk(self.predictor_path))
        found.check_fits(self.space, self.source.fingerprint, self.sibling)
        return found

    @cached_property
    def profile(self) -> Profile | None:
        """The profile, read once."""
        return Profile.load(self.profile_path) if self.profile_path else None

    def plan_inputs(self, methods: Sequence[str]) -> PlanInputs:
        """The inputs of these methods' plans; LopError if one cannot be read."""
        plans = [plans_of(name) for name in methods]
        predictor = self.predictor if "lop" in plans else None
        profile = self.profile if "knapsack" in plans else None
        return PlanInputs(*self.scored, predictor, profile)

    def _cut_from(self, rule: Method) -> tuple[Stored, Sequence[Tensor], Sequence[Tensor] | None]:
        """The weights that a method cuts, its scores, and mean activations if it compensates."""
        scores, source = self.scores, self.recovered if rule.recovered else self.source
        return source, scores[rule.score], scores["mean_activation"] if rule.compensate else None

    def files(self, name: str, ratio: float) -> list[CutFile]:
        """The files of method `name`'s checkpoint at `ratio`; their bytes are made when read."""
        rule, plan = self._rule(name), self.planner(name)(ratio)
        source, ranking, means = self._cut_from(rule)
        by = {"method": name, "ratio": ratio, "score": rule.score}
        return checkpoint_files(source, plan, ranking, means, self.format == "padded", **by)

    def ready(self, methods: Sequence[str]) -> Cut:
        """Read and check all inputs of these methods; returns the function that cuts.

        Raises LopError if an input is missing, broken, or made for another model.
        """
        if self.format not in FORMATS:
            raise LopError(f"format {self.format!r}: expected {' or '.join(FORMATS)}")
        inputs = self.plan_inputs(methods)
        chosen: Mapping[str, Method] = {name: method(name, inputs) for name in methods}
        assert self.scores  # raises LopError for bad scores before the first cut
        if any(rule.recovered for rule in chosen.values()):
            assert self.recovered  # likewise

        def cut(name: str, ratio: float, out: Path, plan: Plan | None = None) -> Plan:
            rule = chosen[name]
            plan = plan or self.planner(name)(ratio)
            source, ranking, means = self._cut_from(rule)
            which = (ranking, out, means, self.format == "padded")
            prune_checkpoint(source, plan, *which, name, ratio, rule.score)
            return plan

        return cut


def cutter_of(
    model_path: str,
    kit: str | Path | Kit | None,
    scores_dir: Path | None,
    score: str,
    compensate: bool | str,
    **given: Any,
) -> Cutter:
    """The Cutter of a model with a kit (see `kit_at`) or with scores; `given` has other fields."""
    if kit is not None:
        found = kit if isinstance(kit, Kit) else kit_at(kit)
        return Cutter.of_kit(model_path, found, score, compensate, **given)
    if scores_dir is None:
        raise LopError("expected a kit, or scores")
    return Cutter(model_path, scores_dir, score, compensate, **given)


def on_disk(predictor: str | Path) -> Path:
    """The directory of a predictor, which may be in the registry: models:/NAME@ALIAS."""
    if not str(predictor).startswith("models:/"):
        return Path(predictor)
    from lop.tracking import predictor_path  # imports MLflow, only for the registry

    return predictor_path(predictor)


def kit_at(place: str | Path) -> Kit:
    """The kit in a directory or in the registry: models:/NAME@ALIAS."""
    if not str(place).startswith("models:/"):
        return Kit.load(place)
    from lop.tracking import kit_path  # imports MLflow, only for the registry

    return Kit.load(kit_path(place))
