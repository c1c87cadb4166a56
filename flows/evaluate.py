"""Stage 7: dense and pruned checkpoints on the benchmarks, with their size, memory and latency."""

from prefect import flow

from flows.common import (
    EVALUATION,
    PRUNED,
    SAMPLES,
    data_versions,
    git_commit,
    params,
    placed,
    run_stage,
)
from flows.tasks import as_tasks
from lop import registry, steps, tracking


@flow
def evaluate() -> None:
    """Write answers and metrics of every model to data/evaluation; log and register each."""
    place, settings = placed("evaluate")
    register, copied_mb = settings.pop("register"), settings.pop("register_copied_mb")
    model, benchmark = params("model")["path"], SAMPLES / "benchmark.parquet"
    each = as_tasks(place, steps.EVALUATION_MODULES, fresh=True)
    results = steps.evaluate(EVALUATION, model, PRUNED, benchmark, each=each, **settings)
    commit, versions = git_commit(), data_versions()
    for name, values in results.items():
        tags = {"git_commit": commit, "model": name}
        with tracking.run(f"evaluate {name}", settings, tags) as run:
            known = (run, PRUNED / name, values, tags | versions, copied_mb)
            if name == "dense" or not register or not registry.register(*known):
                run.metrics(registry.flat(values))


if __name__ == "__main__":
    run_stage(evaluate, "evaluate")
