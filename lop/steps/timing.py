"""The step that tells how long each method takes to a plan, apart from the cutting."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from lop.files import replacing
from lop.importance import load_all_scores, made_for
from lop.methods import method
from lop.plan import checkpoint_name
from lop.steps.pruning import Cutter

REPEATS = 5


def plan_times(out: Path, methods: Sequence[str], ratios: Sequence[float], cutter: Cutter) -> None:
    """Write the median seconds to each plan by model name, with all that it needs in memory."""
    kit = cutter.kit(methods)
    space, of_model = made_for(cutter.scores_dir)
    scores = load_all_scores(cutter.scores_dir, of_model)
    seconds = {}
    for name, ratio in product(methods, ratios):
        rule, taken = method(name, kit).plan, []
        for _ in range(REPEATS):
            begun = time.perf_counter()
            rule(ratio, space, scores)
            taken.append(time.perf_counter() - begun)
        seconds[checkpoint_name(name, ratio)] = statistics.median(taken)
    with replacing(out) as tmp:
        tmp.write_text(json.dumps(seconds, indent=2) + "\n")
