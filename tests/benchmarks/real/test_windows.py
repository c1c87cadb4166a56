"""Windows of text are as even over documents as can be, and never overlap."""

import itertools

import pandas as pd
import pytest
import texts

from benchmarks.real.windows import draw
from lop.data.samples import COLUMNS
from lop.errors import LopError

TOKENIZER = texts.tokenizer()


def documents(*contents):
    base = dict.fromkeys(COLUMNS) | {"images": [], "question": "", "category": "all"}
    rows = [base | {"id": f"d{i}", "text": text} for i, text in enumerate(contents)]
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)


LONG = [" ".join([f"{n} boxes"] + texts.LINES * 4) for n in range(3)]


def test_each_document_gives_one_before_any_gives_two():
    drawn = draw(documents(*LONG, "short"), TOKENIZER, 16, 5, seed=0)
    assert set(drawn["image_id"][:3]) == {"d0", "d1", "d2"}
    assert drawn["id"].is_unique
    assert sorted(drawn["image_id"].value_counts()) == [1, 2, 2]
    lengths = [len(TOKENIZER.encode(text, add_special_tokens=False)) for text in drawn["text"]]
    assert lengths == [16] * 5


def test_windows_are_those_of_the_seed_and_do_not_overlap():
    table = documents(*LONG)
    drawn = draw(table, TOKENIZER, 16, 12, seed=0)
    assert drawn.equals(draw(table, TOKENIZER, 16, 12, seed=0))
    assert not drawn.equals(draw(table, TOKENIZER, 16, 12, seed=1))
    for _, of in drawn.groupby("image_id"):
        starts = sorted(int(name.split(":")[1]) for name in of["id"])
        assert min(b - a for a, b in itertools.pairwise(starts)) >= 16


def test_too_little_text_is_refused():
    with pytest.raises(LopError, match="windows of 16 tokens in the text, expected 99"):
        draw(documents(*LONG), TOKENIZER, 16, 99, seed=0)
