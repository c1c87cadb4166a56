"""`lop …`: the pipeline's steps by hand, on any model directory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from lop.cli.parser import build_parser
from lop.errors import LopError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; bad input ends in one line on standard error and exit code 2."""
    args = vars(build_parser().parse_args(argv))
    command: Callable[..., None] = args.pop("command")
    try:
        command(**args)
    except LopError as error:
        print(f"lop: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0
