"""Typed settings: pydantic models that validate params.yaml and the command line.

    params = read("params.yaml")
    params.search.targets

The models are in `lop.settings.params`; `python -m lop.settings` writes docs/params.md from them.
Importing this package imports neither torch nor transformers.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lop.errors import LopError, explained
from lop.settings.params import Fit, Learned, Network, Params
from lop.settings.recovery import Recovery
from lop.settings.types import Section, check

__all__ = ["Fit", "Learned", "Network", "Params", "Recovery", "Section", "check", "read"]

EXPONENT = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+$")


def read(path: str | Path = "params.yaml") -> Params:
    """Read and validate params.yaml; LopError with the location of the first invalid setting."""
    return check(Params, load_yaml(path), str(path))


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a mapping from a YAML file.

    Raises LopError if it is not a mapping, is invalid YAML or has a duplicate key.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            for key in keys:
                if keys.count(key) > 1:
                    raise LopError(f"key {key!r} is given twice{_line(node.start_mark)}")
            return super().construct_mapping(node, deep)

    # PyYAML reads 1e-3 as text, but DVC reads it as a number
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+.0123456789"))
    try:
        values = yaml.load(Path(path).read_text(), Loader)
    except yaml.MarkedYAMLError as error:
        raise LopError(f"{path}: not YAML: {error.problem}{_line(error.problem_mark)}") from error
    except (LopError, OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise LopError(f"{path}: {str(explained(error)).removeprefix(f'{path}: ')}") from error
    if not isinstance(values, dict):
        raise LopError(f"{path}: expected a mapping of sections, got {type(values).__name__}")
    return values


def _line(mark: Any) -> str:
    return f", line {mark.line + 1}" if mark else ""
