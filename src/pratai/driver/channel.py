"""Sockets and pipes of one instance, on the node's event loop: frames out and in, raw output in."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import cast

from pratai.wire.frames import BrokenFrame, FrameReader

#: Output outside the channel beyond this in a second is counted, not passed on.
_OUTPUT_BYTES_MAX = 1024 * 1024
_WINDOW_S = 1.0
_READ_BYTES = 64 * 1024

OnFrame = Callable[[int, bytes, bytes], None]


class Channel(asyncio.Protocol):
    """The node's end of an instance's stream socket."""

    def __init__(
        self, payload_bytes_max: int, *, on_frame: OnFrame, on_end: Callable[[str], None]
    ) -> None:
        self._reader = FrameReader(payload_bytes_max)
        self._on_frame = on_frame
        #: Called once, with a sentence if the instance did not speak the protocol.
        self._on_end = on_end
        self._transport: asyncio.Transport | None = None
        #: Frames to send once those received are handled; None while none are.
        self._gathered: list[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is watched."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Bytes of frames. What is sent because of them goes in one system call."""
        self._gathered = []
        try:
            for kind, meta, payload in self._reader.feed(data):
                self._on_frame(kind, meta, payload)
        except BrokenFrame as broken:
            self._end(f"it did not speak the protocol: {broken}")
        gathered, self._gathered = self._gathered, None
        if gathered and self._transport is not None:
            self._transport.write(gathered[0] if len(gathered) == 1 else b"".join(gathered))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The instance closed it, or we did."""
        self._end("")

    def send(self, frame: bytes) -> None:
        """Write, never blocking."""
        if self._gathered is not None:
            self._gathered.append(frame)
        elif self._transport is not None:
            self._transport.write(frame)

    def close(self) -> None:
        """Stop watching; what is unsent is dropped."""
        if self._transport is not None:
            self._transport.abort()

    def _end(self, problem: str) -> None:
        on_end, self._on_end = self._on_end, _ignore
        self.close()
        self._transport = None
        on_end(problem)


class Output:
    """What an instance writes to its real stdout or stderr. Owns the pipe's descriptor."""

    def __init__(
        self, descriptor: int, *, on_text: Callable[[str], None], on_end: Callable[[], None]
    ) -> None:
        self._descriptor = descriptor
        self._on_text = on_text
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._window_ends = 0.0
        self._passed = 0
        self._dropped = 0
        os.set_blocking(descriptor, False)
        self._loop.add_reader(descriptor, self._read)

    def close(self) -> None:
        """Stop watching; says so through `on_end` if it was not said before."""
        if self._descriptor < 0:
            return
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1
        self._tell_dropped()
        self._on_end()

    def _read(self) -> None:
        """Always read, so that nobody blocks on the pipe; pass on what a second may bring."""
        try:
            data = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self.close()
            return
        now = self._loop.time()
        if now >= self._window_ends:
            self._window_ends = now + _WINDOW_S
            self._passed = 0
            self._tell_dropped()
        room = max(0, _OUTPUT_BYTES_MAX - self._passed)
        self._dropped += max(0, len(data) - room)
        self._passed += len(data)
        if room:
            self._on_text(data[:room].decode("utf-8", "replace"))

    def _tell_dropped(self) -> None:
        if self._dropped:
            self._on_text(f"{self._dropped} bytes of output were dropped: too much in one second")
            self._dropped = 0


def _ignore(*_: object) -> None:
    return
