"""The types of settings, and the conversion of validation errors into one line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from lop.errors import LopError

T = TypeVar("T")

Count = Annotated[int, Field(ge=1)]
Number = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Ratio = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(ge=0, lt=1)]
Text = Annotated[str, Field(min_length=1)]


def _flag(value: Any) -> Any:
    """Convert the texts `true` and `false` of a command line to booleans; keep other values."""
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


def _number(value: Any) -> Any:
    """Convert the text of a whole number on a command line to an int; keep other values."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


# Names copied from the library, whose import takes seconds; a test compares them with the library.
Compensate = Annotated[bool | Literal["auto"], BeforeValidator(_flag)]
Score = Literal["auto", "flap", "activation_l2", "magnitude", "wanda_sp"]
RewardKind = Literal["loglik", "accuracy", "kl", "kl_text"]
Scope = Literal["ffn", "ffn+attention"]
Form = Literal["open", "choices", "listed", "yes_no"]
Start = Literal["uniform", "knapsack"]
Method = Literal[
    "lop",
    "knapsack",
    "uniform",
    "random",
    "magnitude",
    "wanda_sp",
    "flap",
    "lop_recovered",
    "knapsack_recovered",
    "uniform_recovered",
]
Format = Literal["per_layer", "padded"]
Fewer = Annotated[Literal[4, 8], BeforeValidator(_number)]  # bits
Bits = Annotated[Literal[4, 8, 16], BeforeValidator(_number)]
Other = Literal["embeddings", "head", "attention", "vision", "projector"]
SearcherName = Literal["surrogate", "local", "mcts", "evolution", "random", "uniform", "knapsack"]
Kind = Literal["transformer", "bilstm", "mlp"]
Move = Literal["shake", "transfer", "mixed"]
Runner = Literal["processes", "threads", "dask", "ray"]
OwnTask = Literal[
    "lop_vqa",
    "lop_text",
    "mme",
    "mmbench",
    "mmmu_val",
    "pope",
    "easyvqa_mme",
    "easyvqa_mmbench",
    "easyvqa_mmmu",
    "easyvqa_pope",
]
Task = OwnTask | Annotated[str, Field(pattern=r"^lm_eval\.[\w-]+$")]  # any of lm-eval's own


def distinct(values: list[T]) -> list[T]:
    """Reject values that are the same in file names, where numbers have six digits."""
    names = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise PydanticCustomError("twice", "{name} is given twice", {"name": twice[0]})
    return values


def text_like(pattern: str, expected: str) -> AfterValidator:
    """A validator for texts that match a regular expression; its error says what is expected."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            text = f"expected {expected}, got {value!r}"
            raise PydanticCustomError("form", "{text}", {"text": text})
        return value

    return AfterValidator(check)


Several = Annotated[list[T], Field(min_length=1), AfterValidator(distinct)]


class Section(BaseModel):
    """Base class of settings: unknown keys, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        known = [field.alias or name for name, field in cls.model_fields.items()]
        if unknown := [str(name) for name in values if name not in known]:
            given = {"key": unknown[0], "known": ", ".join(known)}
            raise PydanticCustomError("unknown", "unknown; expected one of {known}", given)
        return values


S = TypeVar("S", bound=BaseModel)


def check(model: type[S], values: Any, where: str = "", strict: bool = True) -> S:
    """Validate values as a settings model; LopError with location, expectation and value of the
    first error.

    `where` is a prefix of the location, such as a file name. Unless `strict`, text is converted to
    numbers, as on a command line.
    """
    try:
        return model.model_validate(values, strict=strict)
    except ValidationError as error:
        name, text = problem(error, values)
        prefix = [part for part in (where, name) if part]
        raise LopError(": ".join([*prefix, text])) from None


def problem(error: ValidationError, values: Any) -> tuple[str, str]:
    """The first validation error: the dotted name of the setting, and the message."""
    first = error.errors(include_url=False)[0]
    missing = first["type"] == "missing"
    names = _names(first["loc"][: -1 if missing else None], values)
    if missing:
        return ".".join([*names, str(first["loc"][-1])]), "missing; it has no default"
    context = first.get("ctx", {})
    if first["type"] == "union_tag_invalid":
        tag = first["input"][(key := context["discriminator"].strip("'"))]
        return ".".join([*names, key]), f"expected {context['expected_tags']}, got {_short(tag)}"
    if first["type"] == "unknown":
        return ".".join([*names, context["key"]]), first["msg"]
    text = first["msg"].removeprefix("Value error, ")
    if first["type"] in ("too_short", "string_too_short"):
        text = f"expected {'text' if 'string' in first['type'] else 'at least one value'}, got none"
    if not text.startswith("Input should"):
        return ".".join(names), text
    expected = text.removeprefix("Input should ").removeprefix("be ")
    expected = expected.replace("greater than or equal to", "at least").replace(
        "a valid dictionary or instance of", "a mapping, the settings of"
    )
    return ".".join(names), f"expected {expected}, got {_short(first['input'])}"


def _names(loc: Sequence[int | str], values: Any) -> list[str]:
    """The keys and indices in an error's location, without the tags of pydantic's unions."""
    names: list[str] = []
    for part in loc:
        if isinstance(values, Mapping) and part in values:
            names, values = [*names, str(part)], values[part]
        elif isinstance(values, Sequence) and isinstance(part, int) and part < len(values):
            if isinstance(values[part], Mapping):
                names.append(str(part))
            values = values[part]
    return names


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
