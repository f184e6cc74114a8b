"""A PULL socket on the event loop: drained, decoded, handed on.

A plain socket and the loop's own watch on its descriptor take 1/10 of the time of `zmq.asyncio`
(`docs/performance.md`). The descriptor is edge-triggered: it is drained until nothing is left, or
looked at again in the next turn.
"""

from __future__ import annotations

import asyncio

import zmq
from zmq.utils.monitor import parse_monitor_message

from pratai.transport.base import Receiver
from pratai.transport.complaints import Complaints
from pratai.wire.codec import Decoder, Malformed
from pratai.wire.messages import Message

#: Batches taken in one turn of the loop, so that others have theirs.
TURN_MAX = 32
#: Frames of one batch that are looked at.
FRAMES_MAX = 1_024

_REFUSALS = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


class Inlet:
    """Takes messages of one kind of address from other processes."""

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        kind: str,
        receiver: Receiver,
        *,
        loop: asyncio.AbstractEventLoop,
        frame_bytes_max: int,
        complaints: Complaints,
    ) -> None:
        self._socket = socket
        self._kind = kind
        self._receiver = receiver
        self._loop = loop
        self._frame_bytes_max = frame_bytes_max
        self._complaints = complaints
        self._decoder = Decoder(kind)
        self._again: asyncio.Handle | None = None
        self._fd = int(socket.getsockopt(zmq.FD))
        self._monitor = socket.get_monitor_socket(_REFUSALS)
        self._monitor_fd = int(self._monitor.getsockopt(zmq.FD))
        loop.add_reader(self._fd, self._drain)
        loop.add_reader(self._monitor_fd, self._on_monitor)
        self._again = loop.call_soon(self._drain)
        loop.call_soon(self._on_monitor)

    def close(self) -> None:
        """Take nothing any more."""
        self._loop.remove_reader(self._fd)
        self._loop.remove_reader(self._monitor_fd)
        if self._again is not None:
            self._again.cancel()
        self._socket.disable_monitor()
        self._socket.close(0)

    def _drain(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None
        socket, receiver = self._socket, self._receiver
        for _ in range(TURN_MAX):
            try:
                frames = socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            try:
                messages = self._decoded(frames)
            except Malformed as error:
                self._complaints.add("frames_refused", self._kind, str(error))
                continue
            for message in messages:
                receiver(message)
        self._again = self._loop.call_soon(self._drain)

    def _decoded(self, frames: list[bytes]) -> list[Message]:
        if len(frames) > FRAMES_MAX:
            raise Malformed(f"{len(frames)} frames in one batch")
        if max(map(len, frames)) > self._frame_bytes_max:
            raise Malformed(f"a frame of more than {self._frame_bytes_max} bytes")
        return self._decoder.messages(frames)

    def _on_monitor(self) -> None:
        """Somebody could not say who it is, or speaks something else."""
        while not self._monitor.closed:
            try:
                event = parse_monitor_message(self._monitor.recv_multipart(zmq.DONTWAIT))
            except zmq.Again:
                return
            self._complaints.add("strangers_refused", self._kind, str(event["event"]))
