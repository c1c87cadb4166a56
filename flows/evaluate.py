"""Stage 7: dense and pruned checkpoints on the benchmark, with their size, memory and latency."""

from prefect import flow

from flows.common import EVALUATION, PRUNED, SAMPLES, hashes, origin, params, placed, run_stage
from flows.tasks import as_tasks
from lop import steps, tracking


@flow
def evaluate() -> None:
    """Write answers and metrics of every model to data/evaluation; log each to MLflow."""
    place, settings = placed("evaluate")
    model, benchmark = params("model")["path"], SAMPLES / "benchmark.parquet"
    each = as_tasks(place, ["lop.evaluation"], fresh=True)
    results = steps.evaluate(EVALUATION, model, PRUNED, benchmark, each=each, **settings)
    marks = origin()
    with tracking.run("evaluate", settings, marks) as stage:
        stage.inputs(hashes(benchmark, PRUNED))
        for name, values in results.items():
            tags = marks | {"stage": "evaluate", "model": name}
            with stage.child(f"evaluate {name}", settings, tags) as run:
                run.metrics({k: v for k, v in values.items() if isinstance(v, int | float)})


if __name__ == "__main__":
    run_stage(evaluate, "evaluate")
