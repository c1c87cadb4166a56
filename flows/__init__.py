"""Prefect flows, one for each stage: they read params, call `lop`, and log, without own logic."""

import os

# A stage without a server starts a temporary one: allow for a slow machine, and send no telemetry.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "90")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
# The UI gets all logs, the terminal none of Prefect's: a failing stage prints its own error.
os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
# MLflow's server needs no job queue here: it would start five more processes.
os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
