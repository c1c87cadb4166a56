"""Prose out of marked-up documents: paragraphs of running text, without code, lists or tables."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

LEAST_WORDS = 20  # of a paragraph: shorter ones are captions, list items and fragments
LIKE_PROSE = 0.75  # share of a paragraph's characters that are letters

_DIRECTIVE = re.compile(r"^(\s*)\.\. ")
_INLINE = (
    (re.compile(r":[\w:+-]+:`[~!]?([^`<]+?)\s*(?:<[^`>]*>)?`", re.S), r"\1"),  # roles
    (re.compile(r"``([^`]+)``", re.S), r"\1"),
    (re.compile(r"`([^`<]+?)\s*(?:<[^`>]*>)?`__?", re.S), r"\1"),  # links
    (re.compile(r"(?<!\w)\*{1,2}([^*\s][^*]*)\*{1,2}(?!\w)"), r"\1"),
    (re.compile(r"(?<!\w)([A-Za-z0-9]\w*)_(?!\w)"), r"\1"),
    (re.compile(r"\|(\w+)\|"), r"\1"),
)


def of_rst(source: str) -> list[str]:
    """The paragraphs of prose in a reStructuredText document, markup removed."""
    kept: list[str] = []
    skipped: int | None = None  # lines deeper than this belong to a directive or a code block
    for line in source.splitlines():
        indent = len(line) - len(line.lstrip())
        if line.strip() and skipped is not None and indent <= skipped:
            skipped = None
        if skipped is not None:
            continue
        if _DIRECTIVE.match(line):
            skipped = indent
            kept.append("")
            continue
        kept.append(line)
        if line.rstrip().endswith("::"):
            skipped = indent
            kept.append("")
    blocks = re.split(r"\n\s*\n", "\n".join(kept))
    paragraphs = [_plain(block) for block in blocks if not re.match(r"\s*([*#+-]|\d+\.) ", block)]
    return [text for text in paragraphs if is_prose(text)]


def _plain(block: str) -> str:
    """A block of reStructuredText without inline markup, on one line."""
    for pattern, replacement in _INLINE:
        block = pattern.sub(replacement, block)
    return " ".join(block.replace("\\", "").split())


def of_json(value: Any) -> list[str]:
    """The paragraphs of prose among all strings of a JSON value, HTML removed."""
    if isinstance(value, Mapping):
        return [text for part in value.values() for text in of_json(part)]
    if not isinstance(value, str):
        return []
    parts = re.split(r"(?:<br\s*/?>|</?p>|\n)+", value)
    return [text for part in parts if is_prose(text := _without_html(part))]


def _without_html(text: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", text)).split())


def is_prose(paragraph: str) -> bool:
    """Is it a paragraph of whole sentences, rather than a list, a table or code?"""
    words = paragraph.split()
    letters = sum(character.isalpha() for character in paragraph)
    return (
        len(words) >= LEAST_WORDS
        and paragraph[0].isupper()
        and paragraph[-1] in ".!?)"
        and letters >= LIKE_PROSE * len(paragraph)
        and paragraph.count(";") * 30 <= len(words)
    )


def documents(paragraphs: Mapping[str, Iterable[str]], least_words: int) -> dict[str, str]:
    """A text a document, of at least this many words, of paragraphs that no other one repeats."""
    each = {name: list(dict.fromkeys(of)) for name, of in paragraphs.items()}
    seen = Counter(text for of in each.values() for text in of)
    texts = {name: "\n\n".join(t for t in of if seen[t] == 1) for name, of in each.items()}
    return {name: text for name, text in texts.items() if len(text.split()) >= least_words}
