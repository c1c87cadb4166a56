"""A kit holds together what is of one model, and nothing else."""

import json
import re

import pytest
import torch
from kits import make_kit, make_parts
from tiny import build

import lop
from lop.errors import LopError
from lop.files import content_digest
from lop.importance import SCORES, load_scores
from lop.kit import Kit
from lop.plan import Space
from lop.predictor import Predictor, PredictorConfig
from lop.profile import measure
from lop.reward.choice import Candidate
from lop.steps.pruning import Cutter, prune_one


@pytest.fixture
def place(tmp_path):
    """A folder with a model and the parts of its kit."""
    build("Llama")[0].save_pretrained(tmp_path / "model")
    make_parts(tmp_path, tmp_path / "model")
    return tmp_path


def parts(place):
    return place / "scores", place / "predictor", place / "profile.parquet"


def gather(place, **options):
    return Kit.gather(place / "kit", *parts(place), score="flap", compensate=False, **options)


def test_a_kit_is_all_that_pruning_needs_besides_the_weights(place):
    kit = gather(place)
    assert lop.Kit is Kit
    assert kit.by == Candidate("flap", False)
    scores, predictor, profile = parts(place)
    mine = Cutter(str(place / "model"), scores, "flap", False, predictor, profile)
    theirs = Cutter.of_kit(str(place / "model"), Kit.load(place / "kit"))
    for name in ("lop", "knapsack"):
        assert prune_one(place / "a", name, 0.3, mine) == prune_one(place / "b", name, 0.3, theirs)
        a, b = (content_digest(place / of / "model.safetensors") for of in "ab")
        assert a == b
    assert content_digest(scores) == content_digest(kit.scores_dir)
    card = (place / "kit" / "README.md").read_text()
    assert kit.about.model_fingerprint in card


def test_another_score_may_be_named_instead_of_the_kits(place):
    kit = gather(place)
    assert Cutter.of_kit("m", kit).scored == ("flap", False)
    assert Cutter.of_kit("m", kit, "magnitude", True).scored == ("magnitude", True)
    other = Cutter.of_kit("m", kit, latency_path="elsewhere")
    assert (other.latency_path, other.predictor_path) == ("elsewhere", kit.predictor_path)


def other_scores(place):
    make_parts(place / "other", place / "model", "ffn+attention")
    name = "magnitude.safetensors"
    (place / "other" / "scores" / name).rename(place / "scores" / name)


def other_model(place):
    model = build("Llama")[0]
    model.get_input_embeddings().weight.data += 1
    model.save_pretrained(place / "sibling")
    make_parts(place / "other", place / "sibling")
    name = "magnitude.safetensors"
    (place / "other" / "scores" / name).rename(place / "scores" / name)


def other_predictor(place):
    Predictor(PredictorConfig(Space.ffns((48, 48)), "x", 0.1, 0.6)).save_pretrained(
        place / "predictor"
    )


def sibling_predictor(place):
    kit = Predictor.from_pretrained(place / "predictor").config
    other = PredictorConfig(kit.space, "someone-else", 0.1, 0.6)
    Predictor(other).save_pretrained(place / "predictor")


def other_profile(place):
    measure(lambda plan: 0.0, Space.ffns((48, 48))).save(place / "profile.parquet")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (other_scores, "magnitude.safetensors: scores of units .*ffn.attention.*the kit is for"),
        (other_model, "magnitude.safetensors: scores of model .*, the kit is for"),
        (other_predictor, r"predictor: predictor trained for a model with units \[48, 48\]"),
        (sibling_predictor, "predictor: predictor trained for model someone-else"),
        (other_profile, r"profile.parquet: profile of a model with units \[48, 48\]"),
        (lambda place: (place / "scores/flap.safetensors").unlink(), "flap.safetensors: cannot"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line_and_nothing_is_written(spoil, says, place):
    spoil(place)
    with pytest.raises(LopError) as told:
        gather(place)
    assert re.search(says, str(told.value)), told.value
    assert "\n" not in str(told.value)
    assert not (place / "kit").exists()


def test_a_kit_that_was_changed_is_refused(place):
    gather(place)
    about = place / "kit" / "kit.json"
    said = json.loads(about.read_text())
    about.write_text(json.dumps(said | {"model_fingerprint": "other"}))
    with pytest.raises(LopError, match="predictor trained for model .*, this model is other"):
        Kit.load(place / "kit")
    about.write_text(json.dumps(said | {"score": "beauty"}))
    with pytest.raises(LopError, match="score 'beauty': expected one of"):
        Kit.load(place / "kit")
    about.write_text("{}")
    with pytest.raises(LopError, match="has a kit.json without "):
        Kit.load(place / "kit")
    with pytest.raises(LopError, match="is not a kit: it is not there"):
        Kit.load(place / "nowhere")


@pytest.mark.parametrize("scope", ["ffn", "ffn+attention"])
def test_a_reordered_kit_has_its_scores_in_order_and_says_the_same_plans(scope, tmp_path):
    build("Llama")[0].save_pretrained(tmp_path / "model")
    kit = make_kit(tmp_path, tmp_path / "model", scope)
    orders = kit.orders()
    other = kit.reordered(tmp_path / "other", orders, "packed", False)
    assert all((score.diff() <= 0).all() for score in other.score())
    assert [o.tolist() for o in other.orders()] == [list(range(len(o))) for o in orders]
    for name in SCORES:
        before = load_scores(kit.scores_dir / f"{name}.safetensors", kit.about.model_fingerprint)
        for old, new, order in zip(before, other.score(name), orders, strict=True):
            block = len(old) // len(order)
            for to, come in enumerate(order.tolist()):
                mine = old[come * block : (come + 1) * block]
                assert torch.equal(new[to * block : (to + 1) * block], mine)
    assert kit.predictor.plan(0.37) == other.predictor.plan(0.37)
    with pytest.raises(LopError, match="scores of model packed"):
        load_scores(other.scores_dir / "flap.safetensors", kit.about.model_fingerprint)
