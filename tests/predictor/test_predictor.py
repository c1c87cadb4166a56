from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from lop.errors import LopError
from lop.importance import save_scores
from lop.plan import Plan, Space
from lop.predictor import NETWORKS, Predictor, PredictorConfig
from lop.predictor.training import gains, good_samples, latency_ms, mix_neighbours, train
from lop.predictor.transformer import PlanTransformer
from lop.profile import measure, solve
from lop.search import write_index
from lop.steps import training

SPACE, TWO = Space.ffns((64,) * 8), Space.ffns((16, 16))
CONFIG = PredictorConfig(SPACE, "model-a", min_ratio=0.1, max_ratio=0.6)


def truth(ratio):
    """Plans that lean from the first layer to the last."""
    return Plan.from_ratios(ratio + np.linspace(-0.1, 0.1, 8), SPACE, ratio)


@pytest.fixture(scope="module", params=NETWORKS)
def trained(request):
    targets = [0.1, 0.2, 0.3, 0.5, 0.6]
    samples = pd.DataFrame({"target": targets * 4})
    samples["plan"] = [list(truth(t).ratios) for t in samples["target"]]
    log = {}
    config = replace(CONFIG, kind=request.param)
    predictor = train(samples, config, seed=0, log=lambda n, v, e: log.setdefault(n, []).append(v))
    return predictor, log


def test_it_learns_and_carries_over_to_unseen_ratios(trained):
    predictor, log = trained
    assert log["train_mse"][-1] < log["train_mse"][0] / 20
    for ratio in (0.2, 0.25, 0.4):
        error = np.abs(np.array(predictor.plan(ratio).ratios) - truth(ratio).ratios)
        assert error.max() < 0.05


def test_every_plan_is_exact(trained):
    for ratio in np.linspace(0.1, 0.6, 23):
        assert trained[0].plan(float(ratio)).parameters == SPACE.budget(float(ratio))


def test_generation_equals_teacher_forcing_on_its_own_output():
    torch.manual_seed(0)
    network = PlanTransformer(("ffn",) * 28).double()
    torch.nn.init.normal_(network.head.weight, std=0.5)
    budgets = torch.linspace(0.1, 0.6, 5, dtype=torch.float64)
    plans = network.generate(budgets)
    with torch.inference_mode():
        torch.testing.assert_close(network(budgets, plans), plans, atol=1e-12, rtol=0)


def test_it_is_causal():
    torch.manual_seed(0)
    network = PlanTransformer(("ffn",) * 6)
    torch.nn.init.normal_(network.head.weight, std=0.5)
    plans = torch.rand(1, 6)
    changed = plans.clone()
    changed[0, 3] += 0.3
    with torch.inference_mode():
        a, b = (network(torch.tensor([0.4]), p)[0] for p in (plans, changed))
    assert torch.equal(a[:4], b[:4])
    assert not torch.allclose(a[4:], b[4:])


@pytest.mark.parametrize("kind", NETWORKS)
def test_with_a_profile_it_begins_at_the_knapsacks_plans(kind):
    profile = measure(lambda p: -sum(w * r * r for w, r in enumerate(p.ratios, 1)), SPACE)
    samples = pd.DataFrame({"target": [0.3], "plan": [truth(0.3).ratios]})
    config = replace(CONFIG, kind=kind)
    predictor = train(samples, config, seed=0, epochs=1, lr=1e-12, profile=profile)
    for ratio in (0.3, 0.405):
        error = np.subtract(predictor.plan(ratio).ratios, solve(profile, ratio).ratios)
        assert np.abs(error).max() < 0.04
    predictor = train(samples, config, seed=0, epochs=200, profile=profile)
    assert np.abs(np.subtract(predictor.plan(0.3).ratios, truth(0.3).ratios)).max() < 0.05


@pytest.mark.parametrize("kind", ["bilstm", "mlp"])
def test_the_others_are_parallel(kind):
    network = NETWORKS[kind](CONFIG)
    torch.nn.init.normal_(network.head.weight, std=0.5)
    budgets = torch.tensor([0.2, 0.5])
    with torch.inference_mode():
        taught = network(budgets, torch.rand(2, 8))
    assert torch.equal(taught, network.generate(budgets))
    assert not torch.allclose(taught, budgets[:, None].expand(2, 8))


@pytest.mark.parametrize("kind", NETWORKS)
def test_untrained_it_says_uniform(kind):
    assert Predictor(replace(CONFIG, kind=kind)).plan(0.5).kept == (32,) * 8


@pytest.mark.parametrize("epochs", [0, -3])
def test_an_untrained_predictor_is_not_made(epochs):
    samples = pd.DataFrame({"target": [0.2, 0.5], "plan": [[0.2] * 8, [0.5] * 8]})
    with pytest.raises(LopError, match=f"epochs {epochs}: expected at least 1"):
        train(samples, CONFIG, seed=0, epochs=epochs)


@pytest.mark.parametrize("kind", NETWORKS)
def test_same_seed_same_predictor(kind):
    samples = pd.DataFrame({"target": [0.2, 0.5], "plan": [[0.2] * 8, [0.5] * 8]})
    config = replace(CONFIG, kind=kind)
    one, two = (train(samples, config, seed=1, epochs=3).network.state_dict() for _ in range(2))
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_saved_equals_loaded(trained, tmp_path):
    trained[0].save_pretrained(tmp_path / "p")
    assert sorted(f.name for f in (tmp_path / "p").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    loaded = Predictor.from_pretrained(tmp_path / "p")
    assert loaded.config == trained[0].config
    assert loaded.plan(0.37) == trained[0].plan(0.37)


def test_prediction_takes_milliseconds(trained):
    assert latency_ms(trained[0]) < 100  # a noisy machine; the report gives the real number


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_plan_does_not_depend_on_what_else_is_asked_for(kind):
    torch.manual_seed(0)
    wide = replace(CONFIG, space=Space.ffns((18_944,) * 12), kind=kind)
    predictor = Predictor(wide)
    torch.nn.init.normal_(predictor.network.head.weight, std=0.1)
    ratios = np.linspace(0.1, 0.6, 32).tolist()
    plans = predictor.plans(ratios)
    assert plans == [predictor.plan(ratio) for ratio in ratios]
    assert [sum(plan.kept) for plan in plans] == [wide.space.budget(ratio) for ratio in ratios]


@pytest.mark.parametrize("ratio", [1.2, 0.05, 0.61, -1.0, float("nan")])
def test_a_ratio_outside_the_searched_range_is_refused(trained, ratio):
    with pytest.raises(LopError, match=r"expected 0\.1 to 0\.6, the range"):
        trained[0].plan(ratio)


def test_another_model_is_refused(trained):
    trained[0].check_fits(SPACE, "model-a")
    with pytest.raises(LopError, match="trained for model model-a, this model is model-b"):
        trained[0].check_fits(SPACE, "model-b")
    with pytest.raises(LopError, match="trained for a model with units"):
        trained[0].check_fits(Space.ffns((64,) * 7), "model-a")


def test_broken_predictors_are_refused(trained, tmp_path):
    with pytest.raises(LopError, match="no such predictor"):
        Predictor.from_pretrained(tmp_path / "none")
    trained[0].save_pretrained(tmp_path / "p")
    weights = tmp_path / "p" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(LopError, match=r"model\.safetensors: cannot read it"):
        Predictor.from_pretrained(tmp_path / "p")
    (tmp_path / "p" / "config.json").write_text("{")
    with pytest.raises(LopError, match="cannot read JSON"):
        Predictor.from_pretrained(tmp_path / "p")


def test_a_network_that_cannot_be_is_refused():
    with pytest.raises(LopError, match="'gru': expected one of transformer, bilstm, mlp"):
        Predictor(replace(CONFIG, kind="gru"))
    with pytest.raises(LopError, match="hidden 10 cannot be split among 4 heads"):
        Predictor(replace(CONFIG, hidden=10))


NAN = float("nan")
ROWS = [  # target, simulation, kept, reward, gain, gain_error
    (0.2, 0, [13, 13], 1.0, 0.0, 0.0),
    (0.2, 1, [12, 14], 2.0, 0.10, 0.05),
    (0.2, 2, [12, 14], 2.0, 0.10, 0.05),
    (0.2, 3, [14, 12], 1.5, 0.04, 0.05),
    (0.2, 4, [11, 15], 1.6, 0.20, 0.05),
    (0.2, 5, [15, 11], 9.0, NAN, NAN),
    (0.5, 0, [8, 8], -1.0, 0.0, 0.0),
    (0.5, 1, [7, 9], -0.5, 0.01, 0.02),
    (0.5, 2, [9, 7], -0.4, -0.30, 0.02),
]
COLUMNS = ["target", "simulation", "kept", "reward", "gain", "gain_error"]
SEARCHED = pd.DataFrame(ROWS, columns=COLUMNS).assign(searcher="mcts", seed=0)
SEARCHED["plan"] = [[1 - k / 16 for k in kept] for kept in SEARCHED["kept"]]


def test_it_learns_from_what_is_surely_better_by_how_much():
    good = good_samples(SEARCHED)
    at = good[good["target"] == 0.2]
    assert at["kept"].tolist() == [[12, 14], [11, 15]], "not what was not checked or is in doubt"
    weights = at["weight"].to_numpy()
    assert weights[1] / weights[0] == pytest.approx((0.2 - 0.0125) / (0.1 - 0.025))
    assert len(good_samples(SEARCHED, sure=0.5)) == 4
    assert [len(part) for _, part in good_samples(SEARCHED, sure=3).groupby("target")] == [1, 1]


def test_where_nothing_is_better_it_has_the_root():
    good = good_samples(SEARCHED)
    last = good[good["target"] == 0.5]
    assert last[["simulation", "gain"]].values.tolist() == [[0, 0.0]]
    assert last["kept"].tolist() == [[8, 8]]
    assert gains(good)[0.5] == 0
    assert gains(good)[0.2] == pytest.approx((0.1 * 0.075 + 0.2 * 0.1875) / (0.075 + 0.1875))
    np.testing.assert_allclose(good.groupby("target")["weight"].sum(), len(good) / 2)


@pytest.mark.parametrize("kind", NETWORKS)
def test_with_nothing_better_anywhere_it_says_the_base_itself(kind):
    profile = measure(lambda p: -sum(w * r * r for w, r in enumerate(p.ratios, 1)), SPACE)
    samples = pd.DataFrame({"target": [0.1, 0.3, 0.6], "plan": [None] * 3})
    predictor = train(samples, replace(CONFIG, kind=kind), seed=0, profile=profile)
    for ratio in (0.1, 0.25, 0.3, 0.6):
        gap = np.subtract(predictor.plan(ratio).kept, solve(profile, ratio).kept)
        assert np.abs(gap).max() <= 1, "the knapsack's, but for rounding"


def test_gains_that_are_missing_say_the_way_out():
    with pytest.raises(LopError, match="without gain_error: of an earlier version; search again"):
        good_samples(SEARCHED.drop(columns="gain_error"))
    with pytest.raises(LopError, match="sure -1: expected at least 0"):
        good_samples(SEARCHED, sure=-1)


def test_weights_decide_which_plan_is_learned():
    plans = [list(truth(0.4).ratios), list(truth(0.4).ratios[::-1])]
    samples = pd.DataFrame({"target": 0.4, "plan": plans, "weight": [1.99, 0.01]})
    config = replace(CONFIG, kind="mlp", min_ratio=0.4, max_ratio=0.4)
    learned = np.array(train(samples, config, seed=0).plan(0.4).ratios)
    assert np.abs(learned - plans[0]).max() < 0.05


def test_mixed_plans_meet_the_budgets_between():
    samples = pd.DataFrame({"target": [0.1, 0.1, 0.2, 0.6], "weight": [1.5, 0.5, 1.0, 1.0]})
    samples["plan"] = [list(truth(t).ratios) for t in samples["target"]]
    assert len(mix_neighbours(samples, 0)) == 4
    mixed = mix_neighbours(samples, 3)
    assert len(mixed) == 4 + 3 + 3
    np.testing.assert_allclose(mixed["target"][4:], [0.125, 0.15, 0.175, 0.3, 0.4, 0.5])
    for row in mixed.itertuples():
        exact = Plan.from_ratios(row.plan, SPACE, row.target).ratios
        assert np.abs(row.plan - np.array(exact)).max() <= 1 / 64


def test_smoothing_that_cannot_be_is_refused():
    with pytest.raises(LopError, match="smooth -1: expected 0 or more"):
        mix_neighbours(SEARCHED.assign(weight=1.0), -1)


@pytest.mark.parametrize("kind", NETWORKS)
def test_params_yaml_chooses_network_and_samples(kind, tmp_path):
    settings = yaml.safe_load(Path("params.yaml").read_text())["train"] | {"base": "uniform"}
    settings["network"]["kind"] = kind
    settings["fit_options"] |= {"epochs": 1, "smooth": 1}
    scores = tmp_path / "scores.safetensors"
    save_scores([torch.ones(16), torch.ones(16)], scores, "model-a", TWO)
    searched = SEARCHED.assign(
        **dict.fromkeys(("share", "depth", "simulation", "seconds", "fingerprint"), 0),
        model_fingerprint="model-a",
    )
    search = tmp_path / "search"
    search.mkdir()
    searched.to_parquet(search / "shard.parquet")
    write_index(search, [search / "shard.parquet"])
    out, curve = tmp_path / "predictor", tmp_path / "training"
    metrics, _ = training.train(out, curve, search, scores, **settings)
    assert metrics["samples"] == 3, "what was mixed in is no sample of a search"
    assert metrics["gain_0.2"] > 0.1
    assert metrics["gain_0.5"] == 0
    save_scores([torch.ones(16), torch.ones(16)], scores, "model-b", TWO)
    with pytest.raises(LopError, match="search samples of model model-a, .* of model model-b"):
        training.train(out, curve, search, scores, **settings)
    assert Predictor.from_pretrained(out).config.kind == kind


def test_gains_over_another_root_are_refused(tmp_path):
    profile = measure(lambda p: -sum(w * r * r for w, r in enumerate(p.ratios, 1)), TWO)
    profile.save(tmp_path / "profile.parquet")
    scores = tmp_path / "scores.safetensors"
    save_scores([torch.ones(16), torch.ones(16)], scores, "model-a", TWO)

    def trained(root):
        rows = pd.DataFrame([(0.5, 0, list(root.kept), 0.0, 0.0, 0.0)], columns=COLUMNS)
        rows = rows.assign(
            plan=[list(root.ratios)], searcher="mcts", seed=0, model_fingerprint="model-a",
            **dict.fromkeys(("share", "depth", "simulation", "seconds", "fingerprint"), 0),
        )  # fmt: skip
        search = tmp_path / "search"
        search.mkdir(exist_ok=True)
        rows.to_parquet(search / "shard.parquet")
        write_index(search, [search / "shard.parquet"])
        places = (tmp_path / "predictor", tmp_path / "training", search, scores)
        options = ({}, {}, {"epochs": 1}, "knapsack", tmp_path / "profile.parquet")
        return training.train(*places, 0, *options)

    root = solve(profile, 0.5)
    trained(root)
    predictor = Predictor.from_pretrained(tmp_path / "predictor")
    assert predictor.plan(0.5).kept == root.kept
    with pytest.raises(LopError, match="did not start at this profile's knapsack plan"):
        trained(Plan.uniform(TWO, 0.5))


@pytest.mark.parametrize("section", ["samples", "network", "fit_options"])
def test_a_mistyped_option_is_named(section, tmp_path):
    options = {"samples": {}, "network": {}, "fit_options": {}}
    options[section] = {"hiden": 3}
    with pytest.raises(LopError, match=f"train.{section}: hiden: unknown; expected one of"):
        training.train(
            *(tmp_path / name for name in ("out", "curve", "search", "scores")), 0, **options
        )
