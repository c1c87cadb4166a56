"""The page docs/params.md, from the models: `python -m lop.settings > docs/params.md`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lop.settings.params import Params, Searcher, Searching
from lop.settings.reference import Stage

START = """\
# params.yaml

Every setting of the pipeline; a section is a stage's. Change one in the file, or for one run with
`dvc exp run --set-param search.workers=4`, and `dvc repro` runs again what depends on it. A ratio
is the share removed of what `space.scope` names, in [0, 1). What the file leaves out has its
default. An unknown key or value ends a stage with one line that names it.

This page is made by `python -m lop.settings`.
"""


def page() -> str:
    """Every setting with its default and meaning, in Markdown."""
    parts = [START]
    for section, field in Params.model_fields.items():
        model: Any = field.annotation
        rows = ["| key | default | |", "| --- | --- | --- |", *_rows(section, model)]
        parts.append(f"## {section}\n\n{model.__doc__}\n\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _rows(place: str, model: type[BaseModel], of: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        key = f"{place}.{field.alias or name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _rows(key, field.annotation)
        elif key == "search.settings":
            yield f"| `{key}` | | {field.description} |"
            yield from _searchers(key)
        elif key == "reference.stages":
            yield from _rows(key, Stage)
        elif field.description:
            yield f"| `{key}` | {_default(field)} | {of}{field.description} |"


def _searchers(place: str) -> Iterator[str]:
    models = get_args(get_args(Searcher)[0])
    names = [get_args(model.model_fields["searcher"].annotation)[0] for model in models]
    listed = ", ".join(f"`{name}`" for name in names)
    yield f"| `{place}.searcher` | `{names[0]}` | {listed} |"
    yield from _rows(place, Searching)
    for name, model in zip(names, models, strict=True):
        own = [row for row in _rows(place, model, f"of {name}: ") if ".simulations`" not in row]
        yield from own


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.default if isinstance(field.default, str) else json.dumps(field.default)
    return f"`{default}`"


if __name__ == "__main__":
    print(page(), end="")
