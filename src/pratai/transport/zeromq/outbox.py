"""What waits to be sent to one peer: batched by turns of the loop, bounded in number and bytes.

ZeroMQ's own buffers are kept small, since what lies in them is lost without a word when a process
dies; what waits, waits here, where it is counted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import zmq
from zmq.utils.monitor import parse_monitor_message

from pratai.metrics import count
from pratai.wire.codec import frames_of
from pratai.wire.messages import Message

#: Messages in one batch.
BATCH_MAX = 64
#: Payload bytes after which a batch is closed.
BATCH_BYTES_MAX = 1 << 20
#: Payload bytes that may wait for one peer.
WAITING_BYTES_MAX = 256 << 20
_CONNECTION = zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED
#: Time before a peer that took nothing is tried again.
RETRY_S = 0.002


class Outbox:
    """A PUSH socket to one peer, and what waits for it."""

    def __init__(
        self, socket: zmq.Socket[bytes], loop: asyncio.AbstractEventLoop, *, waiting_max: int
    ) -> None:
        self._socket = socket
        self._loop = loop
        self._waiting_max = waiting_max
        #: Oldest first. At most `waiting_max`, and `WAITING_BYTES_MAX` of payload.
        self._waiting: deque[Message] = deque()
        self._waiting_bytes = 0
        self._flush: asyncio.Handle | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._monitor_fd = -1
        self._gone: Callable[[], None] | None = None
        self._gone_after_s = 0.0
        self._going: asyncio.TimerHandle | None = None

    def watch(self, gone: Callable[[], None], *, after_s: float) -> None:
        """Have `gone` called when the connection broke and was not made again for `after_s`."""
        self._gone, self._gone_after_s = gone, after_s
        self._monitor = self._socket.get_monitor_socket(_CONNECTION)
        self._monitor_fd = int(self._monitor.getsockopt(zmq.FD))
        self._loop.add_reader(self._monitor_fd, self._on_connection)
        self._loop.call_soon(self._on_connection)

    def _on_connection(self) -> None:
        while self._monitor is not None:
            try:
                event = parse_monitor_message(self._monitor.recv_multipart(zmq.DONTWAIT))["event"]
            except zmq.Again:
                return
            if self._going is not None:
                self._going.cancel()
                self._going = None
            if event == zmq.EVENT_DISCONNECTED and self._gone is not None:
                self._going = self._loop.call_later(self._gone_after_s, self._gone)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, message: Message) -> None:
        """Send at the end of this turn of the loop, or when the peer takes it."""
        size = _size(message)
        if (
            len(self._waiting) >= self._waiting_max
            or self._waiting_bytes + size > WAITING_BYTES_MAX
        ):
            count("messages_dropped")
            return
        self._waiting.append(message)
        self._waiting_bytes += size
        if self._flush is None:
            self._flush = self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send what the peer takes now."""
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        waiting = self._waiting
        while waiting:
            batch, size = self._next_batch()
            try:
                self._socket.send_multipart(frames_of(batch), zmq.DONTWAIT)
            except zmq.Again:
                waiting.extendleft(reversed(batch))
                self._flush = self._loop.call_later(RETRY_S, self.flush)
                return
            self._waiting_bytes -= size

    def _next_batch(self) -> tuple[list[Message], int]:
        waiting = self._waiting
        batch: list[Message] = []
        size = 0
        while waiting and len(batch) < BATCH_MAX and size < BATCH_BYTES_MAX:
            batch.append(waiting.popleft())
            size += _size(batch[-1])
        return batch, size

    def close(self, linger_ms: int) -> None:
        """Give up what waits here; what ZeroMQ holds has `linger_ms` to leave."""
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        if self._waiting:
            count("messages_dropped", len(self._waiting))
            self._waiting.clear()
            self._waiting_bytes = 0
        if self._going is not None:
            self._going.cancel()
        if self._monitor is not None:
            self._loop.remove_reader(self._monitor_fd)
            self._monitor = None
            self._socket.disable_monitor()
        self._socket.close(linger_ms)


def _size(message: Message) -> int:
    payload = getattr(message, "payload", None)
    return len(payload) if payload else 0
