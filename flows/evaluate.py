"""Stage 7: dense and pruned checkpoints on the benchmarks, with their size, memory and latency."""

from prefect import flow

from flows.common import EVALUATION, PRUNED, SAMPLES, git_commit, params, placed, run_stage
from flows.tasks import as_tasks
from lop import steps, tracking


@flow
def evaluate() -> None:
    """Write answers and metrics of every model to data/evaluation; log each to MLflow."""
    place, settings = placed("evaluate")
    model, benchmark = params("model")["path"], SAMPLES / "benchmark.parquet"
    each = as_tasks(place, steps.EVALUATION_MODULES, fresh=True)
    results = steps.evaluate(EVALUATION, model, PRUNED, benchmark, each=each, **settings)
    commit = git_commit()
    for name, values in results.items():
        tags = {"git_commit": commit, "model": name}
        with tracking.run(f"evaluate {name}", settings, tags) as run:
            run.metrics({k: v for k, v in values.items() if isinstance(v, int | float)})
            for task, found in values["tasks"].items():
                run.metrics({f"{task}/{k}": v["value"] for k, v in found["metrics"].items()})


if __name__ == "__main__":
    run_stage(evaluate, "evaluate")
