"""Times of sites add up to that of a plan; what is solved with them keeps within a target."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM

from lop.errors import LopError
from lop.evaluation.latency import COLUMNS, REST, LatencyProfile, Machine, Request, answer, measure
from lop.evaluation.timing import in_turn
from lop.models.costs import smallest_ratio
from lop.models.space import find_sites
from lop.plan import Plan, Space
from lop.profile import Profile, solve_within

SPACE = Space.of((4, 40, 4, 40), (12, 1, 12, 1), ("attention", "ffn") * 2, (0, 0, 1, 1))
HERE = Machine("cpu", "a processor", "float32", 1)


@pytest.fixture
def timed():
    """A profile in which a head takes 1 + 2 ms, a neuron 0.1 + 0.1, and the rest 10 + 5."""
    rows = [(REST, 0, 10.0, 5.0)]
    for site, (units, kind) in enumerate(zip(SPACE.units, SPACE.kinds, strict=True)):
        each = (1.0, 2.0) if kind == "attention" else (0.1, 0.1)
        rows += [(site, k, k * each[0], k * each[1]) for k in (units // 4, units)]
    return LatencyProfile(SPACE, Request(), HERE, pd.DataFrame(rows, columns=list(COLUMNS)))


def smallest(timed, target):
    at = partial(Plan.uniform, SPACE)
    return smallest_ratio("latency", SPACE, timed.of, timed.amount(target), at)


def test_times_add_up_and_a_skipped_site_takes_none(timed):
    assert timed.parts(SPACE.dense) == pytest.approx((10 + 8 + 8, 5 + 16 + 8))
    plan = Plan(SPACE, (2, 20, 0, 40))
    assert timed.of(plan) == pytest.approx(15 + 6 + 4 + 0 + 8)
    ffns = Space.of((40, 40), (1, 1), ("ffn", "ffn"), (0, 1))
    assert timed.of(Plan(ffns, (20, 40))) == pytest.approx(15 + 24 + 4 + 8)
    assert timed.rest(ffns) == pytest.approx(15 + 24)
    assert timed.rest(SPACE) == pytest.approx(15)


@pytest.mark.parametrize(
    ("target", "ms"), [("0.5x", 27.5), ("30ms", 30), ("0.03s", 30), (" 30 ms", 30)]
)
def test_a_target_is_met_by_the_least_that_is_pruned(timed, target, ms):
    assert timed.amount(target) == pytest.approx(ms)
    ratio = smallest(timed, target)
    assert timed.of(Plan.uniform(SPACE, ratio)) <= ms
    neuron = SPACE.grain / SPACE.total
    assert timed.of(Plan.uniform(SPACE, ratio - neuron)) > ms


@pytest.mark.parametrize("target", ["fast", "30", "x", "-3ms", "0.5 y"])
def test_a_target_that_is_none_is_refused(timed, target):
    with pytest.raises(LopError, match="expected a value such as 0.7x, 120ms or 1.2s"):
        timed.amount(target)
    with pytest.raises(LopError, match="cannot be met: this model reaches"):
        smallest(timed, "2ms")


def test_the_knapsack_keeps_most_reward_within_a_time(timed):
    # a neuron of the second layer is worth ten of the first, and heads next to nothing
    worth = {0: 0.01, 1: 0.1, 2: 0.01, 3: 1.0}
    rows = [(i, k, k * worth[i]) for i, n in enumerate(SPACE.units) for k in (n // 10, n)]
    measured = Profile(SPACE, pd.DataFrame(rows, columns=["site", "kept", "reward"]))
    cost = lambda site, kept: timed.cost(SPACE, site, kept)  # noqa: E731
    plan = solve_within(measured, cost, 14.0)
    spent = sum(float(cost(i, np.array([k]))[0]) for i, k in enumerate(plan.kept))
    assert 13.6 < spent <= 14.0 + 1e-9
    assert plan.kept[0] == plan.kept[2] == 1, "heads take three milliseconds each"
    assert plan.kept[3] > plan.kept[1] - 1
    assert plan.kept[3] >= 29, "what is below the sizes that were timed costs as much as those"
    with pytest.raises(LopError, match="cannot be met"):
        solve_within(measured, cost, 1.0)


def test_a_profile_survives_its_file_and_is_of_one_machine_and_model(timed, tmp_path):
    path = tmp_path / "latency.parquet"
    timed.save(path)
    loaded = LatencyProfile.load(path)
    assert loaded.of(SPACE.dense) == timed.of(SPACE.dense)
    assert (loaded.request, loaded.machine) == (timed.request, timed.machine)
    loaded.check_fits(SPACE, HERE)
    for other in (replace(HERE, threads=2), replace(HERE, dtype="bfloat16")):
        with pytest.raises(LopError, match="run lop latency here, or set --elsewhere"):
            loaded.check_fits(SPACE, other)
    with pytest.raises(LopError, match="latency profile of a model with units"):
        loaded.check_fits(Space.ffns((40, 41)), None)
    loaded.table.drop(columns="kept").to_parquet(path)
    with pytest.raises(LopError, match="latency.parquet: cannot read a latency profile"):
        LatencyProfile.load(path)


def test_every_site_is_timed_and_the_model_is_as_before(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = [site.tensor(site.slices[-1].tensor).data_ptr() for site in find_sites(model)]
    request = Request(prompt=12, batch=2, generated=4)
    found = measure(model, request, shares=(1.0, 0.5), repeats=2)
    assert (found.space.scope, found.machine.dtype) == ("ffn+attention", "float32")
    assert set(found.table["site"]) == {REST, *range(len(found.space.units))}
    assert found.table.drop(columns=["site", "kept"]).ge(0).all(axis=None)
    prompt, after = found.parts(found.space.dense)
    whole = sorted(answer(model, request).sum() for _ in range(5))[2] * 1e3
    assert 0.3 * whole < prompt + after < 3 * whole
    assert all(torch.equal(of, before[name]) for name, of in model.state_dict().items())
    now = [site.tensor(site.slices[-1].tensor).data_ptr() for site in find_sites(model)]
    assert now == tensors


def test_two_things_are_timed_in_turn():
    order = []

    def work(name, seconds):
        order.append(name)
        return np.array([seconds, 3 * seconds])

    one, two = in_turn(lambda: work("a", 0.02), lambda: work("b", 0.005), pairs=4)
    assert order == ["a", "b"] * 5
    assert (one.first, two.second, one.pairs) == (0.02, 3 * 0.005, 4)
    assert one.low == one.ratio == one.high == pytest.approx(4)
    assert str(one) == "4.00 (4.00 to 4.00)"
    times = iter([1, 1, 1, 2, 2, 1, 1, 1.5, 1.5, 1.0])
    (found,) = in_turn(lambda: np.array([1.0]), lambda: np.array([next(times)]), pairs=9)
    assert found.is_noise
    assert str(found).endswith(", noise)")


def test_an_ffn_that_is_its_layer_is_timed_without_the_attention():
    shape = {"hidden_size": 64, "word_embed_proj_dim": 64, "ffn_dim": 64, "vocab_size": 100}
    more = {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
    model = OPTForCausalLM(OPTConfig(**shape, **more)).eval()
    found = measure(model, Request(8, 1, 2), shares=(1.0,), repeats=3)
    whole = sorted(answer(model, Request(8, 1, 2))[0] for _ in range(5))[2] * 1e3
    assert found.parts(found.space.dense)[0] < 3 * whole
    rows = found.table[found.table["site"] != REST]
    kinds = [found.space.kinds[int(site)] for site in rows["site"]]
    times = rows.assign(kind=kinds).groupby("kind")["prefill_ms"].sum()
    assert times["ffn"] < times["attention"] * 2, "attention is not in it"
