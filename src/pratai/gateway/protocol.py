"""uvicorn's HTTP protocol, with head and body of an answer in one system call.

uvicorn writes the head of an answer when it starts and the body when it comes, and a system call
costs more than all else that is done for a small answer. So the head is held until the body is
there, which for all but streams is at once. Nothing of HTTP is decided here.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from pratai.gateway.bounds import BoundedProtocol

#: A head whose body does not come is written alone after this time.
HOLD_S = 0.005
#: Bodies from this size on are not joined to their head, since joining copies them.
JOIN_BYTES_MAX = 64 * 1024

_HEAD = b"HTTP/1.1 "


class HoldingTransport:
    """A transport that holds the head of an answer for its body; all else is the transport's."""

    __slots__ = ("_head", "_loop", "_timer", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""
        self._timer: asyncio.TimerHandle | None = None

    def write(self, data: bytes) -> None:
        """Write, or hold if it is a head."""
        head = self._head
        if head:
            self._forget()
            if len(data) < JOIN_BYTES_MAX:
                self._transport.write(head + data)
            else:
                self._transport.write(head)
                self._transport.write(data)
        elif data.startswith(_HEAD):
            self._head = data
            self._timer = self._loop.call_later(HOLD_S, self._flush)
        else:
            self._transport.write(data)

    def write_whole(self, head: bytes, body: bytes) -> None:
        """Write an answer that is there as a whole."""
        if len(body) < JOIN_BYTES_MAX:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    def close(self) -> None:
        """Close once everything is written."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether it closes; asked for every request, so not left to `__getattr__`."""
        return self._transport.is_closing()

    def _flush(self) -> None:
        head = self._head
        if head:
            self._forget()
            self._transport.write(head)

    def _forget(self) -> None:
        self._head = b""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class HoldingProtocol(BoundedProtocol):
    """One HTTP connection."""

    #: The transport under its own type.
    _holding: HoldingTransport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection."""
        self._holding = HoldingTransport(transport, self.loop)
        super().connection_made(cast("asyncio.Transport", self._holding))
