"""The overhead of Prefect and DVC: a stage as a flow, and in the pipeline, against the library.

`python -m benchmarks.overhead` takes a few minutes and writes docs/results/overhead.md.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import httpx
import yaml

from benchmarks.clone import copy, set_params
from benchmarks.common import RESULTS, origin
from flows.server import prefect_server
from lop.evaluation.comparison import markdown
from lop.files import replacing

SMALL = {"calibration": 20, "reward": 20, "validation": 20, "benchmark": 20}

# each stage by the library alone, with the same files
CALLS = {
    "prepare": "given = params('prepare'); preparing.prepare(Path('data/samples'), "
    "given['source'], given['seed'], {name: given[name] for name in PURPOSES})",
    "importance": "scoring.importance(Path('data/importance'), 'data/reference', "
    "Path('data/samples/calibration.parquet'), "
    "reward_path=Path('data/samples/reward.parquet'), **params('importance'))",
    "train": "training.train(Path('data/predictor'), Path('data/training'), Path('data/search'), "
    "Path('data/importance/flap.safetensors'), profile_path=Path('data/profile.parquet'), "
    "**params('train'))",
}
PRELUDE = """
from pathlib import Path
import yaml
from lop.steps import preparing, scoring, training
from lop.data.prepare import PURPOSES
def params(section): return yaml.safe_load(Path("params.yaml").read_text())[section]
"""


def measure(place: Path, env: dict[str, str], command: list[str]) -> tuple[float, float]:
    """Wall-clock and processor seconds of a command."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=place, env=env, check=True, stdout=subprocess.DEVNULL)
    after, taken = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - begun
    return taken, (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


def clone(place: Path) -> None:
    """A copy of this repository with a small pipeline."""
    copy(place)
    subprocess.run(["git", "init", "-q"], cwd=place, check=True)
    set_params(place, "prepare", **SMALL)
    set_params(place, "profile", shares=[0.3, 0.6])
    set_params(place, "search", targets=[0.2, 0.5], workers=1)
    params = yaml.safe_load((place / "params.yaml").read_text())
    set_params(place, "search", settings=params["search"]["settings"] | {"simulations": 4})
    set_params(place, "train", fit_options=params["train"]["fit_options"] | {"epochs": 5})


def task_seconds(url: str) -> dict[str, float]:
    """Seconds of each task of the last pipeline run, from Prefect."""
    latest = {"flows": {"name": {"any_": ["pipeline"]}}, "sort": "EXPECTED_START_TIME_DESC"}
    run = httpx.post(f"{url}/flow_runs/filter", json=latest | {"limit": 1}).json()[0]
    which = {"flow_runs": {"id": {"any_": [run["id"]]}}}
    tasks = httpx.post(f"{url}/task_runs/filter", json=which).json()
    return {task["name"]: task["total_run_time"] for task in tasks}


def run(repeats: int) -> str:
    """Measure all, and return the page."""
    rows: dict[str, dict[str, list[tuple[float, float]]]] = {}
    with tempfile.TemporaryDirectory() as folder, prefect_server() as url:
        place = Path(folder)
        clone(place)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env = os.environ | {"PREFECT_API_URL": url, "PYTHONPATH": str(place), "PATH": path}
        whole = [sys.executable, "-m", "flows.pipeline", "train"]
        measure(place, env, whole)  # everything once: databases, byte code, search samples
        for seed in range(1, repeats + 1):
            set_params(place, "prepare", seed=seed)
            set_params(place, "train", seed=seed)
            measure(place, env, whole)
            under = task_seconds(url)
            for stage, call in CALLS.items():  # each on the files of the pipeline's run
                entry = rows.setdefault(stage, {"library": [], "flow": [], "pipeline": []})
                entry["library"].append(measure(place, env, [sys.executable, "-c", PRELUDE + call]))
                flow = [sys.executable, "-m", f"flows.{stage}"]
                entry["flow"].append(measure(place, env, flow))
                entry["pipeline"].append((under[stage], float("nan")))
    return page(rows)


def page(rows: dict[str, dict[str, list[tuple[float, float]]]]) -> str:
    """A row for each stage: medians, and the time added by flow and pipeline."""
    lines = [["stage", "library", "flow", "flow adds", "of it processor", "pipeline adds"]]
    lines.append(["---"] * 6)
    for stage, kinds in rows.items():
        plain, flow, walked = (
            median(taken for taken, _ in kinds[kind]) for kind in ("library", "flow", "pipeline")
        )
        busy = median(b for _, b in kinds["flow"]) - median(b for _, b in kinds["library"])
        cells = [plain, flow, flow - plain, busy, walked - plain]
        lines.append([stage, *(f"{cell:.1f}" for cell in cells)])
    times, load = len(rows["prepare"]["flow"]), os.getloadavg()[2]
    return f"""# Overhead

{origin()}

Seconds, median of {times}, on {os.cpu_count()} cores with a load of {load:.1f} (mean of 15 minutes;
above the number of cores, everything takes longer), with a Prefect server and a small pipeline.
*library* is the step alone in a Python process of its own; *flow* is `python -m flows.<stage>`;
*pipeline* is the stage's task in `python -m flows.pipeline`, with DVC.

{markdown(lines)}
"""


def main() -> None:
    """Write docs/results/overhead.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    text = run(parser.parse_args().repeats)
    with replacing(RESULTS / "overhead.md") as tmp:
        tmp.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
