"""The command line: an argparse parser built from `lop.cli.options`, which validate the values."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from lop.cli.options import COMMANDS
from lop.errors import LopError
from lop.settings.types import Section, problem

MARKDOWN = re.compile(r"\[(.+?)\]\(.+?\)")  # a Markdown link, for docs/params.md

EPILOG = """\
a model of your own:
  lop learn      --model M --samples my-data --out kit --hours 2
  lop prune      --model M --kit kit --size 9GB --out small

the same, step by step:
  lop prepare    --source DIR --out samples
  lop importance --model M --samples samples/calibration.parquet
                 --reward samples/reward.parquet --out scores
  lop profile    --model M --samples samples/reward.parquet --scores scores
                 --out profile.parquet
  lop search     --model M --samples samples/reward.parquet --target 0.2 0.5
                 --scores scores --profile profile.parquet --out search
  lop samples    --search search
  lop train      --search search --scores scores/activation_l2.safetensors --out predictor
  lop recover    --model M --samples samples/train.parquet --scores scores
                 --predictor predictor --out recovered
  lop kit        --scores scores --predictor predictor --profile profile.parquet
                 --out kit
  lop predict    --kit kit --model M --ratio 0.37
  lop prune      --model M --kit kit --ratio 0.37 --out small
  lop evaluate   --model small --samples samples/benchmark.parquet
  lop compare    --model M --kit kit --methods lop knapsack flap --ratios 0.2 0.5
                 --samples samples/benchmark.parquet --out comparison
  lop pack       --model M --kit kit --out elastic
  lop serve      --model elastic --kit elastic/kit --out served
"""


class Parser(argparse.ArgumentParser):
    """A parser that raises LopError, instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise a LopError of one line."""
        raise LopError(f"{message}; see {self.prog} --help")


def parse(argv: Sequence[str] | None) -> tuple[str, Section]:
    """The command and its options; LopError for the first invalid option."""
    values = vars(build_parser().parse_args(argv))
    name = values.pop("command")
    try:
        return name, COMMANDS[name].model_validate(values)
    except ValidationError as error:
        location, text = problem(error, values)
        option = location.split(".")[0]
        prefix = f"{flag(option, COMMANDS[name].model_fields.get(option))}: " if option else ""
        raise LopError(f"{prefix}{text}") from None


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands. It keeps values as text and leaves out options not given."""
    parser = Parser(
        prog="lop",
        description="Learn once how to prune a multimodal LLM, then prune it to any budget.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", required=True
    )
    for command, options in COMMANDS.items():
        text = options.__doc__
        sub = commands.add_parser(
            command, help=text, description=text, argument_default=argparse.SUPPRESS
        )
        for name, field in ordered(options):
            sub.add_argument(flag(name, field), **_argument(name, field))
    return parser


def ordered(options: type[Section]) -> list[tuple[str, FieldInfo]]:
    """A command's options, required ones first."""
    return sorted(options.model_fields.items(), key=lambda each: not each[1].is_required())


def flag(name: str, field: FieldInfo | None) -> str:
    """An option as written on the command line, `--batch-size`; for a positional argument, its
    name."""
    if field and field.json_schema_extra:
        return name
    return f"--{(field and field.alias) or name}".replace("_", "-")


def several(field: FieldInfo) -> bool:
    """Whether an option takes a list."""
    return str(field.annotation).startswith("list")


def default(field: FieldInfo) -> str:
    """An option's default as text; empty if there is none."""
    values = field.default if several(field) else [field.default]
    if field.is_required() or field.annotation is bool:
        return ""
    return " ".join(str(value) for value in values if value is not None)


def _argument(name: str, field: FieldInfo) -> dict[str, Any]:
    """The arguments of `add_argument` for an option."""
    text = MARKDOWN.sub(r"\1", field.description or "").replace("`", "")
    if field.json_schema_extra:
        return {"help": text, "metavar": name.upper()}
    if field.annotation is bool:
        return {"help": text, "action": "store_true", "dest": field.alias or name}
    shown = f"{text} (default {default(field)})" if default(field) else text
    given: dict[str, Any] = {"nargs": "+"} if several(field) else {}
    if bool in get_args(field.annotation):  # a boolean or a word like auto; the bare flag is true
        given = {"nargs": "?", "const": "true"}
    return given | {"help": shown, "required": field.is_required(), "dest": field.alias or name}
