"""Why a program failed, from what it printed: that is seldom its last line."""

from __future__ import annotations

import re

# DVC's own frame around the error of a stage, and its closing lines
FRAME = re.compile(
    r"ERROR: failed to reproduce|Having any troubles\?|hint:|Running stage |Stage '|> "
)
ERROR = re.compile(r"(ERROR|error|fatal|Error): |[\w.]+(Error|Exception|Interrupt|Exit): ")


def reason(said: str) -> str:
    """The line that says what went wrong: lop's own, else an error's, else the last of all.

    Lines of an error are told by how DVC, git and Python begin them; what DVC prints around the
    error of a stage is left out.
    """
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    own = [line for line in lines if not FRAME.match(line)]
    for known in (r"lop: ", r"lop failed", ERROR):
        if found := [line for line in own if re.match(known, line)]:
            return found[-1]
    framed = [line for line in lines if line.startswith("ERROR: ")]
    return (own or framed or lines or ["it said nothing"])[-1]
