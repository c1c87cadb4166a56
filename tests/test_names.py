"""Names stand for something that is there: public ones, and those in pages and docstrings."""

import re
from importlib import import_module
from pathlib import Path

import pytest

import lop

PAGES = [Path("README.md"), *Path("docs").glob("*.md")]
CODE = [
    path for room in ("lop", "flows", "benchmarks", "tests") for path in Path(room).rglob("*.py")
]


@pytest.mark.parametrize("name", lop.__all__)
def test_a_public_name_is_there(name):
    assert getattr(lop, name) is not None


def test_there_is_no_other_public_name():
    with pytest.raises(AttributeError, match="no attribute 'prune_all'"):
        lop.prune_all  # noqa: B018


def named(pattern):
    """What the pattern finds, with the files that it stands in."""
    found = {}
    for path in [*PAGES, *CODE]:
        for name in re.findall(pattern, path.read_text()):
            found.setdefault(name, []).append(path.as_posix())
    return found


def test_files_that_are_named_are_there():
    paths = named(r"`((?:lop|flows|benchmarks|tests|docs)/[\w/.-]+\.\w+)`")
    assert paths
    assert {name: of for name, of in paths.items() if not Path(name).exists()} == {}


def test_modules_and_what_is_in_them_are_there():
    names = named(r"`(lop(?!\.json)(?:\.\w+)+)(?:\(.*\))?`")
    assert names
    assert {name: of for name, of in names.items() if not is_there(name.split("."))} == {}


def is_there(parts):
    """Whether the last part is a module, or an attribute of what stands before it."""
    found, *rest = lop, *parts[1:]
    for i, part in enumerate(rest):
        try:
            found = getattr(found, part)
        except AttributeError:
            try:
                found = import_module(".".join(parts[: i + 2]))
            except ModuleNotFoundError:
                return False
    return True
