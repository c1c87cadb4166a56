"""Serving on demand: `lop serve` answers ratios with plans, and cuts checkpoints, over HTTP.

Everything it reads is named when it starts; everything it writes lies below one directory:

    out/checkpoints/<name>/   what was cut
    out/jobs/<name>.json      what was asked for
    out/predictor/            copies of the predictor in service, which outlive its registry
    out/kit/                  a copy of the kit in service, where it is the registry's
"""

from lop.serving.server import serve

__all__ = ["serve"]
