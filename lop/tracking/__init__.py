"""MLflow: runs, metrics, artifacts, and the registry of kits and pruned models.

MLFLOW_TRACKING_URI names the tracking server; the default is mlflow.db and mlruns/ in the working
directory. A failure of MLflow never fails a stage: lop warns once, the stage continues, and the run
waits in a queue until `lop track` logs it.
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
