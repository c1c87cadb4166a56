"""MLflow runs of the pipeline and its stages, queued while the tracking server is unreachable."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from lop.tracking import checkpoints, queue, store
from lop.tracking.calls import CALLS
from lop.tracking.queue import WAITING, Record, now

PARENT = "LOP_PARENT_RUN"  # the environment variable that gives a stage its pipeline's run id


class Connection:
    """The connection to MLflow of a run and its children. After one failure it stays closed."""

    is_open = True

    def close(self, error: Exception) -> None:
        """Warn that the following calls go to the queue."""
        self.is_open = False
        warnings.warn(
            f"cannot log to MLflow at {store.where()}; the run is queued, log it with `lop track` "
            f"when the tracking server is reachable again: {error}",
            stacklevel=4,
        )


class Run:
    """A run. Its calls go to MLflow or, after the connection has failed, to the queue."""

    def __init__(self, record: Record, connection: Connection) -> None:
        self.record = record
        self.connection = connection

    @property
    def active(self) -> bool:
        """Whether calls go to MLflow, not to the queue."""
        return self.connection.is_open

    @property
    def id(self) -> str:
        """The value of PARENT for a child run in another process."""
        return self.record.as_parent

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log metrics by name."""
        time = now()
        self._call("metrics", [(name, float(value), time, step) for name, value in values.items()])

    def curve(self, table: pd.DataFrame, step: str) -> None:
        """Log every other column of `table` as a metric, with the column `step` as its step."""
        points = [
            (name, float(value), 0, int(row[step]))
            for row in table.to_dict("records")
            for name, value in row.items()
            if name != step and pd.notna(value)
        ]
        self._call("metrics", points)

    def inputs(self, hashes: Mapping[str, str]) -> None:
        """Log the input data sets; `hashes` maps each path to its DVC hash."""
        self._call("inputs", dict(hashes))

    def artifact(self, path: str | Path) -> None:
        """Log a file or a directory as an artifact of the run."""
        self._call("artifact", str(path))

    def register_kit(self, path: str | Path) -> str | None:
        """Log the kit as a pyfunc model and register it as the challenger.

        Returns the version, or None if the call was queued. The model takes ratios and returns
        plans; it is stored as code and safetensors, without pickle. If there is no champion yet,
        the version also becomes the champion.
        """
        return self._call("register", str(path))

    def register_checkpoint(
        self,
        path: Path,
        figures: Mapping[str, float],
        tags: Mapping[str, str],
        copied_mb: float = checkpoints.COPIED_MB,
        model: str | None = None,
    ) -> str | None:
        """Log a pruned checkpoint and register it; returns the version, or None if queued.

        `figures` are the evaluation's metrics; `tags` record the origin (commit, data hashes). A
        checkpoint larger than `copied_mb` is not copied: its version stores the path. `model` is
        the model that the registered model is named after (default: the checkpoint's source).
        """
        by_name = checkpoints.size(path) > copied_mb * 1e6
        call = "checkpoint_by_name" if by_name else "checkpoint"
        return self._call(call, str(path.resolve()), dict(figures), dict(tags), model)

    @contextmanager
    def child(
        self, name: str, params: Mapping[str, Any], tags: Mapping[str, str], once: str | None = None
    ) -> Iterator[Run]:
        """A child run. `once` names a tag: `lop track` drops a queued run if a finished run has the
        same value of that tag."""
        with _open(Record(name, dict(tags), self.id, once=once), params, self.connection) as run:
            yield run

    def _call(self, name: str, *values: Any) -> Any:
        if self.connection.is_open:
            try:
                return CALLS[name](self.record.run_id, *values)
            except Exception as error:  # a failure of the tracking server must not fail a stage
                self.connection.close(error)
        self.record.calls.append((name, *values))
        return None


@contextmanager
def run(stage: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> Iterator[Run]:
    """A run of `stage` in the experiment `lop`; PARENT, if set, gives its parent run."""
    record = Record(stage, {"stage": stage, **tags}, os.environ.get(PARENT))
    with _open(record, params, Connection()) as opened:
        yield opened


def searches(
    samples: pd.DataFrame,
    params: Mapping[str, Any],
    settings: Mapping[str, Mapping[str, Any]],
    tags: Mapping[str, str],
    inputs: Mapping[str, str] | None = None,
) -> None:
    """Log a table of search samples as a run of the stage, with a child run for each search.

    `params` are common to all searches; `settings` are those of each searcher, by name. Each search
    is logged once, identified by its fingerprint: searches that are logged already are skipped, and
    searches that a killed stage finished but did not log are logged now.
    """
    # torch takes seconds to import, and the pipeline's own run does not need it
    from lop.search.shards import curve

    with run("search", params, tags) as stage:
        stage.inputs(inputs or {})
        for key, rows in samples.groupby("fingerprint", sort=False):
            if stage.active and queue.find(store.connect(), "fingerprint", str(key)):
                continue
            search = {name: rows[name].iloc[0] for name in ("searcher", "target", "seed")}
            name = f"search {search['searcher']} {search['target']:g} seed {search['seed']}"
            search_tags = {"stage": "search", "fingerprint": str(key), **tags}
            search_params = {**params, **settings.get(search["searcher"], {}), **search}
            with stage.child(name, search_params, search_tags, once="fingerprint") as child:
                child.curve(curve(rows), step="simulation")


@contextmanager
def _open(record: Record, params: Mapping[str, Any], connection: Connection) -> Iterator[Run]:
    mlflow, opened = None, Run(record, connection)
    if connection.is_open:
        try:
            mlflow = store.connect()
            parent = None if (record.parent or WAITING).startswith(WAITING) else record.parent
            started = mlflow.start_run(
                run_name=record.name, nested=True, parent_run_id=parent, tags=record.tags
            )
            record.run_id = started.info.run_id
        except Exception as error:
            connection.close(error)
    opened._call("params", {name: str(value) for name, value in params.items()})
    record.status = "FAILED"
    try:
        yield opened
        record.status = "FINISHED"
    finally:
        record.ended = now()
        if record.run_id:
            _end(mlflow, record, connection)
        if not connection.is_open:
            queue.keep(record)


def _end(mlflow: Any, record: Record, connection: Connection) -> None:
    try:
        mlflow.end_run(record.status)
    except Exception as error:
        if connection.is_open:
            connection.close(error)
