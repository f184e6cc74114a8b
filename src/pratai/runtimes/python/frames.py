"""Frames on the channel between this instance and its node.

    u8 kind | u32 meta length | u32 payload length | meta (JSON object) | payload (bytes)

The same bytes as `pratai/wire/frames.py`, which this folder may not import; a contract test holds
the two together. Nothing here knows what a handler is.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from typing import Any

HEAD = struct.Struct("<BII")

EVENT, SHUTDOWN = 1, 2
READY, RESULT, ERROR, CHUNK, LOG, INIT_ERROR, RETURNED = 16, 17, 18, 19, 20, 21, 22

#: A small buffer stays in the cache: measured 25 % faster than a large one for small events.
_RECEIVE_BYTES = 16 * 1024
#: Above this, a payload is written by itself instead of being copied behind its head.
_JOIN_BYTES_MAX = 64 * 1024

Frame = tuple[int, bytes, bytes]

_to_json = json.JSONEncoder(separators=(",", ":")).encode


def result_head(*, run_us: int, content_type: str, streamed: bool, payload_bytes: int) -> bytes:
    """Head and meta of a RESULT whose payload is sent right behind, uncopied.

    Written by hand, for it is most of what an instance sends: `content_type` is one of the few of
    `worker.py`, which JSON need not escape.
    """
    meta = b'{"run_us":%d,"content_type":"%b","streamed":%b}' % (
        run_us,
        content_type.encode(),
        b"true" if streamed else b"false",
    )
    return HEAD.pack(RESULT, len(meta), payload_bytes) + meta


def encode(kind: int, meta: dict[str, Any] | None = None, payload: bytes = b"") -> bytes:
    """One frame as bytes."""
    head = b"" if meta is None else _to_json(meta).encode()
    return HEAD.pack(kind, len(head), len(payload)) + head + payload


class Channel:
    """This instance's end of its stream socket.

    Reading: `next` blocks for a frame; `take_waiting` takes what is there already. Writing: `send`
    is safe from any thread, from a signal handler (written right after the write under way), and
    does nothing in a process that was forked from this one.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.pid = os.getpid()
        self._sock = sock
        #: Bytes received and not yet cut into frames.
        self._buffer = bytearray()
        #: Re-entrant: a signal handler may come between taking it and `_writer` being set.
        self._lock = threading.RLock()
        #: The thread that is writing now; 0 = none.
        self._writer = 0
        #: Frames of a signal handler that came in the middle of a write of the same thread.
        self._after: list[bytes] = []

    def next(self) -> Frame | None:
        """The next frame, or None once the node has closed the socket."""
        while True:
            frame = self._cut()
            if frame is not None:
                return frame
            missing = self._missing()
            data = self._sock.recv(min(max(_RECEIVE_BYTES, missing), 1 << 20))
            if not data:
                return None
            self._buffer += data

    def take_waiting(self) -> list[Frame]:
        """Every whole frame that has arrived, without blocking, in order."""
        frames: list[Frame] = []
        while True:
            while (frame := self._cut()) is not None:
                frames.append(frame)
            try:
                data = self._sock.recv(1 << 18, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return frames
            if not data:
                return frames
            self._buffer += data

    def put_back(self, frames: list[Frame]) -> None:
        """Undo taking these frames; they come before whatever else has arrived."""
        head = b"".join(
            HEAD.pack(kind, len(meta), len(payload)) + meta + payload
            for kind, meta, payload in frames
        )
        self._buffer[:0] = head

    def send(self, *frames: bytes) -> None:
        """Write frames in one go. A node that is gone is noticed by `next`, not here."""
        if os.getpid() != self.pid:
            return
        me = threading.get_ident()
        if self._writer == me:
            self._after.extend(frames)
            return
        with self._lock:
            self._send(me, frames)
            while self._after:
                waiting, self._after = self._after, []
                self._send(me, waiting)

    def _send(self, me: int, frames: tuple[bytes, ...] | list[bytes]) -> None:
        self._writer = me
        try:
            self._write(frames)
        finally:
            self._writer = 0

    def _write(self, frames: tuple[bytes, ...] | list[bytes]) -> None:
        try:
            if sum(map(len, frames)) <= _JOIN_BYTES_MAX:
                self._sock.sendall(b"".join(frames))
            else:
                for frame in frames:
                    self._sock.sendall(frame)
        except (BrokenPipeError, ConnectionResetError):
            return

    def _cut(self) -> Frame | None:
        buffer = self._buffer
        if len(buffer) < HEAD.size:
            return None
        kind, meta_size, payload_size = HEAD.unpack_from(buffer)
        cut = HEAD.size + meta_size
        end = cut + payload_size
        if len(buffer) < end:
            return None
        frame = (kind, bytes(buffer[HEAD.size : cut]), bytes(buffer[cut:end]))
        del buffer[:end]
        return frame

    def _missing(self) -> int:
        if len(self._buffer) < HEAD.size:
            return 0
        _, meta_size, payload_size = HEAD.unpack_from(self._buffer)
        return HEAD.size + int(meta_size) + int(payload_size) - len(self._buffer)
