"""What every request passes before anything else looks at it: token, host, size; and the meters.

Plain ASGI: a request that is turned away has cost nothing but its head.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from starlette.exceptions import HTTPException

from lop.serving.jobs import STATES, Jobs

disable_created_metrics()  # a time beside each counter, which nobody reads

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_BYTES = 16_384  # of a request's body
LINGER_SECONDS, LINGER_BYTES = 1.0, 2**20  # of a body that nobody wants
OPEN = ("/health", "/docs", "/openapi.json")  # without a token: they tell nothing of the model
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5)


class Meters:
    """Prometheus metrics of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        labels = ("method", "route", "status")
        self.requests = Counter("lop_requests", "requests", labels, registry=self.registry)
        self.seconds = Histogram(
            "lop_request_seconds", "to the last byte", ("route",),
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.plans = Counter("lop_plans", "plans given", registry=self.registry)
        self.jobs = Gauge("lop_jobs", "pruning jobs", ("state",), registry=self.registry)
        self.stale = Gauge(
            "lop_predictor_stale",
            "1: its source cannot be asked for a newer",
            registry=self.registry,
        )

    def page(self, jobs: Jobs, stale: bool) -> bytes:
        """All of them in Prometheus' text format."""
        for state in STATES:
            self.jobs.labels(state).set(jobs.count(state))
        self.stale.set(stale)
        return generate_latest(self.registry)


class Guard:
    """Lets a request through with the token, or, where none is set, from this machine's names."""

    def __init__(self, app: App, token: str | None, meters: Meters) -> None:
        self.app, self.meters = app, meters
        self.token = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status, headers = time.perf_counter(), 500, dict(scope["headers"])
        body = _Body(receive, headers)

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif not message.get("more_body") and not body.ended:
                await send({**message, "more_body": True})
                await body.drain()
                message = {"type": "http.response.body"}
            await send(message)

        try:
            refusal = self._refusal(scope, headers)
            if refusal:
                await _say(watched, *refusal)
            else:
                await self.app(scope, body.receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.meters.requests.labels(_method(scope), route, status).inc()
            self.meters.seconds.labels(route).observe(time.perf_counter() - begun)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        if self.token is None:
            # A web page can make a browser ask this machine by a name of its own (DNS rebinding).
            host = headers.get(b"host", b"").decode("latin-1").lower()
            if host.rsplit(":", 1)[0] not in LOCAL_NAMES and host not in LOCAL_NAMES:
                return 403, "without a token, expected the host localhost, 127.0.0.1 or [::1]"
        elif scope["path"] not in OPEN and not hmac.compare_digest(
            headers.get(b"authorization", b""), self.token
        ):
            return 401, "expected the header Authorization: Bearer TOKEN, with this service's token"
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length[:20]) > MOST_BYTES:
            return 413, f"expected a body of at most {MOST_BYTES} bytes"
        return None


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "DELETE") else "other"


class _Body:
    """A request's body on its way in, of at most MOST_BYTES.

    Where an answer is ready before all of it is read, the rest is read and dropped: a connection
    closed on bytes still coming is reset, and the client may lose the answer.
    """

    def __init__(self, receive: Receive, headers: dict[bytes, bytes]) -> None:
        self._receive, self._size = receive, 0
        sent = headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers
        # who waits for a 100 (Continue) sends no body once refused
        self.ended = not sent or b"expect" in headers

    async def receive(self) -> MutableMapping[str, Any]:
        """The next part; HTTPException 413 for too many bytes, which may come without a length."""
        message = await self._next()
        if self._size > MOST_BYTES:
            raise HTTPException(413, f"expected a body of at most {MOST_BYTES} bytes")
        return message

    async def drain(self) -> None:
        """Read on to the end, for a moment."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while not self.ended and self._size < LINGER_BYTES:
                    await self._next()

    async def _next(self) -> MutableMapping[str, Any]:
        message = await self._receive()
        self._size += len(message.get("body", b""))
        self.ended = self.ended or not message.get("more_body")
        return message


async def _say(send: Send, status: int, message: str) -> None:
    body = json.dumps({"error": message}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def is_loopback(host: str) -> bool:
    """Whether an address to listen at can be reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
