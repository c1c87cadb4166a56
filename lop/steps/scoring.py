"""The step from calibration samples to scores of every unit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from transformers import PreTrainedModel, ProcessorMixin

from lop.data.encoding import encode
from lop.data.samples import fingerprint as samples_fingerprint
from lop.data.samples import read_samples
from lop.errors import LopError
from lop.files import Kind, check_dir, replacing_dir
from lop.importance import SCORES, VERSION, collect, save_scores
from lop.models import fingerprints
from lop.models.checkpoint import load_processor, load_spread
from lop.models.space import find_space
from lop.models.stored import Stored
from lop.plan import FLOORS
from lop.plan import Kind as SiteKind
from lop.reward import Reward, choice
from lop.reward.choice import Choice, choose

SCORE_FILES = Kind("scores", tuple(f"{name}.safetensors" for name in SCORES))


def importance(
    out: Path,
    model_path: str,
    samples_path: Path,
    batch_size: int,
    reward_path: Path | None = None,
    ratios: Sequence[float] = choice.RATIOS,
    reward_samples: int = choice.SAMPLES,
    kind: str = "loglik",
    scope: str = "ffn",
    ffn_floor: float = FLOORS["ffn"],
    attention_floor: float = FLOORS["attention"],
    multiple_of: int = 1,
) -> Choice | None:
    """Write every score of `lop.importance.SCORES` from one pass over calibration samples.

    With reward samples, uniform plans of every score at `ratios` are judged on `reward_samples` of
    them by a reward of this `kind`, and choice.json beside the scores records which score and
    compensation `auto` means. Returns this choice.

    The scores record their space: the sites of `scope`, the smallest shares of units that FFNs and
    attention keep (`ffn_floor`, `attention_floor`), and `multiple_of` for FFN widths.
    """
    check_dir(out, SCORE_FILES, (model_path, samples_path, reward_path))
    model, processor = load_spread(model_path), load_processor(model_path)
    floors: dict[SiteKind, float] = {"ffn": ffn_floor, "attention": attention_floor}
    space = find_space(model, scope, floors, multiple_of)
    samples = read_samples(samples_path)
    batches = encode(samples, model, processor, batch_size)
    scores = collect(model, batches, -(-len(samples) // batch_size), scope)
    name_of_model = Stored(model_path).fingerprint
    origin = made_from(model, processor, samples)
    found = None
    if reward_path:
        judged = read_samples(reward_path)
        judged = judged.sample(min(reward_samples, len(judged)), random_state=0)
        if judged["image_id"].nunique() < 2:
            raise LopError(f"{reward_path}: samples of one picture; expected two or more")
        first = scores[choice.CANDIDATES[0].score]
        reward = Reward(model, processor, judged, first, kind, batch_size, scope=scope)
        name = fingerprints.digest(choice.VERSION, origin, reward.fingerprint, list(ratios))
        found = choose(reward, scores, list(judged["image_id"]), ratios, name)
    with replacing_dir(out, SCORE_FILES) as tmp:
        for name, layers in scores.items():
            save_scores(layers, tmp / f"{name}.safetensors", name_of_model, space, origin)
        if found:
            choice.save(found, tmp / choice.FILE)
    return found


def made_from(model: PreTrainedModel, processor: ProcessorMixin, samples: pd.DataFrame) -> str:
    """Twelve hex digits over everything that affects a model's scores on calibration samples."""
    asked = fingerprints.how_asked(model, processor)
    parts = (fingerprints.fingerprint(model), asked, samples_fingerprint(samples))
    return fingerprints.digest(VERSION, *parts)
