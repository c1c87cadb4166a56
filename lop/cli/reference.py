"""The page docs/cli.md, from the options: `python -m lop.cli.reference > docs/cli.md`."""

from __future__ import annotations

from pydantic.fields import FieldInfo

from lop.cli.options import COMMANDS
from lop.cli.parser import EPILOG, default, flag, ordered, several

START = """\
# The command line

Every step of the pipeline by hand, on any model directory. The pipeline is `dvc repro`; its
settings are in [params.md](params.md), and an option has the default of the setting that it stands
for.

A command ends with exit code 0; with 2 when its input was bad, and one line on standard error that
says what was wrong, where, and what was expected; with 1 after any other error, which may be a bug
of lop: then one line names the file that holds the traceback. `LOP_TRACEBACK=1` prints the
traceback of every error.

This page is made by `python -m lop.cli.reference`.
"""


def page() -> str:
    """Every command with its options, in Markdown."""
    parts = [START, f"```text\n{EPILOG}```\n"]
    for name, options in COMMANDS.items():
        text = options.__doc__ or ""
        parts.append(f"## lop {name}\n\n{text[:1].upper()}{text[1:]}.\n")
        if rows := [_row(option, field) for option, field in ordered(options)]:
            table = ["| option | default | |", "| --- | --- | --- |", *rows]
            parts.append("\n".join(table) + "\n")
    return "\n".join(parts)


def _row(name: str, field: FieldInfo) -> str:
    written = flag(name, field).upper() if field.json_schema_extra else flag(name, field)
    value = "" if field.annotation is bool or field.json_schema_extra else f" {name.upper()}"
    given = f"`{default(field)}`" if default(field) else ""
    chosen = "required" if field.is_required() else given
    more = " …" if several(field) else ""
    text = (field.description or "").replace("|", "\\|")
    return f"| `{written}{value}{more}` | {chosen} | {text} |"


if __name__ == "__main__":
    print(page(), end="")
