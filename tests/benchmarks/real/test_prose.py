"""What is kept of marked-up documents, and what is not."""

from benchmarks.real import prose

SENTENCE = (
    "Framework authors write long and careful sentences about what a setting does, so that "
    "people who read {} know what to expect of it."
)
RST = f"""
=====
Title
=====

.. module:: django.db

{SENTENCE.format(":ref:`See this page <the-page>` and ``code_of(it)`` by `a link <https://x>`_")}

.. warning::

    {SENTENCE.format("a warning")}

It goes like this::

    {SENTENCE.format("code")}

    {SENTENCE.format("more code")}

{SENTENCE.format(":class:`~a.b.Name`, __init__() and the file_ that *is* |named|")}

* {SENTENCE.format("a list")}

Short one.
"""


def test_paragraphs_of_rst_are_kept_without_markup_code_and_lists():
    assert prose.of_rst(RST) == [
        SENTENCE.format("See this page and code_of(it) by a link"),
        SENTENCE.format("a.b.Name, __init__() and the file that is named"),
    ]


def test_paragraphs_of_json_are_kept_wherever_they_stand():
    value = {
        "a": {"text": f"<p>{SENTENCE.format('<b>this &amp; that</b>')}</p>"},
        "b": {"c": {"note": f"a fragment<br><br>{SENTENCE.format('it')}"}, "count": 7},
    }
    assert prose.of_json(value) == [SENTENCE.format("this & that"), SENTENCE.format("it")]


def test_lists_and_tables_are_no_prose():
    assert prose.is_prose(SENTENCE.format("it"))
    assert not prose.is_prose("One; " * 30 + "and that is all there is to be said.")
    assert not prose.is_prose("Numbers 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22.")
    assert not prose.is_prose(SENTENCE.format("it").rstrip(".") + " and")


def test_no_paragraph_stands_in_two_documents():
    own, other, shared = (SENTENCE.format(f"text {name}") for name in ("one", "two", "three"))
    texts = prose.documents({"a": [own, shared, own], "b": [other, shared], "c": [shared]}, 5)
    assert texts == {"a": own, "b": other}
