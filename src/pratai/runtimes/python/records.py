"""What user code prints and logs, as LOG frames of the invocation that wrote it.

`Records` gathers frames and sends them with the next thing that is sent anyway, or by itself when
a tenth of a second has passed, even while user code sleeps. `Stream` stands in for `sys.stdout`
and `sys.stderr`, `Handler` for the handlers of `logging`. A call never waits for its logs.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import threading
import time
from typing import Any

from .alarm import Alarm
from .frames import HEAD, LOG, Channel

#: Records that wait longer than this are sent at the next write.
_FLUSH_AFTER_NS = 100_000_000
#: Waiting records beyond this size are sent at once.
_WAITING_BYTES_MAX = 64 * 1024
#: A line without an end is cut into records of this size.
_LINE_BYTES_MAX = 64 * 1024
_TRACEBACK = "Traceback (most recent call last):"


class Records:
    """Log records on their way out, bounded per invocation to `bytes_max`."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        #: None before there is an instance (in a function zygote): records wait for one.
        self.channel: Channel | None = None
        #: Re-entrant: a signal handler of user code may print while a record is being put.
        self._lock = threading.RLock()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._flushed_ns = 0
        self._alarm: Alarm | None = None
        self._request = ""
        self._left = bytes_max
        self._cut = 0

    def attach(self, channel: Channel) -> None:
        """Send through this channel from now on, and never keep a record for long."""
        self.channel = channel
        self._alarm = Alarm(self.flush, after_ms=_FLUSH_AFTER_NS // 1_000_000)

    def begin(self, request_id: str) -> None:
        """From here on records belong to this invocation."""
        self._request = request_id
        self._left = self.bytes_max
        self._cut = 0
        self._flushed_ns = time.monotonic_ns()

    def add(self, level: str, text: str) -> None:
        """Keep one record; what is beyond the invocation's bound is counted instead."""
        data = text.encode("utf-8", "replace")
        if len(data) > self._left:
            self._cut += len(data) - self._left
            data = data[: self._left]
            if not data:
                return
        self._left -= len(data)
        self._put(level, data)

    def _put(self, level: str, data: bytes) -> None:
        if self.channel is not None and self.channel.pid != os.getpid():
            _write_raw(level, data)
            return
        meta = b'{"at_ms":%d,"level":%s,"request_id":%s}' % (
            time.time_ns() // 1_000_000,
            json.dumps(level).encode(),
            json.dumps(self._request).encode(),
        )
        frame = HEAD.pack(LOG, len(meta), len(data)) + meta + data
        with self._lock:
            first = not self._waiting
            self._waiting.append(frame)
            self._waiting_bytes += len(frame)
        if first and self._alarm is not None:
            self._alarm.set()
        late = time.monotonic_ns() - self._flushed_ns >= _FLUSH_AFTER_NS
        if late or self._waiting_bytes >= _WAITING_BYTES_MAX:
            self.flush()

    def flush(self) -> None:
        """Send what waits, once there is a channel."""
        self._flushed_ns = time.monotonic_ns()
        if self.channel is not None and self._waiting:
            self.channel.send(*self.take())

    def take(self) -> list[bytes]:
        """The frames that wait, to be sent by the caller in front of its own."""
        with self._lock:
            waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        return waiting

    def finish(self) -> list[bytes]:
        """`take` at the end of an invocation: says how much was cut, if any."""
        if self._cut:
            note = f"{self._cut} bytes of log were cut: the limit is {self.bytes_max} bytes"
            self._cut = 0
            self._put("WARNING", note.encode())
        return self.take()


def _write_raw(level: str, data: bytes) -> None:
    """A process that user code forked has no channel: it writes to the real stdout or stderr."""
    try:
        os.write(1 if level == "STDOUT" else 2, data + b"\n")
    except OSError:
        return


class Stream(io.TextIOBase):
    """`sys.stdout` or `sys.stderr` of an instance: each write that ends a line is one record."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, records: Records, level: str, descriptor: int) -> None:
        super().__init__()
        self.buffer = _Bytes(self)
        self._records = records
        self._level = level
        self._descriptor = descriptor
        self._held = ""
        self._in_traceback = False

    def write(self, text: str) -> int:
        """Hold until a line ends; a traceback is held until it is whole."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if not text:
            return 0
        if text.startswith(_TRACEBACK):
            self._emit()
            self._in_traceback = True
        elif self._in_traceback and not text.startswith((" ", "\n")):
            self._in_traceback = False
        self._held += text
        if len(self._held) >= _LINE_BYTES_MAX or (
            not self._in_traceback and self._held.endswith("\n")
        ):
            self._emit()
        return len(text)

    def end(self) -> None:
        """The invocation is over: what is held is a record, whole or not."""
        if self._held:
            self._in_traceback = False
            self._emit()

    def _emit(self) -> None:
        text, self._held = self._held, ""
        text = text.removesuffix("\n")
        if text:
            self._records.add(self._level, text)

    def flush(self) -> None:
        """Send what was written so far, a half line included."""
        if not self._in_traceback:
            self._emit()

    def close(self) -> None:
        """Does nothing: closing it must not silence later calls."""

    def writable(self) -> bool:
        """True."""
        return True

    def isatty(self) -> bool:
        """False."""
        return False

    def fileno(self) -> int:
        """The real descriptor, for programs that user code starts."""
        return self._descriptor


class _Bytes(io.BufferedIOBase):
    """`sys.stdout.buffer`: bytes are taken as UTF-8 text."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self._stream = stream

    def write(self, data: Any) -> int:
        text = bytes(data).decode("utf-8", "replace")
        self._stream.write(text)
        return len(data)

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        """Does nothing, as for the stream."""

    def writable(self) -> bool:
        return True


class Handler(logging.Handler):
    """The root handler of `logging`: one record each, exception text included."""

    def __init__(self, records: Records) -> None:
        super().__init__()
        self._records = records

    def emit(self, record: logging.LogRecord) -> None:
        """Turn a logging record into ours."""
        try:
            text = self.format(record)
        except Exception:
            self.handleError(record)
            return
        self._records.add(record.levelname, text)


def install(records: Records) -> tuple[Stream, Stream]:
    """Make `print`, `logging` and `warnings` of this process go to `records`."""
    out, err = Stream(records, "STDOUT", 1), Stream(records, "STDERR", 2)
    for name, stream in (("stdout", out), ("stderr", err)):
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    root = logging.getLogger()
    handler = Handler(records)
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    original = logging.basicConfig

    def basic_config(**options: Any) -> None:
        """`logging.basicConfig`, which would otherwise find a handler and do nothing at all."""
        if options.get("force") or root.handlers != [handler] or _names_target(options):
            original(**options)
            return
        if options.get("format") or options.get("datefmt"):
            style = options.get("style", "%")
            handler.setFormatter(
                logging.Formatter(options.get("format"), options.get("datefmt"), style)
            )
        if options.get("level") is not None:
            root.setLevel(options["level"])

    logging.basicConfig = basic_config
    return out, err


def _names_target(options: dict[str, Any]) -> bool:
    return any(options.get(name) is not None for name in ("filename", "handlers"))
