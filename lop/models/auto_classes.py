"""Makes transformers' own Auto classes load pruned checkpoints after `import lop`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

KEYS = ("pruned_ffn", "pruned_attention")  # as in `lop.models.modeling_lop`
AUTO = "transformers.models.auto.auto_factory"


def teach_transformers() -> None:
    """Patch the Auto classes: now if transformers is imported, else when it is imported.

    Importing transformers here would take seconds.
    """
    if AUTO in sys.modules:
        _teach(sys.modules[AUTO])
    elif not any(isinstance(finder, _WhenImported) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WhenImported())


class _WhenImported(MetaPathFinder):
    """Finds the module `AUTO` as usual, and patches it right after its import."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> Any:
        if name != AUTO:
            return None
        sys.meta_path.remove(self)
        spec: ModuleSpec | None = find_spec(name)
        if spec and spec.loader:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                _teach(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _teach(auto_factory: Any) -> None:
    """Make the Auto classes choose the pruned variant for the config of a model that lop pruned, or
    quantized so that the stock class cannot load it.

    All Auto classes get the class of a config from `_get_model_class`; no other function there gets
    the config.
    """
    stock_class = auto_factory._get_model_class
    if getattr(stock_class, "taught", False):
        return

    def choose(config: Any, mapping: Any) -> Any:
        stock = stock_class(config, mapping)
        pruned = any(getattr(part, key, None) for part in _parts(config) for key in KEYS)
        named = getattr(config, "auto_map", None) or {}
        if not pruned and not any(str(name).startswith("modeling_lop.") for name in named.values()):
            return stock
        from lop.models.modeling_lop import pruned_class

        return pruned_class(stock)

    choose.taught = True  # type: ignore[attr-defined]
    auto_factory._get_model_class = choose


def _parts(config: Any) -> Iterator[Any]:
    """A config and all its sub-configs. (`get_text_config` raises if two of them are for text.)"""
    yield config
    for name in getattr(config, "sub_configs", ()):
        if (part := getattr(config, name, None)) is not None:
            yield from _parts(part)
