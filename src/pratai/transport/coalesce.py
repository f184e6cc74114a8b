"""Writes of one turn of the event loop become one system call.

An event loop's transport writes at once, and a system call costs more than everything else that is
done for a small message. Nothing is delayed beyond the turn in which it was written.
"""

from __future__ import annotations

import asyncio


class Coalescer:
    """Gathers what is written to a transport until the turn ends.

    `loop`: whose turns are meant. Large parts are written at once, since joining would copy them.
    """

    __slots__ = ("_loop", "_parts", "_transport")

    #: Parts from this size on are not gathered.
    JOIN_BYTES_MAX = 64 * 1024

    def __init__(self, transport: asyncio.WriteTransport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Write by the end of this turn, in order."""
        if len(data) > self.JOIN_BYTES_MAX:
            self.flush()
            self._transport.write(data)
            return
        if not self._parts:
            self._loop.call_soon(self.flush)
        self._parts.append(data)

    def flush(self) -> None:
        """Write what was gathered now."""
        parts = self._parts
        if not parts:
            return
        self._parts = []
        if not self._transport.is_closing():
            self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))
