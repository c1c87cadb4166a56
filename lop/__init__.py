"""Learn once how to prune a multimodal LLM, then cut any budget out of it in milliseconds.

>>> kit = lop.learn("my-model", "my-data", "kit", hours=2)
>>> lop.cut(kit, "my-model", "small", size="9GB")
>>> model = lop.load("small")
>>> lop.resize(lop.load("elastic", ratio=0.37), ratio=0.6)
"""

from importlib import import_module
from typing import Any

from lop.models.auto_classes import teach_transformers

teach_transformers()
_MODULE_OF = {
    "Kit": "kit",
    "LopError": "errors",
    "Plan": "plan",
    "Space": "plan",
    "Predictor": "predictor",
    "PredictorConfig": "predictor",
    "Reward": "reward",
    "collect": "importance",
    "cut": "steps.kits",
    "encode": "data.encoding",
    "find_space": "models.space",
    "learn": "steps.learning",
    "load": "steps.elastic",
    "load_processor": "models.checkpoint",
    "load_scores": "importance",
    "masked": "pruning",
    "pack": "steps.elastic",
    "prune": "pruning",
    "read_samples": "data.samples",
    "resize": "steps.elastic",
    "save": "models.checkpoint",
    "save_scores": "importance",
}
__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    # torch and transformers take seconds to import; `lop --help` should not wait for them
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'lop' has no attribute {name!r}")
    return getattr(import_module(f"lop.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
