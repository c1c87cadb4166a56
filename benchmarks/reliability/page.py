"""docs/results/reliability.md: a section a campaign, each written by its own command."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from lop.evaluation.comparison import markdown
from lop.files import replacing

PAGE = Path("docs/results/reliability.md")
TITLE = "# Reliability: malformed inputs and kills\n"
SECTIONS = ("Malformed inputs", "Kills")


def write_section(title: str, text: str) -> None:
    """Put a section in its place on the page, and leave the other as it is."""
    page = PAGE.read_text() if PAGE.exists() else ""
    found = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    found[title] = f"\n{text.strip()}\n\n"
    parts = [f"## {name}\n{found[name]}" for name in SECTIONS if name in found]
    with replacing(PAGE) as tmp:
        tmp.write_text("\n".join([TITLE, *parts]).rstrip() + "\n")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; a bar in a cell does not end it."""
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    return markdown([list(head), ["---"] * len(head), *cells])
