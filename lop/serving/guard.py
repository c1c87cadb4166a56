"""Middleware that checks every request's size, token and host header, and the service's metrics.

It is plain ASGI, so that a rejected request costs no more than parsing its head. Every 4xx and 5xx
response gets a body of one line of JSON.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from http import HTTPStatus
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

from lop.serving import refusal
from lop.serving.jobs import STATES, Jobs

disable_created_metrics()  # without the extra creation time of each counter

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_BYTES = 16_384  # of a request's body
MOST_HEADERS, MOST_HEAD_BYTES = 100, 16_384
LINGER_SECONDS, LINGER_BYTES = 1.0, 2**20  # limits for reading and dropping an unused body
OPEN = ("/", "/health", "/docs", "/openapi.json")  # no token needed: nothing about the model
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
            "lop_request_seconds", "time to the last byte of the response", ("route",),
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.plans = Counter("lop_plans", "plans returned", registry=self.registry)
        self.jobs = Gauge("lop_jobs", "pruning jobs", ("state",), registry=self.registry)
        self.stale = Gauge(
            "lop_predictor_stale",
            "1: the predictor's source cannot be polled for a newer version",
            registry=self.registry,
        )

    def page(self, jobs: Jobs, stale: bool) -> bytes:
        """All metrics in Prometheus' text format."""
        for state in STATES:
            self.jobs.labels(state).set(jobs.count(state))
        self.stale.set(stale)
        return generate_latest(self.registry)


class Guard:
    """Accepts requests with the token or, if no token is set, requests to a local host name."""

    def __init__(self, app: App, token: str | None, meters: Meters) -> None:
        self.app, self.meters = app, meters
        self.token = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status, headers = time.perf_counter(), 500, dict(scope["headers"])
        body = _Body(receive, headers)

        answer = _Answer(send)

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif not message.get("more_body") and not body.ended:
                await answer.send({**message, "more_body": True})
                await body.drain()
                message = {"type": "http.response.body"}
            await answer.send(message)

        try:
            refused = self._refused(scope, headers)
            if refused:
                await _send_error(watched, *refused)
            else:
                await self.app(scope, body.receive, watched)
        except asyncio.CancelledError:  # the service stops, after its grace period
            if not answer.begun:
                status = 503
                await _send_error(answer.send, 503, "the service is stopping")
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.meters.requests.labels(_method(scope), route, status).inc()
            self.meters.seconds.labels(route).observe(time.perf_counter() - begun)

    def _refused(self, scope: Scope, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        """Status and message if the request is rejected, else None."""
        if len(scope["headers"]) > MOST_HEADERS or _head_bytes(scope) > MOST_HEAD_BYTES:
            most = f"{MOST_HEADERS} headers and {MOST_HEAD_BYTES} bytes"
            return 431, f"expected a head of at most {most}"
        if self.token is None:
            # A web page can make a browser send requests here under its own host name (DNS
            # rebinding), so only local names are accepted.
            host = headers.get(b"host", b"").decode("latin-1").lower()
            if host.rsplit(":", 1)[0] not in LOCAL_NAMES and host not in LOCAL_NAMES:
                return 403, "without a token, expected the Host localhost, 127.0.0.1 or [::1]"
        elif scope["path"] not in OPEN and not hmac.compare_digest(
            headers.get(b"authorization", b""), self.token
        ):
            return 401, "expected the header Authorization: Bearer TOKEN, with this service's token"
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length[:20]) > MOST_BYTES:
            return 413, f"expected a body of at most {MOST_BYTES} bytes"
        return None


def _head_bytes(scope: Scope) -> int:
    fields = sum(len(name) + len(value) for name, value in scope["headers"])
    return fields + len(scope["raw_path"]) + len(scope["query_string"])


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "DELETE") else "other"


class _Body:
    """A request's body while it is received, at most MOST_BYTES.

    If the response is ready before the body is complete, the rest is read and dropped. Otherwise
    TCP would reset the connection, and the client may lose the response.
    """

    def __init__(self, receive: Receive, headers: dict[bytes, bytes]) -> None:
        self._receive, self._size = receive, 0
        sent = headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers
        # a client that waits for 100 (Continue) sends no body after an error
        self.ended = not sent or b"expect" in headers

    async def receive(self) -> MutableMapping[str, Any]:
        """The next part; HTTPException 413 if the body is too long and has no Content-Length."""
        message = await self._next()
        if self._size > MOST_BYTES:
            raise HTTPException(413, f"expected a body of at most {MOST_BYTES} bytes")
        return message

    async def drain(self) -> None:
        """Read and drop the rest, up to LINGER_SECONDS and LINGER_BYTES."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while not self.ended and self._size < LINGER_BYTES:
                    await self._next()

    async def _next(self) -> MutableMapping[str, Any]:
        message = await self._receive()
        self._size += len(message.get("body", b""))
        self.ended = self.ended or not message.get("more_body")
        return message


class _Answer:
    """A response while it is sent. Errors get the headers for their status, and a JSON body if a
    library made a plain one, such as that for a Range outside a file."""

    def __init__(self, send: Send) -> None:
        self._send, self.begun = send, False
        self._plain: MutableMapping[str, Any] | None = None

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Send the next part."""
        if message["type"] == "http.response.start":
            self.begun = True
            if message["status"] >= 400:
                headers = _bytes(refusal.headers(message["status"])) | dict(message["headers"])
                message = {**message, "headers": list(headers.items())}
                if headers.get(b"content-type") != b"application/json":
                    self._plain = message
                    return
        elif self._plain:
            start, self._plain = self._plain, None
            text = message.get("body", b"").decode() or HTTPStatus(start["status"]).phrase
            message = {**message, "body": refusal.body(text)}
            headers = dict(start["headers"]) | _body_headers(message["body"])
            await self._send({**start, "headers": list(headers.items())})
        await self._send(message)


async def _send_error(send: Send, status: int, message: str) -> None:
    body = refusal.body(message)
    headers = [*_body_headers(body).items(), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _body_headers(body: bytes) -> dict[bytes, bytes]:
    return _bytes({"content-type": "application/json", "content-length": str(len(body))})


def _bytes(headers: dict[str, str]) -> dict[bytes, bytes]:
    return {name.encode(): value.encode() for name, value in headers.items()}


def is_loopback(host: str) -> bool:
    """Whether an address to listen at can be reached only from this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
