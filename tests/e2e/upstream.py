"""A small ASGI application in the place of a gateway, served and stopped as gateways are.

    python upstream.py PORT JOURNAL

What `test_nginx.py` needs to see of a gateway and cannot ask a real one for: which connection a
request came by, which headers, and what was in flight when it was killed. The journal has a line
`seen ID` for each request that came whole and `done ID` for each that is about to be answered.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from pratai.up.serving import listening, live

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
#: How long open connections are served by a server that stops; nginx closes idle ones after 2 s.
LEAVE_MS = 5_000


class Upstream:
    """Answers every request with what it was, and what is in `x-test-*` headers."""

    def __init__(self, port: int, journal: int) -> None:
        self.port = port
        self.journal = journal
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
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    def _note(self, line: str) -> None:
        os.write(self.journal, f"{line}\n".encode())


class Process:
    """What `live` runs."""

    def __init__(self, port: int, journal: int) -> None:
        self.upstream = Upstream(port, journal)

    async def start(self, url: str) -> Upstream:
        return self.upstream

    async def serving(self) -> None:
        pass

    async def drain(self, stop_now: asyncio.Event) -> None:
        pass

    async def stop(self) -> None:
        pass


def main() -> None:
    port = int(sys.argv[1])
    journal = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    with listening("127.0.0.1", port) as listener:
        asyncio.run(live(lambda: Process(port, journal), listener, leave_ms=LEAVE_MS))


if __name__ == "__main__":
    main()
