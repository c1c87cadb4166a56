"""Runs of the pipeline and its stages: MLflow's, or kept for later while it is out of reach."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from lop.tracking import checkpoints, queue, store
from lop.tracking.queue import WAITING, Record, now
from lop.tracking.sayings import SAYINGS

PARENT = "LOP_PARENT_RUN"  # the environment variable by which a pipeline names its run to a stage


class Line:
    """The connection to MLflow: once cut, it stays so for a run and its children."""

    up = True

    def cut(self, error: Exception) -> None:
        """Say once that what follows goes to the queue."""
        self.up = False
        where = f"{store.where()} is out of reach"
        warnings.warn(f"MLflow at {where}, run `lop track` when it is back: {error}", stacklevel=4)


class Run:
    """A run. What it is told goes to MLflow, or while that is out of reach to the queue."""

    def __init__(self, record: Record, line: Line) -> None:
        self.record = record
        self.line = line

    @property
    def active(self) -> bool:
        """Does MLflow hear it?"""
        return self.line.up

    @property
    def id(self) -> str:
        """What a child in another process is given as its parent (in PARENT)."""
        return self.record.as_parent

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log numbers, keyed by name."""
        time = now()
        self._say("metrics", [(name, float(value), time, step) for name, value in values.items()])

    def curve(self, table: pd.DataFrame, step: str) -> None:
        """Log every column of `table` as a metric over its column `step`, in one call."""
        points = [
            (name, float(value), 0, int(row[step]))
            for row in table.to_dict("records")
            for name, value in row.items()
            if name != step and pd.notna(value)
        ]
        self._say("metrics", points)

    def inputs(self, hashes: Mapping[str, str]) -> None:
        """Log the data sets that went in: path to the hash by which DVC keeps it."""
        self._say("inputs", dict(hashes))

    def artifact(self, path: str | Path) -> None:
        """Attach a file or a directory to the run."""
        self._say("artifact", str(path))

    def register_kit(self, path: str | Path) -> str | None:
        """Log the kit as a pyfunc model, register it as the challenger.

        Returns its version, None if that has to wait. The model is code plus safetensors, no
        pickle: ratios in, plans out. With no champion yet, it is that too.
        """
        return self._say("register", str(path))

    def register_checkpoint(
        self,
        path: Path,
        figures: Mapping[str, float],
        tags: Mapping[str, str],
        copied_mb: float = checkpoints.COPIED_MB,
        model: str | None = None,
    ) -> str | None:
        """Log a pruned checkpoint and register it; returns its version, None if that has to wait.

        `figures` are the evaluation's, `tags` say where it came from (commit, data hashes). Above
        `copied_mb` the version only names the place of the weights. `model` is what it is a
        version of (default: what it was cut out of).
        """
        by_name = checkpoints.size(path) > copied_mb * 1e6
        what = "checkpoint_by_name" if by_name else "checkpoint"
        return self._say(what, str(path.resolve()), dict(figures), dict(tags), model)

    @contextmanager
    def child(
        self, name: str, params: Mapping[str, Any], tags: Mapping[str, str], once: str | None = None
    ) -> Iterator[Run]:
        """A run inside this one. With `once`, runs with the same value of that tag are one."""
        with _open(Record(name, dict(tags), self.id, once=once), params, self.line) as run:
            yield run

    def _say(self, what: str, *said: Any) -> Any:
        if self.line.up:
            try:
                return SAYINGS[what](self.record.run_id, *said)
            except Exception as error:  # no failure of a tracking server may fail a stage
                self.line.cut(error)
        self.record.calls.append((what, *said))
        return None


@contextmanager
def run(stage: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> Iterator[Run]:
    """A run of `stage` in the experiment `lop`, inside the pipeline's when there is one."""
    record = Record(stage, {"stage": stage, **tags}, os.environ.get(PARENT))
    with _open(record, params, Line()) as opened:
        yield opened


def searches(
    samples: pd.DataFrame,
    params: Mapping[str, Any],
    settings: Mapping[str, Mapping[str, Any]],
    tags: Mapping[str, str],
    inputs: Mapping[str, str] | None = None,
) -> None:
    """Log a table of samples as a run of the stage, each search in it as one inside that.

    `params` are those of all, `settings` those of each searcher, by its name.
    A search is logged once, known by its fingerprint: kept shards add nothing, and what a killed
    stage had searched but not logged is made up for.
    """
    from lop.search.shards import curve  # torch takes seconds to import: not for a pipeline's run

    with run("search", params, tags) as stage:
        stage.inputs(inputs or {})
        for key, rows in samples.groupby("fingerprint", sort=False):
            if stage.active and queue.find(store.connect(), "fingerprint", str(key)):
                continue
            which = {name: rows[name].iloc[0] for name in ("searcher", "target", "seed")}
            name = f"search {which['searcher']} {which['target']:g} seed {which['seed']}"
            marks = {"stage": "search", "fingerprint": str(key), **tags}
            knobs = {**params, **settings.get(which["searcher"], {}), **which}
            with stage.child(name, knobs, marks, once="fingerprint") as one:
                one.curve(curve(rows), step="simulation")


@contextmanager
def _open(record: Record, params: Mapping[str, Any], line: Line) -> Iterator[Run]:
    mlflow, one = None, Run(record, line)
    if line.up:
        try:
            mlflow = store.connect()
            parent = None if (record.parent or WAITING).startswith(WAITING) else record.parent
            started = mlflow.start_run(
                run_name=record.name, nested=True, parent_run_id=parent, tags=record.tags
            )
            record.run_id = started.info.run_id
        except Exception as error:
            line.cut(error)
    one._say("params", {name: str(value) for name, value in params.items()})
    record.status = "FAILED"
    try:
        yield one
        record.status = "FINISHED"
    finally:
        record.ended = now()
        if record.run_id:
            _end(mlflow, record, line)
        if not line.up:
            queue.keep(record)


def _end(mlflow: Any, record: Record, line: Line) -> None:
    try:
        mlflow.end_run(record.status)
    except Exception as error:
        if line.up:
            line.cut(error)
