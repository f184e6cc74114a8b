"""A small ASGI server in the place of a gateway: says what reached it, and stops as one does.

    python upstream.py PORT JOURNAL

What `test_nginx.py` needs to see of a gateway and cannot ask a real one for: which connection a
request came by, which headers, and what was in flight when it was killed. The journal has a line
`seen ID` for each request that came whole and `done ID` for each that is about to be answered.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
#: What an idle connection is waited for by a server that stops; nginx closes them after 2 s.
LINGER_S = 5.0


class Upstream:
    """Answers every request with what it was, and what is in `x-test-*` headers."""

    def __init__(self, port: int, journal: int) -> None:
        self.port = port
        self.journal = journal
        self.stopping = False
        #: Bytes of a body that have come so far, by request.
        self.received: dict[str, int] = {}
        self.released = asyncio.Event()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        headers = {key.decode(): value.decode("latin-1") for key, value in scope["headers"]}
        name = headers.get("x-test-id", "")
        if scope["path"] == "/upstream/release":
            self.released.set()
        size = await self._body(name, receive)
        self._note(f"seen {name}")
        if "x-test-hold-s" in headers:
            await asyncio.sleep(float(headers["x-test-hold-s"]))
        if "x-test-stream" in headers:
            await self._stream(headers["x-test-stream"], send)
            return
        said = {
            "gateway": self.port,
            "connection": scope["client"][1],
            "method": scope["method"],
            "path": scope["raw_path"].decode(),
            "headers": headers,
            "body_bytes": size,
            "received": self.received,
        }
        self._note(f"done {name}")
        await self._start(send, b"application/json")
        await send({"type": "http.response.body", "body": json.dumps(said).encode()})

    async def _body(self, name: str, receive: Receive) -> int:
        size, more = 0, True
        while more:
            message = await receive()
            size += len(message.get("body", b""))
            if name:
                self.received[name] = size
            more = message.get("more_body", False)
        return size

    async def _stream(self, kind: str, send: Send) -> None:
        """A first part at once, the second only when it is told to."""
        self.released.clear()
        await self._start(send, kind.encode(), unbuffered=kind != "text/event-stream")
        await send({"type": "http.response.body", "body": b"data: first\n\n", "more_body": True})
        await self.released.wait()
        await send({"type": "http.response.body", "body": b"data: second\n\n"})

    async def _start(self, send: Send, kind: bytes, *, unbuffered: bool = False) -> None:
        headers = [(b"content-type", kind)]
        if unbuffered:
            headers.append((b"x-accel-buffering", b"no"))
        if self.stopping:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    def _note(self, line: str) -> None:
        os.write(self.journal, f"{line}\n".encode())


class Server(uvicorn.Server):
    """uvicorn that stops without a failed request."""

    def install_signal_handlers(self) -> None:
        """Signals are `serve_until_told`'s."""


async def serve_until_told(port: int, journal: int) -> None:
    upstream = Upstream(port, journal)
    server = Server(
        uvicorn.Config(
            upstream,  # type: ignore[arg-type]
            host="127.0.0.1",
            port=port,
            lifespan="off",
            log_level="warning",
            timeout_keep_alive=75,
        )
    )
    told = asyncio.Event()
    serving = asyncio.ensure_future(server._serve())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    await asyncio.wait({serving, asyncio.ensure_future(told.wait())}, return_when="FIRST_COMPLETED")
    upstream.stopping = True
    for listener in server.servers:
        listener.close()
    limit = asyncio.get_running_loop().time() + LINGER_S
    while server.server_state.connections and asyncio.get_running_loop().time() < limit:
        await asyncio.sleep(0.02)
    server.should_exit = True
    await serving


if __name__ == "__main__":
    descriptor = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    asyncio.run(serve_until_told(int(sys.argv[1]), descriptor))
