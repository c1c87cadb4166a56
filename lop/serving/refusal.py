"""HTTP error responses, the same from the application, the middleware and the HTTP server."""

from __future__ import annotations

import json
from http import HTTPStatus

LONGEST = 500  # characters of the error line
RETRY_SECONDS = 1


def body(message: str) -> bytes:
    """The body: one line of JSON. It is ASCII only, because it may repeat the client's input."""
    line = " ".join(message.encode("ascii", "backslashreplace").decode().split())[:LONGEST]
    return json.dumps({"error": line}).encode()


def headers(status: int) -> dict[str, str]:
    """The headers for a status: Retry-After for 429 and 503, WWW-Authenticate for 401."""
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        return {"retry-after": str(RETRY_SECONDS)}
    return {"www-authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else {}


def raw(status: int, message: str) -> bytes:
    """A complete HTTP/1.1 response with `connection: close`."""
    content = body(message)
    lines = {
        "content-type": "application/json",
        "content-length": str(len(content)),
        "connection": "close",
        **headers(status),
    }
    head = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *map(": ".join, lines.items())]
    return "\r\n".join([*head, "", ""]).encode() + content
