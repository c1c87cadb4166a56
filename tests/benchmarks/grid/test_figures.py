"""Perplexities by document, and differences over draws."""

import numpy as np
import pytest

from benchmarks.grid.figures import difference, perplexity, rate

TOKENS = np.full(6, 10)
ONE_EACH = np.array(list("abcdef"))


def test_perplexity_is_that_of_all_tokens():
    lost, tokens = np.log(2) * np.array([4, 12.0]), np.array([4, 12])
    assert perplexity(lost, tokens, np.array(["a", "b"])) == pytest.approx((2, 0))


def test_errors_of_single_windows_are_those_of_a_mean():
    values = np.random.default_rng(0).normal(size=6)
    mean, error = rate(values, TOKENS, ONE_EACH)
    assert mean == pytest.approx(values.mean() / 10)
    assert error == pytest.approx(values.std(ddof=1) / np.sqrt(6) / 10)


def test_windows_of_a_document_are_one_observation():
    values = np.random.default_rng(0).normal(size=6)
    halved = rate(np.repeat(values, 2) / 2, np.repeat(TOKENS, 2) / 2, np.repeat(ONE_EACH, 2))
    assert halved == pytest.approx(rate(values, TOKENS, ONE_EACH))


def test_draws_that_disagree_make_a_difference_less_sure():
    ours, theirs = np.zeros(6), [-np.ones(6), -3 * np.ones(6)]
    one = difference([theirs[0]], [ours], [TOKENS], [ONE_EACH])
    both = difference(theirs, [ours] * 2, [TOKENS] * 2, [ONE_EACH] * 2)
    assert one == pytest.approx((-0.1, 0))
    assert both == pytest.approx((-0.2, 0.1))
