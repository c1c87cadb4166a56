"""Which MLflow is spoken to, and how it is reached."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

EXPERIMENT = "lop"
URI = "MLFLOW_TRACKING_URI"


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
    return mlflow


def where() -> str:
    """The address in use, without a password."""
    return os.environ[URI].split("@")[-1]
