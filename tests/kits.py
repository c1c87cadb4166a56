"""Kits of tiny models: random scores, and a predictor whose plans are uneven."""

from pathlib import Path

import torch

from lop.importance import SCORES, save_scores
from lop.kit import Kit
from lop.models.space import find_space
from lop.models.stored import Stored
from lop.predictor import Predictor, PredictorConfig
from lop.profile import measure


def make_parts(root, model_dir, scope="ffn", floors=None):
    """Scores, predictor and profile of a stored model, in a folder; returns its space."""
    stored = Stored(model_dir)
    space = find_space(stored.model, scope, floors or {"ffn": 0.1, "attention": 0.1})
    generator = torch.Generator().manual_seed(0)
    for name in SCORES:
        wide = name == "mean_activation"
        sizes = [s.units * (s.block if wide else 1) for s in stored.sites(scope)]
        scores = [torch.rand(size, generator=generator) for size in sizes]
        path = Path(root) / "scores" / f"{name}.safetensors"
        save_scores(scores, path, stored.fingerprint, space)
    torch.manual_seed(0)
    predictor = Predictor(PredictorConfig(space, stored.fingerprint, 0.1, 0.6))
    torch.nn.init.normal_(predictor.network.head.weight, std=0.3)
    predictor.save_pretrained(Path(root) / "predictor")
    profile = measure(lambda plan: -sum(r * r for r in plan.ratios), space)
    profile.save(Path(root) / "profile.parquet")
    return space


def make_kit(root, model_dir, scope="ffn", compensate=False, floors=None):
    """The kit of a stored model, in `root/kit`."""
    make_parts(root, model_dir, scope, floors)
    places = [Path(root) / name for name in ("kit", "scores", "predictor", "profile.parquet")]
    return Kit.gather(*places, score="flap", compensate=compensate)


def kit_for(root, space, model_fingerprint, seed=0, scores=0, std=0.3):
    """A kit of any FFNs, in a new folder of `root`: predictors and scores differ by seed."""
    place = Path(root) / f"{model_fingerprint}-{seed}-{scores}-{std}"
    generator = torch.Generator().manual_seed(scores)
    for name in SCORES:
        drawn = [torch.rand(units, generator=generator) for units in space.units]
        save_scores(drawn, place / "scores" / f"{name}.safetensors", model_fingerprint, space)
    torch.manual_seed(seed)
    predictor = Predictor(PredictorConfig(space, model_fingerprint, 0.1, 0.6))
    torch.nn.init.normal_(predictor.network.head.weight, std=std)
    predictor.save_pretrained(place / "predictor")
    parts = (place / "scores", place / "predictor")
    return Kit.gather(place / "kit", *parts, score="flap", compensate=False)
