"""Stage 8: dense and pruned checkpoints on the benchmarks, with their size, memory and latency."""

from prefect import flow

from flows.common import (
    EVALUATION,
    IMPORTANCE,
    PRUNED,
    RECOVERED,
    SAMPLES,
    data_versions,
    evaluations,
    hashes,
    origin,
    params,
    run_stage,
)
from flows.tasks import as_tasks
from lop import tracking
from lop.plan import RECOVERED as SUFFIX
from lop.steps import evaluating
from lop.tracking import checkpoints


@flow
def evaluate() -> None:
    """Write answers and metrics of every model to data/evaluation; log each, and register LOP's."""
    chosen, benchmark = params(), SAMPLES / "benchmark.parquet"
    settings = chosen.evaluate.model_dump(include={"tasks", "batch_size", "latency_samples"})
    model, copied_mb = chosen.model.path, chosen.evaluate.register_copied_mb
    each = as_tasks(evaluations(), evaluating.MODULES, fresh=True)
    trained = any(name.endswith(SUFFIX) for name in chosen.prune.methods)
    places = (EVALUATION, model, PRUNED, benchmark)
    whole = RECOVERED if trained else None
    results = evaluating.evaluate(
        *places, each=each, recovered=whole, scores_dir=IMPORTANCE, **settings
    )
    marks, versions = origin(), data_versions()
    with tracking.run("evaluate", settings, marks) as stage:
        stage.inputs(hashes(benchmark, PRUNED))
        for name, values in results.items():
            tags = marks | {"stage": "evaluate", "model": name}
            with stage.child(f"evaluate {name}", settings, tags) as run:
                figures = checkpoints.flat(values)
                if chosen.evaluate.registers and checkpoints.deployable(PRUNED / name):
                    place, tags = PRUNED / name, tags | versions
                    run.register_checkpoint(place, figures, tags, copied_mb, model)
                else:  # whole models, baselines, and checkpoints that are not kept
                    run.metrics(figures)


if __name__ == "__main__":
    run_stage(evaluate, evaluations)
