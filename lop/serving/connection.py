"""Limits for client connections that uvicorn does not have, with JSON bodies for its own errors.

A client that sends nothing, sends slowly or endlessly, or does not read its response can hold a
connection only for a limited time and with limited memory. If there are too many connections, the
one that has waited longest without a complete request is closed first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from lop.serving import refusal


@dataclass
class Bounds:
    """The limits for the connections of one service, and the connections that wait."""

    connections: int = 400  # with one open file each, below the usual limit of 1,024 open files
    head_seconds: float = 10.0  # to receive the request line and headers
    body_seconds: float = 10.0  # to receive the body after them
    idle_seconds: float = 5.0  # between two requests
    write_seconds: float = 30.0  # in which a client reads nothing of its response
    linger_seconds: float = 1.0  # for a client to read an error, while further input is dropped
    linger_bytes: int = 2**20  # of further input that is dropped before the connection is aborted
    head_bytes: int = 16_384
    request_bytes: int = 2**21  # of a body with its chunk sizes and trailers
    pipelined: int = 16  # requests that wait for the response to an earlier one
    waiting: dict[Bounded, None] = field(default_factory=dict)  # no complete request yet; in order


class Bounded(asyncio.Protocol):
    """A mixin for uvicorn's HTTP/1.1 protocol classes (httptools and h11)."""

    # attributes of uvicorn's classes
    transport: Any
    loop: asyncio.AbstractEventLoop
    connections: set[Any]
    flow: Any
    cycle: Any  # the request whose head was received last, with its response

    def __init__(self, bounds: Bounds, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self.bounds = bounds
        self.request: Any = None  # the cycle at the last check
        self.received = 0  # bytes of the current head, or of the request after its head
        self.refused = False
        self.reading: asyncio.TimerHandle | None = None
        self.writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Accept a client; if there are too many, close the connection that waits longest."""
        super().connection_made(transport)
        self.bounds.waiting[self] = None
        self._within(self.bounds.head_seconds)
        over = len(self.connections) - self.bounds.connections
        if over > self.bounds.connections // 4:  # too many even to send them an error
            transport.abort()
        elif over > 0:
            next(iter(self.bounds.waiting)).give_way(self)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes, at most `head_bytes` at a time, and check the limits."""
        if self.refused:
            self.received += len(data)
            if self.received > self.bounds.linger_bytes:
                self.transport.abort()
            return
        size = self.bounds.head_bytes
        for start in range(0, len(data), size):
            if self.refused or self.transport.is_closing():
                return
            part = data[start : start + size]
            self.received += len(part)
            super().data_received(part)
            self._check()

    def on_response_complete(self) -> None:
        """Wait for the next request after a response is written."""
        super().on_response_complete()  # type: ignore[misc]
        if self.transport.is_closing():
            self._close()
        elif self.cycle.response_complete:
            self.received = 0
            self.bounds.waiting[self] = None
            self._stop_reading_timer()
            if self.cycle.more_body:  # the rest of the body will not be read
                self._close()
        else:
            self._check()  # the next request has been received already

    def send_400_response(self, msg: str) -> None:
        """Send our error; uvicorn calls this if it cannot parse the request."""
        self._refuse(400, "expected an HTTP/1.1 request")

    def give_way(self, newcomer: Bounded) -> None:
        """Close this connection, which has no complete request, to make room for `newcomer`."""
        if self is newcomer or self.received or self._part() == "body":
            self._refuse(503, "too many connections; try again later", self is newcomer)
        else:  # no request: the client would take an error for the response to its next request
            self.transport.abort()

    def pause_writing(self) -> None:
        """The client stopped reading its response: limit how long it may pause."""
        super().pause_writing()
        self._end_within(self.bounds.write_seconds)

    def resume_writing(self) -> None:
        """The client reads again: cancel the limit."""
        super().resume_writing()
        if self.writing and not (self.refused or self.transport.is_closing()):
            self.writing.cancel()
            self.writing = None

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that was idle between requests for too long."""
        self._close()

    def shutdown(self) -> None:
        """Close the connection because the service stops."""
        if self.refused:
            self._close()
        else:
            super().shutdown()  # type: ignore[misc]

    def connection_lost(self, exc: Exception | None) -> None:
        """Clean up after either side has closed the connection."""
        super().connection_lost(exc)
        self.bounds.waiting.pop(self, None)
        self._stop_reading_timer()
        if self.writing:
            self.writing.cancel()

    def _check(self) -> None:
        """Check the request's size so far, and start or stop the timer for its next part."""
        if self.refused or self.transport.is_closing():
            return
        if self.cycle is not self.request:  # the head of a new request is complete
            self.request, self.received = self.cycle, 0
            if self.request.more_body:
                self._within(self.bounds.body_seconds)
        if self._part() == "head":
            if self.received > self.bounds.head_bytes:
                self._refuse(431, f"expected a head of at most {self.bounds.head_bytes} bytes")
            elif self.reading is None:
                self._within(self.bounds.head_seconds)
        elif not self.request.more_body:
            self._stop_reading_timer()
            self.bounds.waiting.pop(self, None)
            if len(getattr(self, "pipeline", ())) > self.bounds.pipelined:
                self._close()
        elif self.received > self.bounds.request_bytes:
            self._refuse(413, f"expected at most {self.bounds.request_bytes} bytes")

    def _part(self) -> str:
        """The part of a request that is expected next: `head` or `body`."""
        return "head" if self.request is None or self.request.response_complete else "body"

    def _too_slow(self) -> None:
        part = self._part()
        if part == "head" and not self.received:
            self.transport.abort()
        else:
            seconds = getattr(self.bounds, f"{part}_seconds")
            self._refuse(408, f"expected a complete request {part} within {seconds:g} s")

    def _refuse(self, status: int, message: str, linger: bool = True) -> None:
        """Send an error, unless a response has been started, and close the connection."""
        if self.refused:
            return
        self.refused = True
        self.bounds.waiting.pop(self, None)
        self._stop_reading_timer()
        begun = bool(getattr(self, "pipeline", ()))
        if self.cycle is not None and not self.cycle.response_complete:
            begun = begun or self.cycle.response_started
            self.cycle.disconnected = True  # so that the application sends no response
            self.cycle.message_event.set()
        if begun or self.transport.is_closing():
            self._close()
            return
        self.transport.write(refusal.raw(status, message))
        # If the socket is closed while input still arrives, TCP resets the connection and the
        # client may lose the error.
        if linger:
            self.transport.write_eof()
            self.flow.resume_reading()
            self._end_within(self.bounds.linger_seconds)
        else:
            self._close()

    def _close(self) -> None:
        self.transport.close()
        self._end_within(self.bounds.write_seconds)

    def _within(self, seconds: float) -> None:
        self._stop_reading_timer()
        self.reading = self.loop.call_later(seconds, self._too_slow)

    def _end_within(self, seconds: float) -> None:
        if self.writing:
            self.writing.cancel()
        self.writing = self.loop.call_later(seconds, self.transport.abort)

    def _stop_reading_timer(self) -> None:
        if self.reading:
            self.reading.cancel()
            self.reading = None


def bounded(bounds: Bounds, protocol: Any = AutoHTTPProtocol) -> Callable[..., Any]:
    """A factory that uvicorn calls for each connection: its `protocol` with these bounds."""
    kind: Any = type("Connection", (Bounded, protocol), {})
    return lambda **uvicorn: kind(bounds, **uvicorn)
