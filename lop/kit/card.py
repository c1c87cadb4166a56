"""A kit's card (README.md): its model, its contents, its measured plans and how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lop.kit.figures import Figures

START = """---
tags: [pruned, lop]
---
# Everything that pruning a model needs besides the model

Made by lop for the model with fingerprint `{model_fingerprint}`, scope `{scope}`. It contains the
scores of the model's units (ranked by `{score}`, {restored} compensation) and the predictor of
plans. It may also contain the loss of each site when it is pruned alone (the profile) and the time
that each site takes on one machine (the latency profile).

```sh
lop prune --model MODEL --kit KIT --ratio 0.37 --out small
```
"""


def card(
    model_fingerprint: str,
    scope: str,
    score: str,
    compensate: bool,
    figures: Figures | None,
    settings: Mapping[str, Any] | None,
) -> str:
    """The card as Markdown."""
    restored = "with" if compensate else "without"
    page = START.format(
        model_fingerprint=model_fingerprint, scope=scope, score=score, restored=restored
    )
    if figures:
        by = f" Speeds are predicted by the latency profile of {figures.machine}."
        page += f"""
## What its plans cost and save

{figures.sentence()}

{figures.markdown()}

Mean {figures.metric} ± standard error on {figures.samples:,} samples that were not used for the
scores, the searches or the predictor. An answer is right if the model would generate exactly an
accepted answer.{by if figures.machine else ""}
"""
    if settings:
        page += f"\n## Settings\n\n```json\n{json.dumps(settings, indent=2)}\n```\n"
    return page
