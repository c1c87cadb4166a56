"""The tracking server or database that lop uses, and the import and configuration of MLflow."""

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
ARTIFACTS = "./mlruns"  # MLflow's default


def default_uri(folder: Path) -> str:
    """MLFLOW_TRACKING_URI if set, else a database in `folder`."""
    return os.environ.get(URI) or f"sqlite:///{folder.resolve() / 'mlflow.db'}"


def connect() -> Any:
    """Import MLflow and select lop's experiment. If the server is unreachable, MLflow's own errors
    pass through."""
    mlflow = quiet()
    mlflow.set_experiment(EXPERIMENT)
    return mlflow


def quiet() -> Any:
    """Import MLflow with its log messages and progress bars switched off; creates its database if
    needed."""
    os.environ.setdefault(URI, "sqlite:///mlflow.db")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # MLflow's default retries take minutes; calls that fail are queued and logged later
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    create(os.environ[URI])
    return mlflow


def create(uri: str) -> None:
    """Create MLflow's SQLite database atomically, if `uri` names one and the file does not exist.

    MLflow creates its tables in several steps, and cannot use a database that a killed process left
    incomplete. So the database is built under a temporary name, then linked to its path, unless
    another process created it first.
    """
    found = SQLITE.fullmatch(uri)
    if not found or found["path"].startswith(":memory:") or Path(found["path"]).exists():
        return
    path = Path(found["path"])
    with temporary_dir(path) as folder:
        database = folder / path.name
        _build(database)
        try:
            os.link(database, path)
        except OSError:  # another process was faster, or the file system has no hard links
            if not path.exists():
                database.rename(path)


def _build(path: Path) -> None:
    """Create a database with all the tables that MLflow would create at its first request."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"sqlite:///{path}", ARTIFACTS)
    store.engine.dispose()


def where() -> str:
    """The address of the tracking server in use, without its credentials."""
    return os.environ[URI].split("@")[-1]
