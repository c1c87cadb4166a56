"""One client's connection: the bounds that uvicorn does not set, and JSON where it answers itself.

A client that sends nothing, or a byte at a time, or without end, or that does not read its answer,
holds a connection for a bounded time and memory. Where there are too many, those go first that have
waited longest without a whole request.
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
    """What the connections of one service may take."""

    connections: int = 400  # with a file open for each, less than the usual limit of 1,024
    head_seconds: float = 10.0  # for a request's line and headers
    body_seconds: float = 10.0  # for its body, from then on
    idle_seconds: float = 5.0  # between two requests
    write_seconds: float = 30.0  # in which a client takes nothing of its answer
    linger_seconds: float = 1.0  # to read a refusal, while what still comes is dropped,
    linger_bytes: int = 2**20  # up to this
    head_bytes: int = 16_384
    request_bytes: int = 2**21  # with what frames a body: its chunks' sizes, and trailers
    pipelined: int = 16  # requests that wait for another's answer
    waiting: dict[Bounded, None] = field(default_factory=dict)  # without a whole request, in order


class Bounded(asyncio.Protocol):
    """Goes before one of uvicorn's protocols, for HTTP/1.1 by httptools or by h11."""

    # uvicorn's own
    transport: Any
    loop: asyncio.AbstractEventLoop
    connections: set[Any]
    flow: Any
    cycle: Any  # the request whose head came last, and its answer

    def __init__(self, bounds: Bounds, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self.bounds = bounds
        self.request: Any = None  # the cycle that was seen last
        self.received = 0  # bytes of a head, or from the head on
        self.refused = False
        self.reading: asyncio.TimerHandle | None = None
        self.writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A new client; where there are too many, the one that waits longest has to go."""
        super().connection_made(transport)
        self.bounds.waiting[self] = None
        self._within(self.bounds.head_seconds)
        over = len(self.connections) - self.bounds.connections
        if over > self.bounds.connections // 4:  # clients that are being told so
            transport.abort()
        elif over > 0:
            next(iter(self.bounds.waiting)).give_way(self)

    def data_received(self, data: bytes) -> None:
        """Some bytes, of which what one head may have is parsed at a time."""
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
            self._look()

    def on_response_complete(self) -> None:
        """An answer is written; the next request may begin."""
        super().on_response_complete()  # type: ignore[misc]
        if self.transport.is_closing():
            self._close()
        elif self.cycle.response_complete:
            self.received = 0
            self.bounds.waiting[self] = None
            self._stop_reading_timer()
            if self.cycle.more_body:  # nobody reads the rest
                self._close()
        else:
            self._look()  # the next one was here already

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls for bytes that are no HTTP."""
        self._refuse(400, "expected an HTTP/1.1 request")

    def give_way(self, newcomer: Bounded) -> None:
        """End a connection that has no whole request, for one that may have."""
        if self is newcomer or self.received or self._part() == "body":
            self._refuse(503, "too many connections; ask again later", self is newcomer)
        else:  # nothing was asked, and an answer would be taken for the next request's
            self.transport.abort()

    def pause_writing(self) -> None:
        """The client does not take its answer."""
        super().pause_writing()
        self._end_within(self.bounds.write_seconds)

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        if self.writing and not (self.refused or self.transport.is_closing()):
            self.writing.cancel()
            self.writing = None

    def timeout_keep_alive_handler(self) -> None:
        """No other request came for a while."""
        self._close()

    def shutdown(self) -> None:
        """The service stops."""
        if self.refused:
            self._close()
        else:
            super().shutdown()  # type: ignore[misc]

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, whoever made it."""
        super().connection_lost(exc)
        self.bounds.waiting.pop(self, None)
        self._stop_reading_timer()
        if self.writing:
            self.writing.cancel()

    def _look(self) -> None:
        """See how far the request is, and bound what is to come."""
        if self.refused or self.transport.is_closing():
            return
        if self.cycle is not self.request:  # a head is complete
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
        """Which part of a request is awaited."""
        return "head" if self.request is None or self.request.response_complete else "body"

    def _too_slow(self) -> None:
        part = self._part()
        if part == "head" and not self.received:
            self.transport.abort()
        else:
            seconds = getattr(self.bounds, f"{part}_seconds")
            self._refuse(408, f"expected a request's whole {part} within {seconds:g} s")

    def _refuse(self, status: int, message: str, linger: bool = True) -> None:
        """Say why, unless an answer is under way, and close."""
        if self.refused:
            return
        self.refused = True
        self.bounds.waiting.pop(self, None)
        self._stop_reading_timer()
        begun = bool(getattr(self, "pipeline", ()))
        if self.cycle is not None and not self.cycle.response_complete:
            begun = begun or self.cycle.response_started
            self.cycle.disconnected = True  # it has no use for an answer of its own
            self.cycle.message_event.set()
        if begun or self.transport.is_closing():
            self._close()
            return
        self.transport.write(refusal.raw(status, message))
        if linger:  # a connection closed on bytes still coming is reset, and the answer lost
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
    """What uvicorn calls for each connection."""
    kind: Any = type("Connection", (Bounded, protocol), {})
    return lambda **uvicorn: kind(bounds, **uvicorn)
