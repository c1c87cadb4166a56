"""What dvc.yaml says a stage depends on is all code of lop that can change what it writes."""

import ast
from pathlib import Path

import pytest
import yaml

STAGES = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]
# They say how work is done, watched, refused or told to MLflow, and change no number.
NO_NUMBERS = {
    "lop/__init__.py", "lop/auto_classes.py", "lop/errors.py", "lop/files.py", "lop/hooks.py",
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


def imported(file):
    """The files of lop that a file's imports name, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        # a package's own file runs before whatever is imported out of it
        names += [name.rpartition(".")[0] for name in names if "." in name]
        found |= {file_of(name) for name in names if name.split(".")[0] == "lop"}
    return found - {None}


def all_imported(file):
    """The same, with what those import in turn."""
    found, waiting = set(), [file]
    while waiting:
        new = imported(waiting.pop()) - found
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
    needed = {path for path in all_imported(flow) if matters(path)}
    missing = sorted(path for path in needed if not watched(path, deps))
    assert not missing, f"dvc.yaml, stage {stage}: deps lack {', '.join(missing)}"
    code = [dep for dep in deps if dep.startswith("lop/")]
    idle = [dep for dep in code if not any(watched(path, [dep]) for path in needed)]
    assert not idle, f"dvc.yaml, stage {stage}: nothing is imported from {', '.join(idle)}"
    assert all(Path(dep).exists() for dep in code)
