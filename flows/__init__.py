"""Prefect flows, one a stage: they read params, call `lop`, and log; they hold no logic."""

import os

# A stage without a server starts a temporary one: give a slow machine time, and do not call home.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "90")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
# The UI gets all logs; the terminal gets none of Prefect's, and a failing stage says why itself.
os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
# Of MLflow's server we need no job queue, which is five more processes.
os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
