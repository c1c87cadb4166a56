"""Whether a short answer is right: one rule for evaluation and reward.

The reward follows an accepted answer token by token (NFC, see `lop.data.encoding`), so what it
calls right is an accepted answer as it stands, which `matches` takes too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

MOST_TOKENS = 128  # of an answer to who asks without samples; one that ends itself is shorter
_LABEL = re.compile(
    r"^(?:(?:so|thus|therefore|hence),?\s+)?(?:the\s+)?(?:(?:final|correct|short)\s+)?answer"
    r"(?:\s+is|\s*:)\s*:?\s*"
)
_YES_NO = re.compile(r"^(yes|no)\s*[,.;:!]")
_AROUND = " \t\"'`*.,;:!()[]"


def matches(prediction: str, accepted: Sequence[str]) -> bool:
    """Whether a generated text gives one of the accepted answers.

    Case, outer white space and the form of accents (NFC) do not count. A text that is no accepted
    answer as it stands is read as a chatty one: by its first line, without quotes, stars and
    punctuation around it and without "the answer is" or "answer:" before it; "yes, …" and
    "no, …" are yes and no.
    """
    said, right = _normal(prediction), {_normal(answer) for answer in accepted}
    if said in right:
        return True
    return bool({_short(said), _yes_or_no(said)} & {*right, *map(_bare, right)} - {""})


def distinct(answers: Sequence[str]) -> list[str]:
    """The answers in NFC and order, each once."""
    return list(dict.fromkeys(unicodedata.normalize("NFC", answer) for answer in answers))


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip().lower()


def _bare(text: str) -> str:
    return text.strip(_AROUND)


def _short(said: str) -> str:
    """The answer in a chatty text: its first line, without what stands around the answer."""
    return _bare(_LABEL.sub("", _bare(next(iter(said.splitlines()), "")), count=1))


def _yes_or_no(said: str) -> str:
    found = _YES_NO.match(_bare(said) + ".")
    return found[1] if found else ""
