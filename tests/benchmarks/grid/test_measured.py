"""LOP against the others, over draws."""

import numpy as np

from benchmarks.grid.measured import Measured, compared, comparisons
from benchmarks.grid.scale import LOP, Ranking, Row


def test_a_difference_is_bold_beyond_two_errors():
    tokens, documents = np.full(4, 10), np.array(list("abcd"))
    better = np.array([10.0, 11, 12, 13])
    found = {(LOP, 0.2): better, (Row("uniform", None), 0.2): better + [1, 1.1, 0.9, 1]}
    draw = Measured(found, better, tokens, documents, Ranking("flap", False))
    table = compared(comparisons([draw]), [draw])
    assert "| Uniform, as lop chooses | 1 | **-0.100 ± 0.004** |" in table
    assert "**-10.00 ± 0.41**" in compared(comparisons([draw]), [draw], unit=0.01)
