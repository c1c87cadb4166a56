import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest

from lop.data.samples import write_samples
from lop.errors import LopError
from lop.plan import Plan, Space
from lop.reward import Reward
from lop.search import (
    best_plan,
    check_fits,
    curve,
    list_searches,
    read_search,
    run_shard,
    search,
    write_index,
)
from lop.search.mcts import mcts
from lop.search.shards import COLUMNS
from lop.steps import scoring, searching

SPACE = Space.ffns((50, 50, 50, 50))


def toy_reward(plan):
    """Best where layer 0 loses nothing and layer 3 pays for it."""
    return -sum(w * r for w, r in zip((4, 2, 1, 0.5), plan.ratios, strict=True))


def run(seed, simulations=200):
    root = Plan.uniform(SPACE, 0.4)
    return list(mcts(toy_reward, root, simulations, np.random.default_rng(seed)))


def test_mcts_beats_its_root_and_stays_on_the_budget():
    steps = run(0)
    assert [s.simulation for s in steps] == list(range(200))
    assert steps[0].plan == Plan.uniform(SPACE, 0.4)
    assert all(s.plan.parameters == SPACE.budget(0.4) for s in steps)
    best = max(steps, key=lambda s: s.reward)
    assert best.reward > steps[0].reward + 0.5
    assert max(s.depth for s in steps) > 3


def test_mcts_beats_plain_random_plans_at_equal_evaluations():
    rng = np.random.default_rng(0)
    random = [
        toy_reward(Plan.from_ratios(0.4 + rng.uniform(-0.1, 0.1, 4), SPACE, 0.4))
        for _ in range(200)
    ]
    assert max(s.reward for s in run(0)) > max(random)


def test_same_seed_same_search():
    assert run(3, 50) == run(3, 50)
    assert run(3, 50) != run(4, 50)


@pytest.fixture
def reward(model, processor, samples, scores):
    with Reward(model, processor, samples, scores) as reward:
        yield reward


def test_every_evaluated_plan_becomes_a_sample(reward):
    samples = search(reward, 0.5, seed=1, simulations=8, searcher="mcts")
    assert len(samples) == 8
    assert {"target", "plan", "kept", "reward", "searcher", "seed", "simulation", "depth"} <= set(
        samples
    )
    assert samples["kept"].map(reward.space.cost).eq(reward.space.budget(0.5)).all()
    assert samples["reward"].iloc[0] == reward(Plan.uniform(reward.space, 0.5))
    assert reward(best_plan(samples, reward.space)) == samples["reward"].max()


def test_a_finished_shard_is_not_searched_again(reward, tmp_path, monkeypatch):
    path = run_shard(tmp_path, reward, 0.5, 0, 5)
    before = path.stat().st_mtime_ns
    monkeypatch.setattr("lop.search.search", lambda *a, **k: pytest.fail("searched again"))
    assert run_shard(tmp_path, reward, 0.5, 0, 5) == path
    assert path.stat().st_mtime_ns == before


def test_settings_name_the_shard(reward, tmp_path):
    first = run_shard(tmp_path, reward, 0.5, 0, 3)
    assert run_shard(tmp_path, reward, 0.5, 0, 4) != first
    assert run_shard(tmp_path, reward, 0.5, 0, 3, step=0.2) != first
    write_index(tmp_path, [first])
    pd.testing.assert_frame_equal(read_search(tmp_path), pd.read_parquet(first))


def test_a_search_starts_from_the_plan_it_is_given(reward, tmp_path):
    root = Plan.from_ratios([0.2, 0.6, 0.7], reward.space, 0.5)
    path = run_shard(tmp_path, reward, 0.5, 0, 3, root=root)
    assert pd.read_parquet(path)["kept"].iloc[0].tolist() == list(root.kept)
    assert run_shard(tmp_path, reward, 0.5, 0, 3) != path


def test_broken_searches_are_refused(reward, tmp_path):
    with pytest.raises(LopError, match=r"no index\.json"):
        read_search(tmp_path)
    path = run_shard(tmp_path, reward, 0.5, 0, 3)
    write_index(tmp_path, [path])
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(LopError, match="cannot read search samples"):
        read_search(tmp_path)
    with pytest.raises(LopError, match="expected one of surrogate"):
        search(reward, 0.5, 0, 3, searcher="hope")
    with pytest.raises(LopError, match="surrogate has no setting 'sped'; it has step"):
        search(reward, 0.5, 0, 3, sped=2)


def test_a_directory_lists_current_and_kept_searches(reward, tmp_path):
    with pytest.raises(LopError, match="no search samples"):
        list_searches(tmp_path)
    run_shard(tmp_path, reward, 0.2, 0, 3)
    write_index(tmp_path, [run_shard(tmp_path, reward, t, 0, 5) for t in (0.5, 0.2)])
    table = list_searches(tmp_path)
    assert table["current"].tolist() == [True, True, False]
    assert table["target"].tolist() == [0.2, 0.5, 0.2]
    assert table["plans"].tolist() == [5, 5, 3]
    samples = read_search(tmp_path)
    assert table["best"].max() == samples.loc[samples["share"] == 1, "reward"].max()
    assert table["began"].iloc[1] == reward(Plan.uniform(reward.space, 0.5))
    assert set(samples["fingerprint"]) == set(table.loc[table["current"], "fingerprint"])


def test_a_curve_tells_the_best_so_far_and_the_pace():
    samples = {"simulation": [0, 1, 2], "reward": [-2.0, -1.0, -3.0], "seconds": [0.5, 1.0, 2.0]}
    by_few = {"simulation": 1, "reward": 5.0, "seconds": 1.0, "share": 0.1}
    table = curve(pd.concat([pd.DataFrame(samples).assign(share=1.0), pd.DataFrame([by_few])]))
    assert table["best_reward"].tolist() == [-2, -1, -1]
    assert table["simulations_per_second"].tolist() == [2, 2, 1.5]


def test_searchers_in_threads_find_what_they_find_in_turn(model_dir, samples, tmp_path):
    """Each thread needs a model of its own: a search reorders it."""
    write_samples(samples, tmp_path / "samples.parquet")
    scoring.importance(tmp_path / "scores", str(model_dir), tmp_path / "samples.parquet", 12)
    settings = [{"simulations": 6, "step": 0.2}, {"searcher": "evolution", "simulations": 6}]
    place = (str(model_dir), tmp_path / "samples.parquet", tmp_path / "scores", "flap")

    def tables(out, **options):
        searching.search(tmp_path / out, *place, [0.2, 0.5], [0], settings, **options)
        return read_search(tmp_path / out).drop(columns="seconds")

    def in_threads(work, keys):
        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(lambda key: work(*key), keys))

    expected = tables("serial")
    assert set(expected.groupby("searcher")["target"].nunique()) == {2}
    pd.testing.assert_frame_equal(tables("threads", each=in_threads), expected)
    with pytest.raises(LopError, match="settings for surrogate, surrogate: expected one for each"):
        searching.search(tmp_path / "twice", *place, [0.2], [0], settings[:1] * 2)


@pytest.mark.parametrize("simulations", [0, -1])
def test_a_search_of_nothing_is_refused(simulations, reward, tmp_path):
    with pytest.raises(LopError, match=f"simulations {simulations}: expected at least 1"):
        run_shard(tmp_path, reward, 0.4, 0, simulations)
    assert not list(tmp_path.iterdir())


def test_an_empty_or_foreign_shard_is_one_line(tmp_path):
    path = tmp_path / "x.parquet"
    write_index(tmp_path, [path])
    whole = {name: [0] for name in COLUMNS}
    for table, message in [
        (pd.DataFrame(), "x.parquet: not a search shard of .*: no column target, plan"),
        (
            pd.DataFrame({"question": ["?"]}),
            "x.parquet: not a search shard of .*: no column target",
        ),
        (pd.DataFrame(whole), "x.parquet: "),  # a plan is a list
        (pd.DataFrame(whole).head(0), "x.parquet: a search shard without rows; delete it"),
    ]:
        table.to_parquet(path)
        for read in (read_search, list_searches):
            with pytest.raises(LopError, match=message):
                read(tmp_path)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("plan", [0.1, np.nan], "column plan: expected ratios in"),
        ("plan", [0.1, -0.1], "column plan: expected ratios in"),
        ("plan", [0.1], "columns plan and kept: expected as many sites in both"),
        ("kept", [-1, 9], "column kept: expected whole units"),
        ("kept", [8.5, 9], "column kept: expected whole units"),
        ("reward", np.inf, "column reward: expected finite numbers"),
        ("target", None, "column target: expected finite numbers"),
        ("kept", ["eight", "nine"], "could not convert"),
    ],
)
def test_plans_that_cannot_be_are_refused(column, value, message, tmp_path):
    row = dict.fromkeys(COLUMNS, 0) | {"plan": [0.2, 0.1], "kept": [8, 9], "target": 0.15}
    pd.DataFrame([row | {column: value}]).to_parquet(tmp_path / "x.parquet")
    write_index(tmp_path, [tmp_path / "x.parquet"])
    with pytest.raises(LopError, match=f"x.parquet: {message}"):
        read_search(tmp_path)


def test_samples_of_another_model_or_other_widths_are_refused():
    table = pd.DataFrame({"plan": [[0.2, 0.1]], "kept": [[8, 9]], "model_fingerprint": ["a"]})
    check_fits(table, Space.ffns((10, 10)), "a")
    with pytest.raises(LopError, match="search samples of model a, but scores of model b"):
        check_fits(table, Space.ffns((10, 10)), "b")
    for widths in ((10, 8), (10, 20), (10, 10, 10)):
        with pytest.raises(LopError, match="not for units"):
            check_fits(table, Space.ffns(widths), "a")


@pytest.mark.parametrize("index", [{"a": 1}, ["../x.parquet"], ["/x.parquet"], [3]])
def test_an_index_names_files_beside_it(index, tmp_path):
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(LopError, match=r"index.json: expected a list of names"):
        read_search(tmp_path)
