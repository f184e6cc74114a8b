"""The loop of an instance: receive an event, run the handler, answer.

One thread, blocking reads, no event loop unless the handler is asynchronous. Everything that can
go wrong in user code ends in exactly one RESULT or ERROR frame. What a sandbox is, and how this
process came to be, is told elsewhere (`sandbox.py`, `zygote.py`).
"""

from __future__ import annotations

import inspect
import json
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from . import frames
from .context import Context, facts_of
from .frames import Channel, encode, result_head
from .handler import Entry, HandlerMissing, describe, load
from .records import Records, Stream

#: Asks a busy worker to hand back the events it has not begun.
RECALL_SIGNAL = signal.SIGRTMIN + 7

_JSON = "application/json"
_BYTES = "application/octet-stream"
_TEXT = "text/plain; charset=utf-8"
_LINES = "application/x-ndjson"
#: Results of these types are neither awaited nor iterated.
_PLAIN = frozenset({dict, list, tuple, str, int, float, bool, bytes, type(None)})

_from_json = json.JSONDecoder().decode
_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


class EventUnreadable(Exception):
    """The event says it is JSON and is not."""


class TooLarge(Exception):
    """The result is above its limit."""


class Unserialisable(Exception):
    """The result cannot be written as JSON."""


_CODES: dict[type[BaseException], str] = {
    EventUnreadable: "event_unreadable",
    TooLarge: "result_too_large",
    Unserialisable: "result_unserialisable",
    SystemExit: "exited",
}


def import_handler(spec: dict[str, Any]) -> Entry | dict[str, Any]:
    """The handler of this package, or the meta of the INIT_ERROR that says why there is none."""
    try:
        return Entry(load(spec["handler"], spec["code_dir"]))
    except HandlerMissing as missing:
        return {"code": "handler_missing", "type": "HandlerMissing", "message": str(missing)}
    except BaseException as error:
        return {"code": "import_error", **describe(error, spec["code_dir"])}


class Worker:
    """One instance. `run` returns when the node asks for it or is gone."""

    def __init__(
        self,
        spec: dict[str, Any],
        channel: Channel,
        *,
        records: Records,
        streams: tuple[Stream, Stream],
        outputs: tuple[int, int],
    ) -> None:
        self.spec = spec
        self.channel = channel
        self.records = records
        self.streams = streams
        #: Spare descriptors of the real stdout and stderr, out of reach of `os.close(1)`.
        self.outputs = outputs
        self._facts = facts_of(spec)
        self._bytes_max: int = spec["result_bytes_max"]
        self._loop: Any = None
        #: Whether user code is running now: the only time at which events may be recalled.
        self._running = False
        #: Recalls under way: the first one does the work of those that interrupt it.
        self._recalls = 0

    def run(self, entry: Entry | None) -> None:
        """Import the handler unless that was done before the fork; then serve."""
        began_ns = time.monotonic_ns()
        self.records.attach(self.channel)
        if entry is None:
            loaded = import_handler(self.spec)
            if isinstance(loaded, dict):
                self._send_last(encode(frames.INIT_ERROR, loaded))
                return
            entry = loaded
        signal.signal(RECALL_SIGNAL, self._on_recall)
        signal.siginterrupt(RECALL_SIGNAL, False)
        self._send_last(encode(frames.READY, {"init_us": _elapsed_us(began_ns)}))
        while (frame := self.channel.next()) is not None:
            kind, meta, payload = frame
            if kind == frames.EVENT:
                self._handle(entry, _from_json(meta.decode()), payload)
            elif kind == frames.SHUTDOWN:
                return

    def _handle(self, entry: Entry, meta: dict[str, Any], payload: bytes) -> None:
        self.records.begin(meta["request_id"])
        self._restore_outputs()
        began_ns = time.monotonic_ns()
        try:
            content_type, body, streamed = self._call(entry, meta, payload)
        except BaseException as error:
            failure = self._failure(error)
            self._send_last(
                encode(frames.ERROR, {**failure, "run_us": _elapsed_us(began_ns)}),
            )
            return
        head = result_head(
            run_us=_elapsed_us(began_ns),
            content_type=content_type,
            streamed=streamed,
            payload_bytes=len(body),
        )
        self._send_last(head, body)

    def _call(self, entry: Entry, meta: dict[str, Any], payload: bytes) -> tuple[str, bytes, bool]:
        event = _decode(meta.get("content_type", _JSON), payload)
        context = Context(self._facts, meta)
        self._running = True
        try:
            value = entry(event, context)
            if type(value) not in _PLAIN:
                if inspect.isawaitable(value):
                    value = self._await(value)
                if inspect.isgenerator(value):
                    self._stream(value)
                    return _BYTES, b"", True
                if inspect.isasyncgen(value):
                    self._stream(self._iterate(value))
                    return _BYTES, b"", True
        finally:
            self._running = False
        if isinstance(value, (bytes, bytearray, memoryview)):
            self._check_size(memoryview(value).nbytes)
            return _BYTES, bytes(value), False
        return _JSON, self._json(value), False

    def _await(self, awaitable: Any) -> Any:
        if self._loop is None:
            import asyncio

            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        if not inspect.iscoroutine(awaitable):
            awaitable = _settle(awaitable)
        return self._loop.run_until_complete(awaitable)

    def _iterate(self, stream: Any) -> Iterator[Any]:
        while True:
            try:
                yield self._await(stream.__anext__())
            except StopAsyncIteration:
                return

    def _stream(self, parts: Iterator[Any]) -> None:
        first = True
        for part in parts:
            if isinstance(part, str):
                content_type, data = _TEXT, part.encode("utf-8", "replace")
            elif isinstance(part, (bytes, bytearray, memoryview)):
                content_type, data = _BYTES, bytes(part)
            else:
                content_type, data = _LINES, self._json(part) + b"\n"
            self._check_size(len(data))
            if os.getpid() != self.channel.pid:
                os._exit(0)
            chunk = encode(frames.CHUNK, {"content_type": content_type} if first else {}, data)
            self.channel.send(*self.records.take(), chunk)
            first = False

    def _json(self, value: Any) -> bytes:
        if isinstance(value, str):
            self._check_size(len(value))
        try:
            data = _to_json(value).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise Unserialisable(
                f"the handler returned {type(value).__name__}, which is not JSON: {error}"
            ) from None
        self._check_size(len(data))
        return data

    def _check_size(self, size: int) -> None:
        if size > self._bytes_max:
            raise TooLarge(f"the result has {size} bytes; the limit is {self._bytes_max} bytes")

    def _failure(self, error: BaseException) -> dict[str, Any]:
        code = _CODES.get(type(error), "function_error")
        failure = {"code": code, **describe(error, self.spec["code_dir"])}
        if isinstance(error, SystemExit):
            status = 0 if error.code is None else error.code
            failure["message"] = f"the handler called sys.exit({status!r})"
        elif code != "function_error":
            failure["stack"] = []
        return failure

    def _send_last(self, *last: Any) -> None:
        """End an invocation: what it wrote, then its answer, in one write.
        A process that the handler forked ends here: only the instance itself answers.
        """
        if os.getpid() != self.channel.pid:
            os._exit(0)
        for stream in self.streams:
            stream.end()
        self.channel.send(*self.records.finish(), *last)

    def _restore_outputs(self) -> None:
        for descriptor, spare in zip((1, 2), self.outputs, strict=True):
            try:
                os.fstat(descriptor)
            except OSError:
                os.dup2(spare, descriptor)

    def _on_recall(self, _signal: int, _frame: FrameType | None) -> None:
        """Hand back the events that wait in the socket while user code runs.
        A recall may interrupt a recall, whose buffer is then between two states: once more, after.
        """
        if not self._running or os.getpid() != self.channel.pid:
            return
        self._recalls += 1
        if self._recalls > 1:
            return
        try:
            while self._recalls:
                seen = self._recalls
                self._return_waiting()
                self._recalls -= seen
        finally:
            self._recalls = 0

    def _return_waiting(self) -> None:
        waiting = self.channel.take_waiting()
        self.channel.put_back([frame for frame in waiting if frame[0] != frames.EVENT])
        returned = [
            encode(frames.RETURNED, {"request_id": json.loads(meta)["request_id"]})
            for kind, meta, _ in waiting
            if kind == frames.EVENT
        ]
        if returned:
            self.channel.send(*returned)


async def _settle(awaitable: Any) -> Any:
    return await awaitable


def _decode(content_type: str, payload: bytes) -> Any:
    if content_type != _JSON:
        kind = content_type.partition(";")[0].strip().lower()
        if kind != _JSON and not kind.endswith("+json"):
            return payload
    if not payload:
        return None
    try:
        return _from_json(payload.decode())
    except ValueError as error:
        raise EventUnreadable(f"the event is not JSON: {error}") from None


def _elapsed_us(began_ns: int) -> int:
    return (time.monotonic_ns() - began_ns) // 1_000
