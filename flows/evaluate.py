"""Stage 7: dense and pruned checkpoints on the benchmark, with their size, memory and latency."""

from prefect import flow

from flows.common import EVALUATION, PRUNED, SAMPLES, as_tasks, git_commit, params, run_stage
from lop import steps, tracking


@flow
def evaluate() -> None:
    """Write answers and metrics of every model to data/evaluation; log each to MLflow."""
    settings, model = params("evaluate"), params("model")["path"]
    benchmark = SAMPLES / "benchmark.parquet"
    results = steps.evaluate(EVALUATION, model, PRUNED, benchmark, each=as_tasks, **settings)
    commit = git_commit()
    for name, values in results.items():
        tags = {"git_commit": commit, "model": name}
        with tracking.run(f"evaluate {name}", settings, tags) as run:
            run.metrics({k: v for k, v in values.items() if isinstance(v, int | float)})


if __name__ == "__main__":
    run_stage(evaluate)
