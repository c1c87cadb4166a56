"""Work that is too large for memory is done in smaller batches, each item once and in order."""

from itertools import chain

import pytest
import torch

from lop.data.batching import Fitting, restarting


def holding(most):
    """Work on a list that needs more memory than there is for more than `most` items."""
    tried = []

    def work(part):
        tried.append(size := part.stop - part.start)
        if size > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 10.00 GiB.")
        return list(range(part.start, part.stop))

    return work, tried


def test_what_fits_is_done_at_once():
    work, tried = holding(7)
    assert list(Fitting(7)(20, work)) == [[*range(7)], [*range(7, 14)], [*range(14, 20)]]
    assert tried == [7, 7, 6]


def test_what_is_too_large_is_halved_and_not_tried_again():
    work, tried = holding(2)
    fitting = Fitting()
    assert [*chain(*fitting(10, work))] == [*range(10)]
    assert tried == [10, 5, 2, 2, 2, 2, 2]
    assert [*chain(*fitting(3, work))] == [0, 1, 2]
    assert tried[7:] == [2, 1]


def test_one_item_that_is_too_large_is_told():
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        list(Fitting(8)(8, holding(0)[0]))


def test_other_errors_are_not_tried_again():
    def work(part):
        tried.append(part)
        raise RuntimeError("shapes do not match")

    tried = []
    with pytest.raises(RuntimeError, match="shapes"):
        list(Fitting()(8, work))
    assert len(tried) == 1


def test_work_begins_anew_with_half():
    tried = []

    def work(size):
        tried.append(size)
        if size > 3:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes")
        return size

    assert restarting(20, work) == 2
    assert tried == [20, 10, 5, 2]
    with pytest.raises(RuntimeError, match="can't allocate"):
        restarting(1, lambda size: work(4))
