"""Everything lop says to MLflow: runs, metrics, and the registry of predictors.

Tracking never costs a stage its result: when the server cannot be reached, one warning says so and
the work goes on.
"""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lop.errors import LopError
from lop.files import replacing_dir
from lop.predictor import Predictor
from lop.search import curve

EXPERIMENT = "lop"
PREDICTOR_NAME = "lop-predictor"


class Run:
    """An MLflow run, or nothing when tracking is out of reach; the calls are the same."""

    def __init__(self, active: bool) -> None:
        self.active = active

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers, keyed by name."""
        if self.active:
            import mlflow

            mlflow.log_metrics(dict(values), step=step)

    def curve(self, table: pd.DataFrame, step: str) -> None:
        """Log every column of `table` as a metric over its column `step`, in one call."""
        if not self.active:
            return
        import mlflow
        from mlflow.entities import Metric

        run = mlflow.active_run()
        assert run is not None
        points = [
            Metric(name, float(value), 0, int(row[step]))
            for row in table.to_dict("records")
            for name, value in row.items()
            if name != step and pd.notna(value)
        ]
        client = mlflow.MlflowClient()
        for start in range(0, len(points), 1000):
            client.log_batch(run.info.run_id, metrics=points[start : start + 1000])

    def artifact(self, path: str | Path) -> None:
        """Attach a file or a directory to the run."""
        if self.active:
            import mlflow

            (mlflow.log_artifacts if Path(path).is_dir() else mlflow.log_artifact)(str(path))

    def register_predictor(self, path: str | Path) -> str | None:
        """Log the predictor directory as a pyfunc model and register it; returns its version.

        The model is code plus safetensors, no pickle: ratios in, plans out.
        """
        if not self.active:
            return None
        import mlflow

        config = Predictor.from_pretrained(path).config
        example = pd.DataFrame({"ratio": [config.min_ratio, config.max_ratio]})
        plan = [[1.0 / 3] * len(config.widths)] * 2
        output = pd.DataFrame({"ratios": plan, "kept": [list(config.widths)] * 2})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow's advice on type hints and examples
            info = mlflow.pyfunc.log_model(
                name="predictor",
                python_model=str(Path(__file__).parent / "predictor" / "pyfunc.py"),
                artifacts={"predictor": str(path)},
                signature=mlflow.models.infer_signature(example, output),
                pip_requirements=["lop"],
                registered_model_name=PREDICTOR_NAME,
                metadata={"model_fingerprint": config.model_fingerprint},
            )
        return str(info.registered_model_version)


@contextmanager
def run(stage: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> Iterator[Run]:
    """A run of `stage` in the experiment `lop`; MLFLOW_TRACKING_URI, else sqlite here."""
    try:
        mlflow = _connect()
        active = mlflow.start_run(run_name=stage, tags={"stage": stage, **tags})
        mlflow.log_params({k: str(v) for k, v in params.items()})
    except Exception as error:  # any failure of a tracking server must not fail the stage
        _warn(error)
        yield Run(active=False)
        return
    with active:
        yield Run(active=True)


def searches(
    samples: pd.DataFrame,
    params: Mapping[str, Any],
    settings: Mapping[str, Mapping[str, Any]],
    tags: Mapping[str, str],
) -> None:
    """Log each search of a table of samples as a run, with its curve by simulation.

    `params` are those of all, `settings` those of each searcher, by its name.
    A search is logged once, known by its fingerprint: kept shards add nothing, and what a killed
    stage had searched but not logged is made up for.
    """
    try:
        mlflow = _connect()
        query = "tags.stage = 'search' and attributes.status = 'FINISHED'"
        found = mlflow.search_runs(
            experiment_names=[EXPERIMENT], filter_string=query, output_format="list"
        )
    except Exception as error:
        _warn(error)
        return
    known = {run.data.tags.get("fingerprint") for run in found}
    for key, rows in samples.groupby("fingerprint", sort=False):
        if key in known:
            continue
        which = {name: rows[name].iloc[0] for name in ("searcher", "target", "seed")}
        name = f"search {which['searcher']} {which['target']:g} seed {which['seed']}"
        marks = {"stage": "search", "fingerprint": str(key), **tags}
        with run(name, {**params, **settings[which["searcher"]], **which}, marks) as one:
            one.curve(curve(rows), step="simulation")
            if not one.active:
                return


@dataclass(frozen=True)
class Version:
    """A version of a registered predictor."""

    name: str
    number: str


def version_of(alias: str, name: str = PREDICTOR_NAME) -> Version:
    """The version that an alias points at; LopError when there is none or no registry."""
    with _registry() as mlflow:
        found = mlflow.MlflowClient().get_model_version_by_alias(name, alias)
        return Version(name, str(found.version))


def predictor_path(uri: str, cache: Path) -> Path:
    """The directory of the predictor `models:/NAME/VERSION`, downloaded to `cache`.

    Raises LopError when there is no such version or no registry.
    """
    path = cache / uri.removeprefix("models:/").replace("/", "-")
    with _registry() as mlflow, replacing_dir(path, like="config.json") as tmp:
        whole = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp / "model")))
        flavor = mlflow.models.Model.load(str(whole)).flavors["python_function"]
        for part in (whole / flavor["artifacts"]["predictor"]["path"]).iterdir():
            part.rename(tmp / part.name)
        shutil.rmtree(tmp / "model")
    return path


@contextmanager
def _registry() -> Iterator[Any]:
    try:
        yield _mlflow()
    except Exception as error:  # a client's transport errors share no base
        uri = os.environ["MLFLOW_TRACKING_URI"].split("@")[-1]
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LopError(f"MLflow's registry at {uri}: {reason}") from error


def _connect() -> Any:
    mlflow = _mlflow()
    mlflow.set_experiment(EXPERIMENT)
    return mlflow


def _mlflow() -> Any:
    os.environ.setdefault("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    return mlflow


def _warn(error: Exception) -> None:
    uri = os.environ["MLFLOW_TRACKING_URI"].split("@")[-1]
    warnings.warn(f"MLflow at {uri} is out of reach, not tracking: {error}", stacklevel=4)
