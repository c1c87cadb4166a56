"""The command `lop`, whose subcommands run single steps of the pipeline on any model directory."""

from __future__ import annotations

from collections.abc import Sequence

from lop import errors


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `lop.errors.run` handles errors."""
    return errors.run(_main, argv)


def _main(argv: Sequence[str] | None) -> None:
    from lop.cli import commands
    from lop.cli.parser import parse

    name, options = parse(argv)
    getattr(commands, name)(options)
