"""A hostile client, over real sockets: it holds nothing for long, and locks nobody out."""

import socket
import time

import pytest
from service import TOKEN, serving

pytest_plugins = ["service"]


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
