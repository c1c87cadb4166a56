"""Whether a short answer is right: one rule for evaluation and reward.

The reward compares an accepted answer token by token (NFC, see `lop.data.encoding`); an answer that
is right there is an accepted answer verbatim, so `matches` accepts it too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

MOST_TOKENS = 128  # limit for an answer without samples; an end token stops earlier
_LABEL = re.compile(
    r"^(?:(?:so|thus|therefore|hence),?\s+)?(?:the\s+)?(?:(?:final|correct|short)\s+)?answer"
    r"(?:\s+is|\s*:)\s*:?\s*"
)
_YES_NO = re.compile(r"^(yes|no)\s*[,.;:!]")
_AROUND = " \t\"'`*.,;:!()[]"


def matches(prediction: str, accepted: Sequence[str]) -> bool:
    """Whether a generated text gives one of the accepted answers.

    Case, leading and trailing white space, and Unicode normal form (NFC) are ignored. From any
    other text only the first line is used, without surrounding quotes, stars and punctuation and
    without "the answer is" or "answer:" at its start; "yes, …" and "no, …" count as yes and no.
    """
    said, right = _normal(prediction), {_normal(answer) for answer in accepted}
    if said in right:
        return True
    return bool({_short(said), _yes_or_no(said)} & {*right, *map(_bare, right)} - {""})


def distinct(answers: Sequence[str]) -> list[str]:
    """The answers in NFC, in order, without duplicates."""
    return list(dict.fromkeys(unicodedata.normalize("NFC", answer) for answer in answers))


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip().lower()


def _bare(text: str) -> str:
    return text.strip(_AROUND)


def _short(said: str) -> str:
    """The answer in a longer text: its first line, without quotes, punctuation and label."""
    return _bare(_LABEL.sub("", _bare(next(iter(said.splitlines()), "")), count=1))


def _yes_or_no(said: str) -> str:
    found = _YES_NO.match(_bare(said) + ".")
    return found[1] if found else ""
