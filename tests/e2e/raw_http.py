"""HTTP written byte by byte, for requests that no client library would send."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any


class RawAnswer:
    """An answer as it came over the wire."""

    def __init__(self, data: bytes) -> None:
        head, _, rest = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ")[1]) if lines[0] else 0
        self.headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])
        }
        self.body = rest

    def json(self) -> Any:
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"<{self.status} {self.body[:400]!r}>"


def address(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


def connect(url: str, timeout_s: float = 20.0) -> socket.socket:
    return socket.create_connection(address(url), timeout=timeout_s)


def head(method: bytes, path: bytes, *headers: bytes, key: str = "") -> bytes:
    """The head of a request, whatever is in it."""
    lines = [method + b" " + path + b" HTTP/1.1", b"host: x"]
    if key:
        lines.append(b"authorization: Bearer " + key.encode())
    return b"\r\n".join([*lines, *headers, b"", b""])


def exchange(url: str, request: bytes) -> RawAnswer:
    """Send bytes, read one answer. The server may answer and close before all is sent."""
    with connect(url) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(request)
        return RawAnswer(read_answer(connection))


def read_answer(connection: socket.socket) -> bytes:
    """One answer with a Content-Length, or all there is until the server closes."""
    data = b""
    while True:
        data = data.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        head, end, body = data.partition(b"\r\n\r\n")
        if end:
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    size = int(line.partition(b":")[2])
                    if len(body) >= size:
                        return head + end + body[:size]
        try:
            more = connection.recv(65_536)
        except ConnectionResetError:
            return data
        if not more:
            return data
        data += more
