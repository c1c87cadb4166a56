"""Caches the vision tower's output, so that questions about one picture run it once."""

from __future__ import annotations

import hashlib
import inspect
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

FEATURE_BYTES = 2 << 30  # of cached vision features; beyond, the least recently used are dropped


@contextmanager
def seeing_once(model: PreTrainedModel) -> Iterator[None]:
    """Within the block, cache and reuse the vision tower's output for each picture.

    Pictures are identified by the processor's pixel values. Only models that take the patches of
    all pictures in one tensor (the Qwen-VL families) and return one tensor of features for each
    picture are cached. The cache has at most `FEATURE_BYTES`.
    """
    inner: Any = next((m for m in (getattr(model, "model", None), model) if _sees(m)), None)
    if inner is None:
        yield
        return
    inner.get_image_features = _Features(inner.get_image_features)
    try:
        yield
    finally:
        del inner.get_image_features


def _sees(module: Any) -> bool:
    return hasattr(module, "get_image_features")


class _Features:
    """A model's `get_image_features` with a cache; unsupported calls are passed on unchanged."""

    def __init__(self, compute: Any) -> None:
        self.compute = compute
        # `generate` inspects the arguments
        self.__signature__ = inspect.signature(compute)
        self.known: OrderedDict[bytes, Tensor] = OrderedDict()
        self.bytes = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = self.__signature__.bind(*args, **kwargs).arguments
        pixel_values, grid = given.get("pixel_values"), given.get("image_grid_thw")
        if pixel_values is None or grid is None:
            return self.compute(*args, **kwargs)
        patches = grid.prod(-1).tolist()
        if sum(patches) != len(pixel_values):
            return self.compute(*args, **kwargs)
        options = {k: v for k, v in kwargs.items() if k not in ("pixel_values", "image_grid_thw")}
        pieces = pixel_values.split(patches)
        keys = [_name(piece, grid) for piece, grid in zip(pieces, grid, strict=True)]
        new = {key: i for i, key in enumerate(keys) if key not in self.known}
        features = {key: self.known[key] for key in keys if key in self.known}
        output = None
        if new:
            at = list(new.values())
            some = torch.cat([pieces[i] for i in at]), grid[at]
            output = self.compute(*some, *args[2:], **options)
            if not _plain(output, len(at)):
                return self.compute(*args, **kwargs)
            features |= dict(zip(new, output.pooler_output, strict=True))
        for key, of in features.items():
            self._keep(key, of)
        return _output(output, tuple(features[key] for key in keys))

    def _keep(self, key: bytes, features: Tensor) -> None:
        if key not in self.known:
            self.known[key] = features
            self.bytes += features.nbytes
        self.known.move_to_end(key)
        while self.bytes > FEATURE_BYTES:
            self.bytes -= self.known.popitem(last=False)[1].nbytes


def _plain(output: Any, count: int) -> bool:
    """Whether the output has one feature tensor for each picture, and no other kind of output."""
    pooled = getattr(output, "pooler_output", None)
    more = set(output.keys()) - {"pooler_output", "last_hidden_state", "hidden_states"}
    return isinstance(pooled, tuple | list) and len(pooled) == count and not more


def _output(like: Any, features: tuple[Tensor, ...]) -> Any:
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    return BaseModelOutputWithPooling(pooler_output=features)  # type: ignore[arg-type]


def _name(piece: Tensor, grid: Tensor) -> bytes:
    digest = hashlib.sha256(repr(grid.tolist()).encode())
    digest.update(piece.contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.digest()
