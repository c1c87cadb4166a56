"""What a refusal looks like on the wire, whoever refuses: application, guard or HTTP server."""

from __future__ import annotations

import json
from http import HTTPStatus

LONGEST = 500  # characters of the line
RETRY_SECONDS = 1


def body(message: str) -> bytes:
    """One line of JSON. ASCII only, as what a client sent may be repeated in it."""
    line = " ".join(message.encode("ascii", "backslashreplace").decode().split())[:LONGEST]
    return json.dumps({"error": line}).encode()


def headers(status: int) -> dict[str, str]:
    """The headers that a status asks for: Retry-After where it helps to ask again."""
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        return {"retry-after": str(RETRY_SECONDS)}
    return {"www-authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else {}


def raw(status: int, message: str) -> bytes:
    """A whole HTTP/1.1 response, after which the connection closes."""
    said = body(message)
    lines = {
        "content-type": "application/json",
        "content-length": str(len(said)),
        "connection": "close",
        **headers(status),
    }
    head = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *map(": ".join, lines.items())]
    return "\r\n".join([*head, "", ""]).encode() + said
