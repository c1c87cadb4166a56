"""Stage 7: dense and pruned checkpoints on the benchmarks, with their size, memory and latency."""

from prefect import flow

from flows.common import (
    EVALUATION,
    PRUNED,
    SAMPLES,
    data_versions,
    hashes,
    origin,
    params,
    placed,
    run_stage,
)
from flows.tasks import as_tasks
from lop import steps, tracking
from lop.tracking import checkpoints


@flow
def evaluate() -> None:
    """Write answers and metrics of every model to data/evaluation; log and register each."""
    place, settings = placed("evaluate")
    register, copied_mb = settings.pop("register"), settings.pop("register_copied_mb")
    model, benchmark = params("model")["path"], SAMPLES / "benchmark.parquet"
    each = as_tasks(place, steps.EVALUATION_MODULES, fresh=True)
    results = steps.evaluate(EVALUATION, model, PRUNED, benchmark, each=each, **settings)
    marks, versions = origin(), data_versions()
    with tracking.run("evaluate", settings, marks) as stage:
        stage.inputs(hashes(benchmark, PRUNED))
        for name, values in results.items():
            tags = marks | {"stage": "evaluate", "model": name}
            with stage.child(f"evaluate {name}", settings, tags) as run:
                figures = checkpoints.flat(values)
                if name == "dense" or not register:
                    run.metrics(figures)
                else:
                    run.register_checkpoint(PRUNED / name, figures, tags | versions, copied_mb)


if __name__ == "__main__":
    run_stage(evaluate, "evaluate")
