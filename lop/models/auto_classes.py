"""After `import lop`, transformers' own Auto classes load pruned checkpoints too."""

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
    """Do it now where transformers is imported already, else once it is: that takes seconds."""
    if AUTO in sys.modules:
        _teach(sys.modules[AUTO])
    elif not any(isinstance(finder, _WhenImported) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WhenImported())


class _WhenImported(MetaPathFinder):
    """Lets the module be found as always, and teaches it as soon as it has run."""

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
    """Have the Auto classes choose the pruned variant for the config of a model that lop pruned, or
    quantized such that the stock class does not load it.

    They all ask `_get_model_class` which class a config is of, and no other place knows the config.
    """
    ask = auto_factory._get_model_class
    if getattr(ask, "taught", False):
        return

    def choose(config: Any, mapping: Any) -> Any:
        stock = ask(config, mapping)
        pruned = any(getattr(part, key, None) for part in _parts(config) for key in KEYS)
        named = getattr(config, "auto_map", None) or {}
        if not pruned and not any(str(of).startswith("modeling_lop.") for of in named.values()):
            return stock
        from lop.models.modeling_lop import pruned_class

        return pruned_class(stock)

    choose.taught = True  # type: ignore[attr-defined]
    auto_factory._get_model_class = choose


def _parts(config: Any) -> Iterator[Any]:
    """A config and all that are in it. (`get_text_config` raises where there are two for text.)"""
    yield config
    for name in getattr(config, "sub_configs", ()):
        if (part := getattr(config, name, None)) is not None:
            yield from _parts(part)
