"""Finds the reason why a program failed in its output: it is seldom the last line."""

from __future__ import annotations

import re

# DVC's own lines around the error of a stage, and its closing lines
FRAME = re.compile(
    r"ERROR: failed to reproduce|Having any troubles\?|hint:|Running stage |Stage '|> "
)
ERROR = re.compile(r"(ERROR|error|fatal|Error): |[\w.]+(Error|Exception|Interrupt|Exit): ")


def reason(said: str) -> str:
    """The line with the error: lop's own line, else another error's, else the last line.

    Error lines are recognised by the prefixes of DVC, git and Python; DVC's own lines around the
    error of a stage are left out.
    """
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    own = [line for line in lines if not FRAME.match(line)]
    for known in (r"lop: ", r"lop failed", ERROR):
        if found := [line for line in own if re.match(known, line)]:
            return found[-1]
    framed = [line for line in lines if line.startswith("ERROR: ")]
    return (own or framed or lines or ["it said nothing"])[-1]
