"""Converts Markdown to a web page in one file, with embedded pictures and without scripts.

The page is made from the Markdown report, so both have the same content.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from html import escape as escape_html
from itertools import pairwise
from pathlib import Path
from typing import Any

from lop.errors import LopError

STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; padding: 1rem 1rem 4rem; max-width: 74rem; color: #1d2328; background: #fff;
       font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; }
h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid #d9dee2;
     padding-bottom: .25rem; }
p, ul { max-width: 46rem; }
p:has(> img) { max-width: none; }
p > img { width: 34rem; max-width: 100%; height: auto; vertical-align: top; }
code { background: #f1f3f5; padding: .1em .3em; border-radius: 3px; overflow-wrap: anywhere; }
.table { overflow-x: auto; max-width: 100%; margin: 1rem 0; border: 1px solid #d9dee2;
         border-radius: 6px; width: fit-content; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; text-align: left; white-space: nowrap; vertical-align: top; }
thead tr { background: #f1f3f5; }
th { border-bottom: 1px solid #c4ccd2; vertical-align: bottom; }
tr + tr td { border-top: 1px solid #e7eaed; }
th:first-child, td:first-child:not(:has(img)) { position: sticky; left: 0; background: inherit; }
tbody tr { background: #fff; }
th.words { white-space: normal; min-width: 5.5rem; }
td.words { white-space: normal; min-width: 5rem; max-width: 22rem; overflow-wrap: anywhere; }
tr:has(img) td { white-space: normal; min-width: 4.5rem; }
td img { display: block; max-height: 9rem; max-width: 9rem; min-width: 5rem; height: auto; }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}</body>
</html>
"""
_TYPES = {".png": "image/png", ".jpg": "image/jpeg"}
_LONG = {"th_open": 12, "td_open": 28}  # cells with more characters may wrap


def to_html(text: str, picture: Callable[[str], bytes]) -> str:
    """Markdown `text` as an HTML page; `picture` returns the bytes of each image that it names.

    Raises LopError without markdown-it-py, which `lop[pipeline]` installs.
    """
    try:
        from markdown_it import MarkdownIt
    except ImportError as error:
        raise LopError(f"cannot write HTML: {error}; pip install 'lop[pipeline]'") from error
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")

    def image(renderer: Any, tokens: Sequence[Any], i: int, options: Any, env: Any) -> str:
        name = str(tokens[i].attrs["src"])
        data = base64.b64encode(picture(name)).decode()
        tokens[i].attrSet("src", f"data:{_TYPES[Path(name).suffix]};base64,{data}")
        return str(renderer.image(tokens, i, options, env))

    parser.add_render_rule("image", image)
    parser.add_render_rule("table_open", lambda *_: '<div class="table"><table>\n')
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
    tokens = parser.parse(text)
    for cell, content in pairwise(tokens):
        if cell.type in _LONG and len(content.content) > _LONG[cell.type]:
            cell.attrSet("class", "words")
    title = re.search(r"^# (.*)$", text, re.MULTILINE)
    body = parser.renderer.render(tokens, parser.options, {})
    return _PAGE.format(title=escape_html(title[1] if title else ""), style=STYLE, body=body)


def write_page(out: Path, text: str) -> None:
    """Write `text` to report.md in `out`, and report.html with the pictures in `out`."""
    (out / "report.md").write_text(text)
    (out / "report.html").write_text(to_html(text, lambda name: (out / name).read_bytes()))


def literal(text: str, limit: int = 300) -> str:
    """Escape any text for one Markdown table cell, truncated to `limit` characters."""
    text = " ".join(text.split())
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return re.sub(r"([\\`*_{}\[\]()<>#+\-.!|~&$:@])", r"\\\1", text) or "(nothing)"
