"""Documents are dealt to purposes, each to one."""

from collections import Counter

import pytest

from benchmarks.real.text import SHARES, purpose_of


def test_documents_are_dealt_in_the_shares_by_their_names_alone():
    counts = Counter(purpose_of(f"page-{i}") for i in range(2000))
    assert {purpose: counts[purpose] / 2000 for purpose in SHARES} == pytest.approx(
        SHARES, abs=0.04
    )
    assert purpose_of("page-7") == purpose_of("page-7")
