"""How many plans a second `lop serve` gives, and how soon, to clients over HTTP.

`python -m benchmarks.serving` takes about a minute and writes docs/results/serving.md. Service and
clients share the machine. Every request asks for another ratio, and every answer is checked.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from benchmarks.common import MODEL, RESULTS, origin
from lop.evaluation.comparison import markdown
from lop.files import replacing
from lop.importance import SCORES, save_scores
from lop.models.checkpoint import load
from lop.models.fingerprints import fingerprint
from lop.models.space import find_space
from lop.plan import Space
from lop.predictor import Predictor, PredictorConfig
from lop.predictor.transformer import PlanTransformer

RANGE = (0.1, 0.6)
GOAL = (200, 50.0)  # plans a second; milliseconds that 99 of 100 wait at most
CHECKED = 50  # answers compared with the predictor's own, each of them


@dataclass(frozen=True)
class Served:
    """What `lop serve` needs of one model: only its config, scores and predictor are read."""

    label: str
    model: Path
    scores: Path
    predictor: Path


def reference(place: Path) -> Served:
    """The embedded reference model, with its weights, so that checkpoints can be cut."""
    model = load(MODEL)
    return _served("reference model", Path(MODEL), place, find_space(model), fingerprint(model))


def seven_billion(place: Path) -> Served:
    """The shape of Qwen2.5-VL-7B, the paper's model; its weights are not needed for plans."""
    text = {"num_hidden_layers": 28, "hidden_size": 3584, "intermediate_size": 18944}
    heads = {"num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064}
    config = Qwen2_5_VLConfig(
        text_config=text | heads, vision_config={"out_hidden_size": 3584}, tie_word_embeddings=False
    )
    config.save_pretrained(place / "model")
    _write_hole(config, place / "model" / "model.safetensors")
    return _served(
        "Qwen2.5-VL-7B's shape", place / "model", place, Space.ffns((18944,) * 28), "no weights"
    )


def _write_hole(config: Qwen2_5_VLConfig, path: Path) -> None:
    """A safetensors file with every tensor in its header, and a hole that takes no room on disk."""
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config)
    header, end = {}, 0
    for name, parameter in model.named_parameters():
        begin, end = end, end + 2 * parameter.numel()
        shape = list(parameter.shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + end)


def _served(label: str, model: Path, place: Path, space: Space, name_of_model: str) -> Served:
    """With a predictor whose weights are drawn: its plans take as long as if it were trained."""
    generator = torch.Generator().manual_seed(0)
    for name in SCORES:
        sites = [torch.rand(units, generator=generator) for units in space.units]
        save_scores(sites, place / "scores" / f"{name}.safetensors", name_of_model, space)
    torch.manual_seed(0)
    predictor = Predictor(PredictorConfig(space, name_of_model, *RANGE))
    assert isinstance(predictor.network, PlanTransformer)
    torch.nn.init.normal_(predictor.network.head.weight, std=0.1)
    predictor.save_pretrained(place / "predictor")
    return Served(label, model, place / "scores", place / "predictor")


@contextmanager
def service(what: Served, out: Path) -> Iterator[int]:
    """`lop serve` in a process of its own; gives its port."""
    places = {"predictor": what.predictor, "model": what.model, "scores": what.scores, "out": out}
    options = [f"--{name}={place}" for name, place in places.items()]
    run = "import sys; from lop.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", run, "serve", *options, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit("lop serve did not start")
        yield int(line.split()[0].rsplit(":", 1)[1])
    finally:
        process.terminate()
        process.wait(60)


def ask(connection: http.client.HTTPConnection, path: str, body: dict) -> dict:
    """POST and read the answer; the connection stays open."""
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    if response.status not in (200, 202):
        raise SystemExit(f"{path}: {response.status}: {answer}")
    return answer


def load_test(port: int, requests: int, clients: int) -> tuple[list[dict], np.ndarray, float]:
    """Each client asks for its share of distinct ratios, one after the other, as fast as it can.

    Returns answers, milliseconds of each, and seconds of all.
    """
    ratios = np.random.default_rng(0).permutation(np.linspace(*RANGE, requests))
    answers: list[dict] = []
    times: list[float] = []

    def client(mine: Sequence[float]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for ratio in mine:
            begun = time.perf_counter()
            answers.append(ask(connection, "/plans", {"ratio": float(ratio)}))
            times.append(1000 * (time.perf_counter() - begun))
        connection.close()

    threads = [threading.Thread(target=client, args=(ratios[i::clients],)) for i in range(clients)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers, np.array(times), time.perf_counter() - begun


def cpu_seconds(port: int) -> float:
    """CPU time that the service has taken so far, as it says itself."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    name = "process_cpu_seconds_total "
    return next(float(line.removeprefix(name)) for line in lines if line.startswith(name))


def check(answers: Sequence[dict], requests: int, predictor: Predictor) -> None:
    """Every answer is on its budget, and no other than the predictor gives when asked alone."""
    if len({answer["ratio"] for answer in answers}) != requests:
        raise SystemExit(f"{len(answers)} answers to {requests} requests")
    for i, answer in enumerate(answers):
        space = predictor.config.space
        if space.cost(answer["kept"]) != space.budget(answer["ratio"]):
            raise SystemExit(f"off its budget: {answer}")
        if i < CHECKED and tuple(answer["kept"]) != predictor.plan(answer["ratio"]).kept:
            raise SystemExit(f"not the predictor's plan: {answer}")


def measure(what: Served, out: Path, requests: int, clients: int, jobs: int) -> list[str]:
    """One row of the table; with `jobs`, as many checkpoints are cut meanwhile."""
    with service(what, out) as port:
        load_test(port, 10 * clients, clients)
        for job in range(jobs):
            connection = http.client.HTTPConnection("127.0.0.1", port)
            ask(connection, "/checkpoints", {"ratio": 0.3, "name": f"job-{job}"})
        before = cpu_seconds(port)
        answers, times, seconds = load_test(port, requests, clients)
        cpu = 1000 * (cpu_seconds(port) - before) / requests
    check(answers, requests, Predictor.from_pretrained(what.predictor))
    rate, (half, most) = requests / seconds, np.percentile(times, [50, 99])
    met = "yes" if rate >= GOAL[0] and most < GOAL[1] else "no"
    label = what.label + (", checkpoints being cut" if jobs else "")
    numbers = [f"{value:.1f}" for value in (half, most, times.max(), cpu)]
    cells = [label, f"{rate:.0f}", *numbers, met]
    print(" | ".join(cells), flush=True)
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--clients", type=int, default=8)
    args = parser.parse_args()
    head = [
        "",
        "plans a second",
        "median, ms",
        "p99, ms",
        "longest, ms",
        "CPU a plan, ms",
        "goal met",
    ]
    load = os.getloadavg()[0]
    rows = [head, ["---"] * len(head)]
    with tempfile.TemporaryDirectory() as name:
        for i, (make, jobs) in enumerate([(reference, 0), (reference, 6), (seven_billion, 0)]):
            place = Path(name) / str(i)
            rows.append(measure(make(place), place / "out", args.requests, args.clients, jobs))
    text = f"""# Serving: plans over HTTP

{origin()}

`lop serve` in one process, {args.clients} clients in another, keep-alive connections, on
{os.cpu_count()} cores that both share; {args.requests} requests, each for another ratio, after
{10 * args.clients} to warm up. The goal is at least {GOAL[0]} plans a second with p99 under
{GOAL[1]:.0f} ms. Every answer was on its budget, and the first {CHECKED} were compared with what
the predictor says when asked alone. Its weights are drawn, not trained: that takes as long.

The load average of the machine before was {load:.1f}: what is above 0 are others, who take their
share of the cores. The CPU time is the service's own.

{markdown(rows)}
"""
    with replacing(RESULTS / "serving.md") as tmp:
        tmp.write_text(text)


if __name__ == "__main__":
    main()
