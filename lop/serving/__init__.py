"""The HTTP service `lop serve`: plans for pruning ratios, and pruned checkpoints on demand.

All inputs are given as options at the start. All files are written in one directory:

    out/checkpoints/<name>/   the pruned checkpoints
    out/jobs/<name>.json      the records of the pruning jobs
    out/predictor/            copies of the current predictor, used when its registry fails
    out/kit/                  a copy of the current kit, if it is from the registry
"""

from lop.serving.server import serve

__all__ = ["serve"]
