"""uvicorn's HTTP protocol, with head and body of a small answer in one system call.

Nothing of HTTP is decided here.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pratai.transport.coalesce import Coalescer


class CoalescingTransport:
    """A transport whose writes are gathered by the turn; all else is the transport's own."""

    __slots__ = ("_coalescer", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._coalescer = Coalescer(transport, loop)

    def write(self, data: bytes) -> None:
        """Write by the end of this turn."""
        self._coalescer.write(data)

    def close(self) -> None:
        """Close once everything is written."""
        self._coalescer.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class CoalescingProtocol(HttpToolsProtocol):
    """One HTTP connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection."""
        super().connection_made(
            cast("asyncio.Transport", CoalescingTransport(transport, self.loop))
        )
