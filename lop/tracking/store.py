"""Which MLflow is spoken to, and how it is reached."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

from lop.files import temporary_dir

EXPERIMENT = "lop"
URI = "MLFLOW_TRACKING_URI"
SQLITE = re.compile(r"sqlite(\+\w+)?:///(?P<path>[^?]+)(\?.*)?")
ARTIFACTS = "./mlruns"  # as in MLflow


def default_uri(folder: Path) -> str:
    """MLFLOW_TRACKING_URI, else a database in `folder`."""
    return os.environ.get(URI) or f"sqlite:///{folder.resolve() / 'mlflow.db'}"


def connect() -> Any:
    """MLflow, with lop's experiment chosen. Raises whatever MLflow raises when out of reach."""
    mlflow = quiet()
    mlflow.set_experiment(EXPERIMENT)
    return mlflow


def quiet() -> Any:
    """MLflow, told where its store is and to keep its advice to itself."""
    os.environ.setdefault(URI, "sqlite:///mlflow.db")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # MLflow itself would try for some minutes; what it misses is logged later
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    create(os.environ[URI])
    return mlflow


def create(uri: str) -> None:
    """Create MLflow's database, whole or not at all, where that is a file and is not there.

    MLflow builds one step by step, and one that is killed meanwhile is never usable again. So it is
    built beside its place, and put there unless another process was faster.
    """
    found = SQLITE.fullmatch(uri)
    if not found or found["path"].startswith(":memory:") or Path(found["path"]).exists():
        return
    path = Path(found["path"])
    with temporary_dir(path) as folder:
        made = folder / path.name
        _build(made)
        try:
            os.link(made, path)
        except OSError:  # another was faster, or this file system has no links
            if not path.exists():
                made.rename(path)


def _build(path: Path) -> None:
    """A new database with all of MLflow's tables, which MLflow makes at its first request."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"sqlite:///{path}", ARTIFACTS)
    store.engine.dispose()


def where() -> str:
    """The address in use, without a password."""
    return os.environ[URI].split("@")[-1]
