"""What dvc.yaml says a stage depends on is all code of lop that can change what it writes."""

import ast
from pathlib import Path

import pytest
import yaml

STAGES = {
    name: stage
    for name, stage in yaml.safe_load(Path("dvc.yaml").read_text())["stages"].items()
    if not stage.get("frozen")  # whose results lie in git
}
# They say how work is done, watched, refused or told to MLflow, and change no number.
NO_NUMBERS = {
    "lop/__init__.py", "lop/errors.py", "lop/files.py", "lop/models/auto_classes.py",
    "lop/progress.py", "lop/typed.py", "lop/workers.py",
}  # fmt: skip
NO_NUMBER_PACKAGES = ("lop/settings/", "lop/tracking/")  # settings are a stage's params


def file_of(module):
    """The file of a module of lop or flows, or None."""
    path = Path(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def for_types(node):
    """Whether this is `if TYPE_CHECKING:`, under which nothing is imported when the code runs."""
    return isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"


def imported(file):
    """The files of lop that a file's imports name, inside functions too."""
    found, tree = set(), ast.parse(file.read_text())
    tree.body = [node for node in tree.body if not for_types(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if file_of(name) else node.module for name in inside]
        else:
            continue
        found |= {file_of(name) for name in names if name.split(".")[0] == "lop"}
    if file == Path("lop/evaluation/tasks/benchmarks.py"):  # it imports utils by their name
        found |= set(Path("lop/evaluation/tasks").glob("*/utils.py"))
    return found - {None}


def all_imported(file):
    """The same, with what those import in turn."""
    found, waiting = set(), [file]
    while waiting:
        new = {path for path in imported(waiting.pop()) if matters(path.as_posix())} - found
        found |= new
        waiting += new
    return {path.as_posix() for path in found}


def matters(path):
    empty = not Path(path).read_text().strip()
    return not (empty or path in NO_NUMBERS or path.startswith(NO_NUMBER_PACKAGES))


def watched(path, deps):
    return any(path == dep or path.startswith(f"{dep}/") for dep in deps)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_watches_all_code_that_decides_its_results(stage):
    module = STAGES[stage]["cmd"].split()[-1]
    deps = [dep for dep in STAGES[stage]["deps"] if "$" not in dep]
    flow = file_of(module)
    needed = all_imported(flow)
    missing = sorted(path for path in needed if not watched(path, deps))
    assert not missing, f"dvc.yaml, stage {stage}: deps lack {', '.join(missing)}"
    code = [dep for dep in deps if dep.startswith("lop/")]
    idle = [dep for dep in code if not any(watched(path, [dep]) for path in needed)]
    assert not idle, f"dvc.yaml, stage {stage}: nothing is imported from {', '.join(idle)}"
    assert all(Path(dep).exists() for dep in code)
