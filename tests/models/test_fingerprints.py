"""Whatever can change a number moves the names of the results that hold it."""

import pytest
import torch

import lop.reward
import lop.search
from lop.reward import Reward
from lop.search import shard_key
from lop.steps import scoring
from lop.steps.scoring import made_from


class Setup:
    """All that decides a reward, to be changed one thing at a time."""

    def __init__(self, model, processor, samples, scores):
        self.model, self.processor, self.samples = model, processor, samples.head(3).copy()
        self.scores, self.kind, self.means = list(scores), "loglik", None

    def fingerprints(self):
        """Of the reward, a search by it, and the scores of the same samples."""
        reward = Reward(
            self.model, self.processor, self.samples, self.scores, self.kind,
            mean_activation=self.means,
        )  # fmt: skip
        key = shard_key(reward, 0.3, 0, 5, "mcts", None, 0.3, {})
        return reward.fingerprint, key, made_from(self.model, self.processor, self.samples)


def weights(setup, _):
    with torch.no_grad():
        next(setup.model.parameters()).add_(0.1)


def config(setup, _):
    setup.model.config.get_text_config().rms_norm_eps *= 2


def dtype(setup, _):
    setup.model.double()


def generation_config(setup, _):
    setup.model.generation_config.eos_token_id = [7, setup.model.generation_config.eos_token_id]


def chat_template(setup, _):
    setup.processor.chat_template = "Please. " + setup.processor.chat_template


def image_statistics(setup, _):
    setup.processor.image_processor.image_mean = [0.1, 0.2, 0.3]


def tokenizer(setup, _):
    setup.processor.tokenizer.add_tokens(["circles"])


def question(setup, _):
    setup.samples.loc[0, "question"] = "what else is it?"


def answer(setup, _):
    setup.samples.loc[0, "answer"] = "no"


def picture(setup, _):
    setup.samples.at[0, "images"] = setup.samples.at[2, "images"]


def code_version(_, monkeypatch):
    for module in (lop.reward, scoring):
        monkeypatch.setattr(module, "VERSION", -1)


EVERYTHING = [
    weights, config, dtype, generation_config, chat_template, image_statistics, tokenizer,
    question, answer, picture, code_version,
]  # fmt: skip


@pytest.fixture
def setup(model, samples, scores):
    from copy import deepcopy

    from lop.reference import model as reference

    words = [*samples["question"], *samples["answer"]]
    tokenizer = reference.build_tokenizer(words, 300)
    return Setup(deepcopy(model), reference.build_processor(tokenizer), samples, scores)


@pytest.mark.parametrize("change", EVERYTHING, ids=lambda change: change.__name__)
def test_whatever_changes_a_number_moves_every_name(change, setup, monkeypatch):
    before = setup.fingerprints()
    assert setup.fingerprints() == before, "the same for the same"
    change(setup, monkeypatch)
    after = setup.fingerprints()
    assert all(a != b for a, b in zip(after, before, strict=True))


def test_scores_kind_and_compensation_move_a_reward_and_its_searches(setup):
    found = {setup.fingerprints()[:2]}
    setup.kind = "accuracy"
    found.add(setup.fingerprints()[:2])
    setup.scores[0] = setup.scores[0].flip(0)
    found.add(setup.fingerprints()[:2])
    setup.means = setup.scores
    found.add(setup.fingerprints()[:2])
    assert len({reward for reward, _ in found}) == len({key for _, key in found}) == 4


def test_the_version_of_a_search_moves_its_key(setup, monkeypatch):
    reward, key, _ = setup.fingerprints()
    monkeypatch.setattr(lop.search, "VERSION", -1)
    assert setup.fingerprints()[0] == reward
    assert setup.fingerprints()[1] != key
