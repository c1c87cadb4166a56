"""A kit's card: what it is, of which model, what its plans were measured at, how it is used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lop.kit.figures import Figures

START = """---
tags: [pruned, lop]
---
# All that pruning a model needs besides its weights

Made by lop for the model with fingerprint `{model_fingerprint}`, scope `{scope}`: scores of its
units (ranked by `{score}`, {restored} compensation), the predictor of plans, and where they are
there what each site alone loses (the profile) and how long it takes on one machine (the latency
profile).

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
        by = f" Speed is what the latency profile of {figures.machine} predicts."
        page += f"""
## What its plans cost and save

{figures.sentence()}

{figures.markdown()}

Mean {figures.metric} ± standard error on {figures.samples:,} samples that neither scores nor
search nor predictor have seen. An answer is right when the model would generate an accepted answer
exactly.{by if figures.machine else ""}
"""
    if settings:
        page += f"\n## Settings\n\n```json\n{json.dumps(settings, indent=2)}\n```\n"
    return page
