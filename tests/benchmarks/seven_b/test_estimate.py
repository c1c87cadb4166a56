"""The paper plan for 7B: its shapes are the model's, and its figures follow card and settings."""

from dataclasses import replace

import pytest

from benchmarks.seven_b.estimate import Card, Estimate
from benchmarks.seven_b.page import page
from benchmarks.seven_b.rates import Rates
from benchmarks.seven_b.shape import shape
from lop.settings import Params


@pytest.fixture(scope="module")
def estimate():
    card = Card("a card", 24 * 2**30, 165e12, 1008e9, 0.4, 2e9)
    return Estimate(shape(), card, Rates(0, 43e9, 45e9, 0.4, 70_000_000, 1e9), Params())


def test_the_shape_is_that_of_the_published_model(estimate):
    assert estimate.shape.parameters == pytest.approx(8.292e9, rel=1e-3)
    assert estimate.shape.cache == 57_344  # bytes a token
    # two FLOPs for each of 6.53 G weights and token, and attention
    assert estimate.shape.decoder == pytest.approx(2 * 6.53e9 * 1350, rel=0.03)


def test_hours_follow_the_card_and_the_samples(estimate):
    slow = replace(estimate, card=replace(estimate.card, share=0.2))
    before, after = estimate.profile(), slow.profile()
    load = estimate.load
    assert after.one - load == pytest.approx(2 * (before.one - load))
    assert before.one / 8 < before.eight < before.one / 4
    few = Params.model_validate({"prepare": {"reward": 250}})
    half = replace(estimate, params=few).profile()
    assert half.one - load == pytest.approx((before.one - load) / 2)


def test_as_many_samples_fit_as_it_says(estimate):
    for states in (1, 2):
        most = estimate.room(states) * states * estimate.shape.captured
        assert 0 <= estimate.card.memory - estimate.base - 0.5e9 - most
        assert estimate.card.memory - estimate.base - 0.5e9 - most < states * 1e7


def test_the_page_has_every_stage(estimate):
    text = page(estimate)
    for stage in estimate.all():
        assert f"| {stage.name} |" in text
    assert "Nothing here was run on a GPU" in text
