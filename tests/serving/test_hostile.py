"""A hostile client, over real sockets: it holds nothing for long, and locks nobody out."""

import json
import re
import socket
import threading
import time
from contextlib import contextmanager, suppress

import pytest
from service import JSON, TOKEN, refused, serving
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lop.serving.connection import Bounds
from lop.serving.guard import MOST_HEADERS

pytest_plugins = ["service"]

SMALL = {"connections": 8, "head_seconds": 1.0, "body_seconds": 1.0, "idle_seconds": 1.0}
PATIENT = {"head_seconds": 60.0, "body_seconds": 60.0, "idle_seconds": 60.0}
POST = b"POST /plans HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
GET = b"GET /model HTTP/1.1\r\nHost: localhost\r\n"
BODY = b'{"ratio": 0.3}'
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
SECONDS = 30  # for what takes one or two on a quiet machine

protocols = pytest.mark.parametrize(
    "protocol", [HttpToolsProtocol, H11Protocol], ids=["httptools", "h11"]
)


@pytest.fixture(scope="module", params=[HttpToolsProtocol, H11Protocol], ids=["httptools", "h11"])
def client(request, made, tmp_path_factory):
    """A service without a token, of few connections and little time."""
    out, bounds = tmp_path_factory.mktemp("out"), Bounds(**SMALL)
    with serving(made, out, bounds=bounds, protocol=request.param) as client:
        yield client


@contextmanager
def connected(client, *sent):
    with socket.create_connection(("127.0.0.1", client.port), timeout=SECONDS) as raw:
        for part in sent:
            raw.sendall(part)
        yield raw


def read(raw):
    """All that comes until the service closes; it must, or the socket's time-out is an error."""
    said = b""
    with suppress(ConnectionResetError):
        while part := raw.recv(65536):
            said += part
    return said


def last_answer(said):
    """Status, headers and body of the last of some HTTP answers."""
    begin = [match.start() for match in re.finditer(rb"HTTP/1.1 \d", said)][-1]
    head, _, body = said[begin:].partition(b"\r\n\r\n")
    first, *lines = head.decode().lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert headers["content-type"] == "application/json"
    assert int(headers["content-length"]) == len(body)
    return int(first.split()[1]), headers, json.loads(body)


def is_well(client):
    assert client.ask("POST", "/plans", {"ratio": 0.3})[0] == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        GET + b"no colon\r\n\r\n",
        GET + b"Content-Length: -1\r\n\r\n",
        POST
        + b"Connection: close\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        CHUNKED + b"zz\r\n",
    ],
    ids=lambda sent: str(sent[-30:]),
)
def test_what_is_no_http_is_told_so_in_json(client, sent):
    with connected(client, sent) as raw:
        status, headers, said = last_answer(read(raw))
    assert status in (400, 403, 413, 422), said
    refused((status, said), status)
    assert headers["connection"] == "close"
    is_well(client)


@pytest.mark.parametrize("method", [b"CONNECT x:1", b"OPTIONS *", b"BREW /model", b"TRACE /model"])
def test_odd_methods_are_told_so_in_json(client, method):
    with connected(
        client, method + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    ) as raw:
        status, _, said = last_answer(read(raw))
    refused((status, said), 400, 403, 404, 405)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", None),
        (b"GET /mo", 408),
        (GET + b"X-Slow: ", 408),
        (POST + b"Content-Length: 14\r\n\r\n" + BODY[:5], 408),
        (CHUNKED + b"5\r\n" + BODY[:5] + b"\r\n", 408),
    ],
    ids=["nothing", "half a line", "half a head", "half a body", "chunks without end"],
)
def test_what_does_not_come_to_an_end_is_cut_off(client, sent, status):
    begun = time.monotonic()
    with connected(client, sent) as raw:
        said = read(raw)
    assert 0.9 < time.monotonic() - begun < SECONDS
    if status is None:
        assert said == b""
    else:
        assert refused(last_answer(said)[::2], status).endswith("within 1 s")


@pytest.mark.parametrize(
    "sent", [GET + b"X: ", POST + b"Content-Length: 9999\r\n\r\n"], ids=["head", "body"]
)
def test_a_byte_at_a_time_holds_a_connection_no_longer(client, sent):
    with connected(client, sent) as raw:
        begun = time.monotonic()
        raw.settimeout(0.1)
        while time.monotonic() - begun < SECONDS:
            try:
                raw.sendall(b"x")
                if raw.recv(4096):
                    break
            except TimeoutError:
                continue
        assert 0.8 < time.monotonic() - begun < SECONDS


def test_a_slow_but_progressing_request_is_served(made, tmp_path):
    with serving(made, tmp_path, bounds=Bounds(**PATIENT)) as client, connected(client) as raw:
        for byte in POST + b"Content-Length: 14\r\nConnection: close\r\n\r\n" + BODY:
            raw.sendall(bytes([byte]))
            time.sleep(0.002)
        said = read(raw)
    assert last_answer(said)[0] == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /" + b"x" * 20_000,
        GET + b"X: " + b"x" * 20_000,
        GET + b"X: " + b"x" * 17_000 + b"\r\n\r\n",
        GET + b"X: y\r\n" * MOST_HEADERS + b"\r\n",
    ],
    ids=["line", "one header", "one header, whole", "many headers"],
)
def test_heads_are_limited_before_the_token_is_looked_at(client, sent):
    with connected(client, sent) as raw:
        status, headers, said = last_answer(read(raw))
    assert "expected a head of at most" in refused((status, said), 431)
    assert headers["connection"] == "close"


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (GET, b"X: yyyyyyyyyyyyyyyyyyyyyyyy\r\n"),
        (CHUNKED + b"0\r\n", b"X: yyyyyyyyyyyyyyyyyyyyyyyy\r\n"),
        (CHUNKED + b"1;", b"extensions-without-end"),
    ],
    ids=["headers", "trailers", "chunk extensions"],
)
def test_heads_without_end_are_not_taken_in(client, begin, more):
    """As many megabytes as it takes; a service that takes 50 has no bound."""
    sent = 0
    with connected(client, begin) as raw, suppress(OSError):
        while sent < 50 * 2**20:
            raw.sendall(more * 4096)
            sent += len(more) * 4096
    assert sent < 50 * 2**20
    is_well(client)


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /half", POST + b"Content-Length: 14\r\n\r\n{"],
    ids=["silent", "head", "body"],
)
@protocols
def test_half_open_connections_lock_nobody_out(made, tmp_path, sent, protocol):
    bounds = Bounds(connections=8, **PATIENT)
    with serving(made, tmp_path, bounds=bounds, protocol=protocol) as client:
        held = []
        try:
            for _ in range(40):
                held.append(socket.create_connection(("127.0.0.1", client.port), timeout=SECONDS))
                held[-1].sendall(sent)
            begun = time.monotonic()
            is_well(client)
            assert client.ask("GET", "/health")[0] == 200
            assert time.monotonic() - begun < SECONDS
            said = read(held[0])  # the first had to go
            if sent:
                status, headers, said = last_answer(said)
                assert "too many connections" in refused((status, said), 503)
                assert int(headers["retry-after"]) > 0
        finally:
            for one in held:
                one.close()


@protocols
def test_where_all_are_at_work_the_next_is_told_when_to_ask_again(made, tmp_path, protocol):
    bounds = Bounds(connections=4, **PATIENT)
    with serving(made, tmp_path, bounds=bounds, protocol=protocol) as client:
        hold = threading.Event()
        client.parts.planner.thread.submit(hold.wait)
        whole = POST + b"Content-Length: 14\r\nConnection: close\r\n\r\n" + BODY
        held = [
            socket.create_connection(("127.0.0.1", client.port), timeout=SECONDS) for _ in range(4)
        ]
        try:
            for one in held:
                one.sendall(whole)
            end = time.monotonic() + SECONDS
            while bounds.waiting and time.monotonic() < end:
                time.sleep(0.01)
            with connected(client) as raw:
                status, headers, said = last_answer(read(raw))
            assert "too many connections" in refused((status, said), 503)
            assert int(headers["retry-after"]) > 0
            hold.set()
            assert [last_answer(read(one))[0] for one in held] == [200] * 4
        finally:
            hold.set()
            for one in held:
                one.close()
        is_well(client)


def test_one_that_does_not_read_its_answers_is_let_go(made, tmp_path):
    bounds = Bounds(**PATIENT, write_seconds=0.5)
    with serving(made, tmp_path, bounds=bounds) as client, socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", client.port))
        raw.settimeout(0.2)
        request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
        end = time.monotonic() + SECONDS
        with pytest.raises((ConnectionError, BrokenPipeError)):
            while time.monotonic() < end:
                try:
                    raw.sendall(request)
                except TimeoutError:
                    continue
        is_well(client)


def test_an_upgrade_is_no_way_past_the_token(made, tmp_path):
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    with serving(made, tmp_path, TOKEN) as client, connected(client, GET + upgrade + key) as raw:
        status, _, said = last_answer(read(raw))
    assert "Authorization" in refused((status, said), 401)


def test_pipelined_requests_are_answered_in_order(client):
    paths = (b"/health", b"/nowhere", b"/model")
    requests = [b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n" for path in paths]
    with connected(client, b"\r\n".join(requests) + b"Connection: close\r\n\r\n") as raw:
        said = read(raw)
    assert re.findall(rb"HTTP/1.1 (\d+)", said) == [b"200", b"404", b"200"]


def test_a_flood_of_pipelined_requests_ends_with_its_client(client):
    with connected(client) as raw, suppress(OSError):
        raw.sendall((GET + b"\r\n") * 2000)
    is_well(client)


def test_a_body_less_post_and_a_client_that_leaves(client):
    with connected(client, POST + b"Connection: close\r\n\r\n") as raw:
        assert "expected a JSON object" in refused(last_answer(read(raw))[::2], 422)
    for sent in (
        POST,
        POST + b"Content-Length: 14\r\n\r\n{",
        POST + b"Content-Length: 14\r\n\r\n" + BODY,
    ):
        with connected(client, sent):
            pass
    is_well(client)


def test_silence_between_requests_is_limited_too(client):
    with connected(client, POST + b"Content-Length: 14\r\n\r\n" + BODY) as raw:
        assert re.findall(rb"HTTP/1.1 (\d+)", read(raw)) == [b"200"]


@pytest.mark.parametrize(
    ("asked", "status"),
    [("bytes=9999999-", 416), ("bytes=x", 400), ("lines=1-2", 400), ("bytes=5-1", 400)],
)
def test_a_range_that_a_file_does_not_have_is_told_so_in_json(made, tmp_path, asked, status):
    place = tmp_path / "checkpoints" / "mine"
    place.mkdir(parents=True)
    (place / "pruning.json").write_text('{"ratio": 0.3}')
    with serving(made, tmp_path) as client:
        path, part = "/checkpoints/mine/files/pruning.json", JSON | {"Range": "bytes=0-3"}
        assert client.ask("GET", path, headers=part) == (206, b'{"ra')
        refused(client.ask("GET", path, headers=JSON | {"Range": asked}), status)


@pytest.mark.parametrize("late", [b"{}", b""], ids=["late body", "no body"])
def test_a_refusal_is_read_before_the_connection_ends(made, tmp_path, late):
    """A service that closes on a body still under way resets the connection under the answer."""
    with serving(made, tmp_path, TOKEN) as client, socket.socket() as raw:
        raw.settimeout(60)
        raw.connect(("127.0.0.1", client.port))
        raw.sendall(b"POST /plans HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n")
        said = raw.recv(1000)
        assert said.startswith(b"HTTP/1.1 401")
        time.sleep(0.2)
        raw.sendall(late)
        while part := raw.recv(1000):  # to its end, which comes in time and is no reset
            said += part
        assert said.endswith(b'token"}')
