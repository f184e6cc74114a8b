"""Frames between a node and its instances, over one stream socket for each instance.

    u8 kind | u32 meta length | u32 payload length | meta (JSON object) | payload (bytes)

Integers are little-endian. The bootstraps of the runtimes have their own few lines of this, since
they import nothing of pratai; `tests/contract/test_runtime.py` holds both to the same bytes.

Node to instance: EVENT, SHUTDOWN. Instance to node: READY once, or INIT_ERROR and exit; then for
each EVENT any number of LOG and CHUNK, and one RESULT or ERROR. RETURNED, after a recall, hands
back an EVENT that was not begun, in place of its RESULT or ERROR.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec

HEAD = struct.Struct("<BII")
HEAD_BYTES = HEAD.size
#: No meta is larger; what claims to be is not a bootstrap talking.
META_BYTES_MAX = 1 << 20

EVENT, SHUTDOWN = 1, 2
READY, RESULT, ERROR, CHUNK, LOG, INIT_ERROR, RETURNED = 16, 17, 18, 19, 20, 21, 22


class EventMeta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Meta of EVENT."""

    request_id: str
    deadline_ms: int
    content_type: str = "application/json"
    attempt: int = 1
    trace: str = ""
    idempotency_key: str = ""
    trigger: str = "http"


class ReadyMeta(msgspec.Struct, frozen=True, kw_only=True):
    """Meta of READY: how long importing the user's code took in this instance."""

    init_us: int = 0


class ResultMeta(msgspec.Struct, frozen=True, kw_only=True):
    """Meta of RESULT. `streamed`: the payload went before in CHUNK frames."""

    run_us: int
    content_type: str = "application/json"
    streamed: bool = False


class ErrorMeta(msgspec.Struct, frozen=True, kw_only=True):
    """Meta of ERROR and INIT_ERROR.

    `code`: function_error, import_error, handler_missing, result_unserialisable,
    result_too_large, exited, event_unreadable, sandbox_failed.
    """

    code: str
    type: str = ""
    message: str = ""
    stack: list[str] = []
    run_us: int = 0


class LogMeta(msgspec.Struct, frozen=True, kw_only=True):
    """Meta of LOG; the payload is the text in UTF-8. `request_id` is "" during init."""

    at_ms: int
    level: str = "INFO"
    request_id: str = ""


class ChunkMeta(msgspec.Struct, frozen=True, kw_only=True):
    """Meta of CHUNK; the first one names the content type."""

    content_type: str = ""


class ReturnedMeta(msgspec.Struct, frozen=True, kw_only=True):
    """Meta of RETURNED: the event of this request was not begun and never will be here."""

    request_id: str


class BrokenFrame(ValueError):
    """The peer does not speak this protocol; its socket is of no further use."""


def encode(kind: int, meta: msgspec.Struct | None = None, payload: bytes = b"") -> bytes:
    """One frame as bytes."""
    head = msgspec.json.encode(meta) if meta is not None else b""
    return HEAD.pack(kind, len(head), len(payload)) + head + payload


class FrameReader:
    """Cuts a byte stream into frames. `payload_bytes_max` bounds what one frame may claim."""

    def __init__(self, payload_bytes_max: int) -> None:
        self._buffer = bytearray()
        self._payload_bytes_max = payload_bytes_max

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
        """Add bytes; yield (kind, meta, payload) of each frame now whole.

        Raises:
            BrokenFrame: a length is beyond its bound.

        """
        buffer = self._buffer
        buffer += data
        start, size = 0, len(buffer)
        try:
            while size - start >= HEAD_BYTES:
                kind, meta_size, payload_size = HEAD.unpack_from(buffer, start)
                if meta_size > META_BYTES_MAX or payload_size > self._payload_bytes_max:
                    raise BrokenFrame(f"frame of {meta_size} + {payload_size} bytes")
                body = start + HEAD_BYTES
                end = body + meta_size + payload_size
                if end > size:
                    break
                cut = body + meta_size
                start = end
                yield kind, bytes(buffer[body:cut]), bytes(buffer[cut:end])
        finally:
            del buffer[:start]
