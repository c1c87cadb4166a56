"""What `auto` means: the score whose uniform plans lose least, the simplest among equals."""

import json

import numpy as np
import pytest

from lop.errors import LopError
from lop.importance import RANKINGS, load_scores
from lop.plan import Plan
from lop.reward import Reward
from lop.reward.choice import CANDIDATES, Candidate, chosen, relative, simplest
from lop.steps import scoring

CLUSTERS = np.arange(100)
PAPERS = Candidate("activation_l2", False)


def noise(scale=1.0, seed=0):
    return scale * np.random.default_rng(seed).standard_normal(100)


def rewards(better=()):
    """Every candidate loses 1 and 10 at two ratios on each sample, the `better` a tenth less."""
    shared = np.stack([noise(0.1), noise(1.0, 1)])
    by = {c: 0.9 if c in better else 1.0 for c in CANDIDATES}
    return {c: -np.array([[1.0], [10.0]]) * share + shared for c, share in by.items()}


def test_the_least_loss_is_chosen_and_a_tie_goes_to_the_simplest():
    losses = relative(np.zeros(100), rewards(), CLUSTERS)
    assert simplest(losses, CLUSTERS) == PAPERS
    better = Candidate("flap", True)
    losses = relative(np.zeros(100), rewards([better]), CLUSTERS)
    assert simplest(losses, CLUSTERS) == better
    assert simplest(losses, CLUSTERS, compensate=False) == PAPERS
    assert simplest(losses, CLUSTERS, score="flap") == better
    assert simplest(losses, CLUSTERS, score="wanda_sp") == Candidate("wanda_sp", False)


def test_a_gain_within_noise_does_not_decide():
    found = rewards()
    found[Candidate("flap", False)] = found[Candidate("flap", False)] + 0.01 + noise(1.0, 2)
    losses = relative(np.zeros(100), found, CLUSTERS)
    assert simplest(losses, CLUSTERS) == PAPERS


def test_the_largest_ratio_does_not_decide_alone():
    found = rewards()
    flap, wanda = Candidate("flap", False), Candidate("wanda_sp", False)
    found[flap] = found[flap] + np.array([[0.5], [0.0]])  # half of the loss at the small ratio
    found[wanda] = found[wanda] + np.array([[0.0], [1.0]])  # a tenth at the large one
    assert simplest(relative(np.zeros(100), found, CLUSTERS), CLUSTERS) == flap


def test_a_ratio_that_costs_nothing_beyond_noise_says_nothing():
    found = {
        c: np.stack([noise(1.0, i), values[1]]) for i, (c, values) in enumerate(rewards().items())
    }
    losses = relative(np.zeros(100), found, CLUSTERS)
    for candidate, loss in losses.items():
        np.testing.assert_allclose(loss.mean(), -found[candidate][1].mean() / 10, rtol=0.1)


@pytest.fixture
def made(model_dir, samples, tmp_path):
    samples.to_parquet(tmp_path / "s.parquet")
    out = tmp_path / "scores"
    where = (out, str(model_dir), tmp_path / "s.parquet", 5)
    return out, scoring.importance(*where, tmp_path / "s.parquet", [0.3, 0.5]), where


def test_the_stage_measures_and_writes_what_auto_means(made, model, processor, samples):
    out, choice, where = made
    assert chosen(out, "auto", "auto") == (choice.score, choice.compensate)
    assert chosen(out, "flap", "auto") == ("flap", choice.by_score["flap"])
    assert chosen(out, "auto", True) == (choice.by_compensate["true"], True)
    assert chosen(out, "wanda_sp", False) == ("wanda_sp", False)
    assert len(choice.table) == 2 * len(RANKINGS) * 2
    row = next(r for r in choice.table if (r.score, r.compensate, r.ratio) == ("flap", True, 0.5))
    scores, means = (load_scores(out / f"{n}.safetensors") for n in ("flap", "mean_activation"))
    with Reward(model, processor, samples, scores, mean_activation=means) as reward:
        assert reward(Plan.uniform(reward.space, 0.5)) == pytest.approx(row.reward, abs=1e-4)
    again = scoring.importance(*where, where[2], [0.3])
    assert again.fingerprint != choice.fingerprint


def test_without_reward_samples_auto_is_open(made):
    out, _, where = made
    assert scoring.importance(*where) is None
    assert chosen(out, "flap", True) == ("flap", True)
    for score, open_ in (("auto", "score"), ("flap", "compensate")):
        with pytest.raises(LopError, match=f"so {open_} auto is undefined: .* again with --reward"):
            chosen(out, score, "auto")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": "mean_activation"}, "score 'mean_activation': expected one of"),
        ({"by_score": {}}, "by_score: expected activation_l2"),
        ({"by_compensate": {"true": "flap"}}, "by_compensate: expected false and true"),
        ({"compensate": "yes"}, "compensate: Input should be a valid boolean"),
    ],
)
def test_a_choice_that_cannot_be_names_its_field(made, change, message):
    path = made[0] / "choice.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(LopError, match=message):
        chosen(made[0], "auto", "auto")
