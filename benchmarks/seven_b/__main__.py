"""The command: `python -m benchmarks.seven_b`."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import seven_b
from benchmarks.seven_b.estimate import Card, Estimate
from benchmarks.seven_b.page import page
from benchmarks.seven_b.rates import measured
from benchmarks.seven_b.shape import shape
from lop.files import replacing
from lop.settings import Params

OUT = Path("docs/7b.md")


def main() -> None:
    """The command line: which card."""
    parser = argparse.ArgumentParser(description=seven_b.__doc__)
    parser.add_argument("--card", default="NVIDIA RTX 4090", help="its name")
    parser.add_argument("--memory", type=float, default=24, help="GiB")
    parser.add_argument("--tflops", type=float, default=165.2, help="dense bfloat16, as published")
    parser.add_argument("--bandwidth", type=float, default=1008, help="GB a second, as published")
    parser.add_argument("--share", type=float, default=0.4, help="of the FLOPs that is reached")
    parser.add_argument("--disk", type=float, default=2, help="GB a second")
    o = parser.parse_args()
    card = Card(o.card, o.memory * 2**30, o.tflops * 1e12, o.bandwidth * 1e9, o.share, o.disk * 1e9)
    text = page(Estimate(shape(), card, measured(), Params()))
    with replacing(OUT) as tmp:
        tmp.write_text(text)


if __name__ == "__main__":
    main()
