"""The page docs/cli.md, from the parser itself: `python -m lop.cli.reference > docs/cli.md`."""

from __future__ import annotations

import argparse

from lop.cli.parser import EPILOG, build_parser

START = """\
# The command line

Every step of the pipeline by hand, on any model directory. A command ends with exit code 0, or 2
when its input was bad, with one line on standard error that says what was wrong. The pipeline is
`dvc repro`; its settings are in [params.md](params.md).

This page is made by `python -m lop.cli.reference`.
"""


def page() -> str:
    """Every command with its options, in Markdown."""
    (commands,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    parts = [START, f"```text\n{EPILOG}```\n"]
    for name, parser in commands.choices.items():
        options = [a for a in parser._actions if a.dest != "help"]
        parts.append(f"## lop {name}\n\n{_sentence(parser.description or '')}\n")
        if options:
            rows = ["| option | | |", "| --- | --- | --- |", *(_row(each) for each in options)]
            parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def _row(option: argparse.Action) -> str:
    name = option.option_strings[0] if option.option_strings else ""
    values = "" if option.nargs == 0 else str(option.metavar or option.dest.upper())
    if option.nargs == "+":
        values += " …"
    return f"| `{f'{name} {values}'.strip()}` | {_default(option)} | {_cell(option.help or '')} |"


def _default(option: argparse.Action) -> str:
    if option.required:
        return "required"
    if option.default is None or option.nargs == 0 or "default" in (option.help or ""):
        return ""
    values = option.default if isinstance(option.default, list) else [option.default]
    return "`" + " ".join(str(value) for value in values) + "`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


if __name__ == "__main__":
    print(page(), end="")
