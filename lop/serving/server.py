"""The start of a service from the command's options, and its HTTP server."""

from __future__ import annotations

import gc
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from filelock import FileLock, Timeout
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from lop.errors import LopError
from lop.files import check_own, replacing_dir
from lop.importance import made_for
from lop.kit import KIT, Kit
from lop.kit.figures import Figures
from lop.models.costs import parameters, size
from lop.predictor import Predictor
from lop.serving.app import Parts, build_app
from lop.serving.champion import Champion, Source, source_of
from lop.serving.connection import Bounds, bounded
from lop.serving.guard import Meters, is_loopback
from lop.serving.jobs import Jobs, Limits
from lop.serving.planner import Planner
from lop.serving.streams import Streams
from lop.steps.pruning import Cutter, cutter_of, kit_at

TOKEN_LENGTH = 16  # at least
KIT_COPY = "kit"
PARTS = ("checkpoints", "jobs", "predictor")  # the subdirectories of `out`
BACKLOG = 128  # connections that wait to be accepted


def serve(
    predictor: str | None,
    model: str,
    scores: Path | None,
    score: str,
    compensate: bool | str,
    out: Path,
    host: str,
    port: int,
    workers: int,
    queue: int,
    keep: int,
    poll: float,
    token_file: Path | None,
    latency_profile: Path | None = None,
    elsewhere: bool = False,
    kit: str | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM.

    Options that are not given are taken from the kit. Raises LopError for bad input before the
    service accepts requests.
    """
    token = read_token(token_file)
    if token is None and not is_loopback(host):
        raise LopError(
            f"--host {host} can be reached from other machines: give --token-file or "
            "LOP_SERVE_TOKEN, or listen at 127.0.0.1"
        )
    check_range("port", port, 0, 65_535)
    for name, value in (("workers", workers), ("queue", queue), ("keep", keep)):
        check_range(name, value, 1, 10_000)
    check_range("poll", poll, 0.1, 86_400)
    # with MLflow's defaults, a poll would detect an unreachable registry only after minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    given = {"predictor_path": predictor, "latency_path": latency_profile, "elsewhere": elsewhere}
    registered = bool(kit and kit.startswith("models:/"))
    found = _kit(kit, out) if kit else None
    cutter = cutter_of(model, found, scores, score, compensate, **given)
    if cutter.predictor_path is None:
        raise LopError("--predictor: expected a predictor, or a kit that has one")
    follows = registered and predictor is None  # poll the kit's alias for new versions
    predictor = str(kit if follows else cutter.predictor_path)
    if latency_profile:
        _ = cutter.latency  # read it now: it must match the current number of threads
    torch.set_num_threads(1)  # faster for the predictor; jobs run in processes of their own
    with listening(host, port) as sock, owned(out):
        if registered and found and found.path != out / KIT_COPY:
            _copy(found, out / KIT_COPY)
        source = source_of(predictor, out / "predictor", found if follows else None)
        figures = found.figures if found and predictor in (kit, str(found.predictor_path)) else None
        limits = Limits(workers, queue, keep)
        parts = put_together(source, cutter, out, limits, poll, figures)
        version, actual_port = parts.champion.served.version, sock.getsockname()[1]
        url = f"http://{f'[{host}]' if ':' in host else host}:{actual_port}"
        line = f"{url} serves {predictor}, version {version}; see {url}/docs"
        print(f"{line}, and {url}/ in a browser", flush=True)
        server = http_server(build_app(parts, token))
        gc.collect()
        gc.freeze()  # without it, full collections visit all of torch's objects and delay requests
        server.run([sock])


def _kit(uri: str, out: Path) -> Kit:
    """The kit at `uri`, a directory or a registry URI. If the registry fails, the copy in `out` of
    the kit that was used last."""
    try:
        return kit_at(uri)
    except LopError:
        if not uri.startswith("models:/") or not (out / KIT_COPY).is_dir():
            raise
        return Kit.load(out / KIT_COPY)


def _copy(kit: Kit, out: Path) -> None:
    with replacing_dir(out, KIT) as tmp:
        shutil.copytree(kit.path, tmp, dirs_exist_ok=True)


def http_server(
    app: FastAPI, bounds: Bounds | None = None, protocol: Any = AutoHTTPProtocol
) -> uvicorn.Server:
    """A uvicorn server for an application, with limits on its connections."""
    bounds = bounds or Bounds()
    config = uvicorn.Config(
        app,
        http=bounded(bounds, protocol),  # type: ignore[arg-type] # uvicorn only calls it
        ws="none",  # otherwise uvicorn accepts WebSocket upgrades without the token
        backlog=BACKLOG,
        log_level="error",  # do not log invalid HTTP from clients
        access_log=False,
        h11_max_incomplete_event_size=2 * bounds.head_bytes,  # above our limit, which gives reasons
        timeout_keep_alive=bounds.idle_seconds,  # type: ignore[arg-type]
        timeout_graceful_shutdown=10,
    )
    return uvicorn.Server(config)


def check_range(option: str, value: float, low: float, high: float) -> None:
    """Raise LopError with the option's name if its value is out of range or NaN."""
    if not low <= value <= high:
        raise LopError(f"--{option} {value:g}: expected {low:g} to {high:g}")


def put_together(
    source: Source,
    cutter: Cutter,
    out: Path,
    limits: Limits,
    poll: float,
    figures: Figures | None = None,
) -> Parts:
    """Create the parts of a service. `figures` belong to the source's current predictor.

    Raises LopError if the predictor and the scores are of different models.
    """
    score, compensate = cutter.scored
    # from the scores' metadata: the model's weights are not read
    space, model_fingerprint = made_for(cutter.scores_dir / f"{score}.safetensors")

    def fits(predictor: Predictor) -> None:
        predictor.check_fits(space, model_fingerprint)

    champion = Champion(source, out / "predictor", fits, poll)
    if cutter.latency_path:
        _ = cutter.latency  # raises LopError if it is of another model or machine

    def with_predictor() -> tuple[Cutter, str]:
        served = champion.served
        return replace(cutter, predictor_path=served.path), served.version

    def ratio_at(kind: str, target: str) -> float:
        if kind == "latency" and cutter.latency_path is None:
            raise LopError("latency: this service has no latency profile; use another target")
        predictor = champion.served.predictor
        return cutter.ratio_at(kind, target, predictor.plan, compensate, predictor)

    return Parts(
        champion,
        Planner(lambda: champion.served),
        Jobs(out, with_predictor, limits),
        Streams(with_predictor, limits.workers),
        Meters(),
        score,
        compensate,
        parameters(cutter.source, space, compensate),
        size(cutter.source, space, compensate),
        ratio_at,
        figures,
        champion.served.version,
    )


def read_token(path: Path | None) -> str | None:
    """The token in the file, else in LOP_SERVE_TOKEN, else None; LopError if it is not valid."""
    if path is None:
        token, source = os.environ.get("LOP_SERVE_TOKEN"), "LOP_SERVE_TOKEN"
    else:
        try:
            token, source = path.read_text().strip(), str(path)
        except (OSError, ValueError) as error:
            raise LopError(f"{path}: cannot read a token: {error}") from error
    if token is None:
        return None
    if len(token) < TOKEN_LENGTH or not token.isascii() or not token.isprintable() or " " in token:
        raise LopError(
            f"{source}: expected a token of {TOKEN_LENGTH} or more ASCII characters without "
            "spaces, such as `openssl rand -hex 32` prints"
        )
    return token


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A listening socket; LopError if the address cannot be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        raise LopError(f"cannot listen at {host} port {port}: {error}") from error
    with sock:
        # otherwise (except with uvloop) Nagle's algorithm and delayed ACKs hold a body for 40 ms
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield sock


@contextmanager
def owned(out: Path) -> Iterator[None]:
    """Create `out` and hold its lock, so that no other service uses it.

    Raises LopError if another service holds it, or if a subdirectory is a link.
    """
    try:
        check_own(out, {".lock", "checkpoints"}.__contains__, "checkpoints of lop serve")
        out.mkdir(parents=True, exist_ok=True)
        for name in PARTS:
            if (out / name).is_symlink():
                raise LopError(f"{out / name}: is a link; expected a directory of lop serve")
            (out / name).mkdir(exist_ok=True)
        held = FileLock(out / ".lock").acquire(blocking=False)
    except Timeout as error:
        raise LopError(f"{out}: another lop serve uses this directory") from error
    except OSError as error:
        raise LopError(f"{out}: cannot write to it: {error.strerror}") from error
    with held:
        yield
