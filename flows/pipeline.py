"""The whole pipeline as one Prefect flow: `python -m flows.pipeline`.

It walks dvc.yaml's graph and lets DVC reproduce one stage after another, each as a task with its
own state, log and retry. The graph is defined only in dvc.yaml: a stage added there becomes a task.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import networkx
import psutil
from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import TerminationSignal
from prefect.runtime import task_run
from prefect.states import Completed, State

from flows import artifacts
from flows.common import PARENT_TASK, origin, params
from flows.reasons import reason
from flows.server import prefect_server
from flows.workspace import workspace
from lop import errors, tracking
from lop.errors import LopError

RETRIES = 1  # retries of a stage that fails for another reason than bad input
PATIENCE = 10  # seconds for a cancelled stage to stop, and then for DVC; Prefect allows 30


class StageFailed(Exception):
    """A stage failed; the message is the line with the reason."""


@flow(name="pipeline")
def pipeline(
    stages: list[str] | None = None, set_params: list[str] | None = None, new_seed: bool = False
) -> None:
    """Bring the pipeline up to date, as `dvc repro` does.

    Args:
        stages: Up to these stages only, with all that they depend on. Default: everything.
        set_params: Values other than params.yaml's, for this run alone: search.seeds=[0,1]. What
            comes out is kept as a DVC experiment; the working tree stays as it is.
        new_seed: Search with one more seed, made of this year and week.
    """
    overrides = [*(set_params or []), *([_week_seed()] if new_seed else [])]
    with workspace(overrides) as place:
        tags = origin() | {"overrides": " ".join(overrides)}
        with tracking.run("pipeline", {"stages": stages or "all"}, tags) as run:
            env = environment(run.id)
            for stage in in_order(place, stages):
                one = task(
                    name=stage,
                    task_run_name=stage,
                    retries=RETRIES,
                    retry_condition_fn=lambda _task, _run, state: isinstance(
                        state.data, StageFailed
                    ),
                    cache_policy=NO_CACHE,
                )(reproduce)
                one(stage, place, env)


def in_order(place: Path, stages: list[str] | None = None) -> list[str]:
    """The stages of dvc.yaml in topological order.

    Raises LopError for an unknown stage.
    """
    from dvc.repo import Repo

    with Repo(str(place)) as repo:
        graph = repo.index.graph
        names = {_address(stage): stage for stage in graph}
        if unknown := sorted(set(stages or []) - set(names)):
            raise LopError(f"dvc.yaml: no stage {unknown[0]!r}; it has {', '.join(names)}")
        roots = [names[stage] for stage in stages or names]
        wanted = set(roots).union(*(networkx.descendants(graph, root) for root in roots))
        order = networkx.dfs_postorder_nodes(graph)
        return [_address(stage) for stage in order if stage in wanted]


def _address(stage: Any) -> str:
    """DVC's name of a stage in the directory of its repository."""
    file, name = stage.path_in_repo, getattr(stage, "name", None)
    if name is None:
        return file
    return name if file == "dvc.yaml" else f"{file}:{name}"


def environment(run: str) -> dict[str, str]:
    """A stage's environment: this Python, the MLflow of this directory, and the parent task."""
    here, python = Path.cwd(), Path(sys.executable).parent
    # variables that a worker sets for the process of a run are not passed on to its stages
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT__")}
    return inherited | {
        "PATH": f"{python}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONUNBUFFERED": "1",
        tracking.URI: tracking.default_uri(here),
        tracking.QUEUE: str(tracking.queue.folder().absolute()),
        tracking.PARENT: run,
    }


def reproduce(stage: str, place: Path, env: dict[str, str]) -> State[None] | None:
    """Run one stage with DVC; returns a state named Cached if there is nothing to do.

    Raises LopError with the stage's own line for bad input, else StageFailed.
    """
    logger, said = get_run_logger(), []
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", stage]
    with _started(command, place, env | {PARENT_TASK: str(task_run.id)}) as process:
        assert process.stdout
        for line in process.stdout:
            said.append(line.rstrip())
            logger.info("%s", said[-1])
        code = process.wait()
    if code:
        raise failure(said)
    artifacts.of_stage(stage, place)
    if any(line.startswith("Running stage") for line in said):
        return None
    return Completed(name="Cached", message="nothing that it depends on has changed")


def failure(said: list[str]) -> Exception:
    """The exception for a failed stage with this output."""
    line = reason("\n".join(said))
    may_pass = any(each.endswith(f"exited with {errors.TRY_AGAIN}") for each in said)
    if line.startswith("lop: ") and not may_pass:
        return LopError(line.removeprefix("lop: "))
    return StageFailed(line.removeprefix("lop: "))


@contextmanager
def _started(
    command: list[str], place: Path, env: dict[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """A process that is stopped with all its children if the block is left early.

    After an interrupt DVC releases its locks; if it has not enough time, its next run clears them.
    """
    process = subprocess.Popen(
        command,
        cwd=place,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            _stop(process)


def _stop(process: subprocess.Popen[str]) -> None:
    """Interrupt DVC and its stage; kill processes that do not stop, DVC last, so that it can
    release its locks."""
    os.killpg(process.pid, signal.SIGINT)
    for kill in (_kill_below, lambda _: os.killpg(process.pid, signal.SIGKILL)):
        try:
            process.wait(PATIENCE)
            break
        except subprocess.TimeoutExpired:  # threads in a search may not see an interrupt
            kill(process.pid)
    process.wait()


def _kill_below(number: int) -> None:
    for child in psutil.Process(number).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()


def _week_seed() -> str:
    """An override that adds a seed for the current week."""
    year, week, _ = datetime.now(UTC).isocalendar()
    return f"search.seeds={[*params().search.seeds, 100 * year + week]}".replace(" ", "")


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description=__doc__)
    parser.add_argument("stages", nargs="*", help="up to these stages only; default: all")
    parser.add_argument(
        "-S", "--set-param", action="append", metavar="NAME=VALUE",
        help="for this run alone; what comes out is kept as a DVC experiment",
    )  # fmt: skip
    parser.add_argument("--new-seed", action="store_true", help="search with one more seed")
    return parser


def main() -> int:
    """The command line; a failed stage gives one line and exit code 1, or 2 for bad input."""
    args = parser().parse_args()
    # a shell starts background processes with interrupts ignored, and children inherit this
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Prefect marks the run and passes the signal on; open blocks must still be closed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    return errors.run(_run, args)


def _run(args: argparse.Namespace) -> int:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    try:
        with prefect_server() as url, temporary_settings({PREFECT_API_URL: url}):
            os.environ["PREFECT_API_URL"] = url
            pipeline(args.stages or None, args.set_param, args.new_seed)
    except StageFailed as error:
        print(f"lop: {error}", file=sys.stderr)
        return 1
    except TerminationSignal:
        return 128 + signal.SIGTERM
    return 0


if __name__ == "__main__":
    sys.exit(main())
