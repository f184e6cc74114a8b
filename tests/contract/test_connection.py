"""Connections that stay silent or never end their request: refused or closed in bounded time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from pratai.gateway import bounds
from pratai.gateway.protocol import HoldingProtocol

LIMIT_S = 10.0


async def app(
    scope: MutableMapping[str, Any],
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
) -> None:
    """Reads the whole body and says how long it was."""
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    body = b"%d" % size
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def sent(*parts: bytes) -> bytes:
    """What the server answers to these bytes until it closes; the client closes nothing."""

    async def run() -> bytes:
        loop = asyncio.get_running_loop()
        config = uvicorn.Config(app, log_config=None, ws="none", access_log=False)
        state = ServerState()
        server = await loop.create_server(
            lambda: HoldingProtocol(config=config, server_state=state, app_state={}),
            "127.0.0.1",
            0,
        )
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            for part in parts:
                writer.write(part)
                await writer.drain()
            data = await asyncio.wait_for(reader.read(), LIMIT_S)
            writer.close()
            return data

    return asyncio.run(run())


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "PATIENCE_S", 0.2)


def check_refused(data: bytes, status: int, code: str) -> None:
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), data
    assert b"application/problem+json" in head
    assert json.loads(body)["code"] == code


def test_a_connection_that_says_nothing_is_closed() -> None:
    assert sent() == b""


def test_a_head_that_does_not_end_is_refused() -> None:
    check_refused(sent(b"GET / HTTP/1.1\r\nhost: x\r\n"), 408, "request_timeout")


def test_a_body_that_does_not_come_is_refused() -> None:
    request = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc"
    check_refused(sent(request), 408, "request_timeout")


def test_a_head_without_bound_is_refused_before_it_is_read() -> None:
    request = b"GET / HTTP/1.1\r\nx: " + b"a" * (bounds.HEAD_BYTES_MAX + 1)
    check_refused(sent(request), 431, "head_too_large")


def test_what_is_not_http_is_refused() -> None:
    check_refused(sent(b"\x00\x01\x02\r\n\r\n"), 400, "bad_request")


def test_a_broken_body_is_refused_and_its_application_let_go() -> None:
    request = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"
    check_refused(sent(request), 400, "bad_request")


def test_a_request_in_many_parts_is_served() -> None:
    request = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc"
    data = sent(*(request[at : at + 1] for at in range(len(request))))
    assert data.startswith(b"HTTP/1.1 200 OK\r\n")
    assert data.endswith(b"\r\n\r\n3")
