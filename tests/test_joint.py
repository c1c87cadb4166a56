"""Plans of units and bits against brute force, and what they take on disk."""

from itertools import product

import numpy as np
import pytest
import torch
from tiny import build

from lop.errors import LopError
from lop.joint import Choices, at_bits, search, solve_size
from lop.models.sizes import Sizes
from lop.models.stored import Stored
from lop.models.weights import read_header
from lop.plan import WHOLE, Bits, Plan
from lop.profile import AtBits, Profile, measure, measure_bits
from lop.pruning import prune_checkpoint

GROUP, OTHERS = 16, ("embeddings", "head")
LOST = {4: 0.3, 8: 0.02, WHOLE: 0.0}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("dense")
    model, _ = build("Llama")
    model.to(torch.bfloat16).save_pretrained(path)
    return Stored(path)


def additive(plan):
    """Later sites lose less; quantizing loses more where more is kept."""
    worth = np.linspace(2, 1, len(plan.kept))
    bits = plan.bits or Bits((WHOLE,) * len(plan.kept))
    lost = sum(w * r * r for w, r in zip(worth, plan.ratios, strict=True))
    each = zip(worth, plan.ratios, bits.sites, strict=True)
    lost += sum(LOST[n] * w * (1 - r) for w, r, n in each)
    return -float(lost + sum(LOST[n] for _, n in bits.others))


def small(space, other):
    return Bits((WHOLE,) * len(space.units), (other,), GROUP)


def measured(space, reward=additive, others=OTHERS, shares=(0.25, 0.5, 0.75)):
    plain = measure(reward, space, shares)
    table = measure_bits(reward, space, (4, 8), GROUP, shares, others=others)
    return Profile(space, plain.table, "r", AtBits(table, others, GROUP))


@pytest.mark.parametrize("compensate", [False, True])
@pytest.mark.parametrize("scope", ["ffn", "ffn+attention"])
def test_sizes_are_what_is_written(source, scope, compensate, tmp_path):
    space = source.space(scope)
    sizes = Sizes(source, space, GROUP, compensate)
    rng = np.random.default_rng(0)
    for trial in range(6):
        kept = tuple(
            int(rng.integers(low, d + 1)) for low, d in zip(space.floors, space.units, strict=True)
        )
        sites = tuple(int(n) for n in rng.choice([4, 8, WHOLE], len(kept)))
        drawn = rng.choice([4, 8], len(sizes.others)).tolist()
        others = tuple(zip(sizes.others, drawn, strict=True))
        plan = Plan(space, kept, Bits(sites, others, GROUP) if trial else None)
        columns = [site.units * site.block for site in sizes.sites]
        means = [torch.rand(n) for n in columns] if compensate else None
        scores = [torch.rand(n) for n in space.units]
        prune_checkpoint(source, plan, scores, tmp_path / f"{trial}", means)
        written = read_header(tmp_path / f"{trial}" / "model.safetensors")
        assert sizes.of(plan) == sum(entry.size for entry in written)


@pytest.mark.parametrize("share", [1, 0.8, 0.6, 0.5, 0.45])
def test_it_finds_the_best_of_all_plans_of_an_additive_reward(source, share):
    space = source.space()
    sizes, profile = Sizes(source, space, GROUP), measured(space, shares=(1 / 3, 2 / 3))
    amount = share * sizes.of(space.dense)
    plan = solve_size(profile, sizes, amount, (4, 8, WHOLE))
    assert sizes.of(plan) <= amount
    fixed = sizes.fixed
    options = [
        [(sizes.site(i, k, n), float(profile.loss(i, np.array(k), n)))
         for k in (16, 32, 48) for n in (4, 8, WHOLE)]
        for i in range(len(space.units))
    ]  # fmt: skip
    for name in OTHERS:
        named = [(name, n) for n in (4, 8)]
        lost = [profile.predicted(Plan(space, space.units, small(space, one))) for one in named]
        options.append([(0, 0.0), *zip([-sizes.saved(*one) for one in named], lost, strict=True)])
    best = min(
        sum(loss for _, loss in chosen)
        for chosen in product(*options)
        if fixed + sum(cost for cost, _ in chosen) <= amount
    )
    assert profile.predicted(plan) <= best + 1e-3  # the steps that bytes are counted in


def test_what_is_left_of_the_budget_makes_nothing_better(source):
    space = source.space("ffn+attention")
    sizes, profile = Sizes(source, space, GROUP), measured(space)
    amount = 0.45 * sizes.of(space.dense)
    plan = solve_size(profile, sizes, amount, (4, 8, WHOLE))
    for site, kept in enumerate(plan.kept):
        step = GROUP if plan.bits.sites[site] < WHOLE and space.kinds[site] == "ffn" else 1
        if kept % step == 0 and kept + step <= space.units[site]:
            more = (*plan.kept[:site], kept + step, *plan.kept[site + 1 :])
            assert sizes.of(Plan(space, more, plan.bits)) > amount


def test_without_bits_it_prunes_only(source):
    space = source.space()
    sizes, profile = Sizes(source, space, GROUP), measured(space)
    plan = solve_size(profile, sizes, 0.8 * sizes.of(space.dense), (WHOLE,))
    assert plan.bits is None
    assert plan.kept != space.units
    with pytest.raises(LopError, match="size of 1,000 cannot be met: this model reaches"):
        solve_size(profile, sizes, 1000, (4, 8, WHOLE))


def test_a_profile_with_bits_survives_its_file(source, tmp_path):
    space = source.space()
    profile, sizes = measured(space), Sizes(source, space, GROUP)
    profile.save(tmp_path / "profile.parquet")
    loaded = Profile.load(tmp_path / "profile.parquet")
    amount = 0.5 * sizes.of(space.dense)
    plans = [solve_size(each, sizes, amount, (4, 8, WHOLE)) for each in (profile, loaded)]
    assert plans[0] == plans[1]
    assert len(loaded.table) == len(profile.table)
    plain = Profile(space, profile.table)
    with pytest.raises(LopError, match="the profile was not measured at 4 bits"):
        solve_size(plain, sizes, amount, (4, 8))
    with pytest.raises(LopError, match="measured in groups of 16, not of 32"):
        solve_size(profile, Sizes(source, space, 32), amount, (4, 8))
    profile.at_bits.table.drop(0, inplace=True)
    profile.save(tmp_path / "broken.parquet")
    one = profile.at_bits.table.query("bits != 4 or site != 1")
    Profile(space, profile.table, "r", AtBits(one, OTHERS, GROUP)).save(tmp_path / "broken.parquet")
    with pytest.raises(LopError, match="column 'bits': expected the same for each of 5"):
        Profile.load(tmp_path / "broken.parquet")


def test_a_uniform_plan_keeps_whole_groups_at_one_number_of_bits(source):
    plan = at_bits(Plan(source.space(), (48, 40, 5)), 4, OTHERS, GROUP)
    assert plan.kept == (48, 32, 5)
    assert plan.bits == Bits((4, 4, 4), (("embeddings", 4), ("head", 4)), GROUP)


def test_a_search_finds_what_losses_of_single_sites_do_not_tell(source):
    """Two sites that lose much if both have few bits, and nothing if one has."""
    space = source.space()

    def reward(plan):
        bits = plan.bits.sites if plan.bits else (WHOLE,) * 3
        return additive(plan) - (2.0 if max(bits[1:]) < 8 else 0.0)

    choices = Choices(measured(space), Sizes(source, space, GROUP), (4, 8, WHOLE))
    amount = 0.5 * choices.sizes.of(space.dense)
    found = list(search(reward, choices, amount, 60, np.random.default_rng(0)))
    rewards = [value for _, value in found]
    assert rewards == sorted(rewards)
    assert all(choices.sizes.of(plan) <= amount for plan, _ in found)
    starts = {choices.plan(of).bits.others for of in choices.starts(amount)}
    assert {plan.bits.others for plan, _ in found} <= starts
    assert rewards[-1] > rewards[0]


def test_a_search_starts_from_fewer_bits_where_they_are_better(source):
    """Sites of different bits lose much together, which no measurement of one site tells."""
    space = source.space()

    def reward(plan):
        bits = plan.bits.sites if plan.bits else (WHOLE,)
        return additive(plan) - 2.0 * (len(set(bits)) - 1)

    choices = Choices(measured(space), Sizes(source, space, GROUP), (4, 8, WHOLE))
    amount = 0.55 * choices.sizes.of(space.dense)
    first, *better = search(reward, choices, amount, 6, np.random.default_rng(0))
    assert len(set(first[0].bits.sites)) > 1
    assert len(set(better[-1][0].bits.sites)) == 1
    assert better[-1][1] == max(reward(choices.plan(of)) for of in choices.starts(amount))
    assert choices.sizes.of(better[-1][0]) <= amount
