"""Everything lop says to MLflow: runs, metrics, and the registry of kits.

MLFLOW_TRACKING_URI says where, else mlflow.db and mlruns/ in the working folder. Tracking never
costs a stage its result: when MLflow cannot be reached, one warning says so, the work goes on, and
what was to be said waits in a queue for `lop track`.
"""

from lop.tracking.queue import QUEUE, replay
from lop.tracking.registry import (
    CHALLENGER,
    CHAMPION,
    KIT_NAME,
    Version,
    kit_path,
    predictor_path,
    promote,
    refuse,
    rollback,
    version_of,
)
from lop.tracking.runs import PARENT, Run, run, searches
from lop.tracking.store import EXPERIMENT, URI, create, default_uri

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "EXPERIMENT",
    "KIT_NAME",
    "PARENT",
    "QUEUE",
    "URI",
    "Run",
    "Version",
    "create",
    "default_uri",
    "kit_path",
    "predictor_path",
    "promote",
    "refuse",
    "replay",
    "rollback",
    "run",
    "searches",
    "version_of",
]
