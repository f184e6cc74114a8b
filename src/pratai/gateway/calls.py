"""A sync call on its way: what was asked, who waits, and what came back. No HTTP here."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from pratai.model.function import Version
from pratai.model.invocation import Invocation, Mark, Mode
from pratai.wire.messages import Invoke, Result

#: Written to a connection at once; what waits behind it is counted, what is written is not.
TAKE_BYTES = 256 * 1024


class Call:
    """A sync call that waits. `begun` resolves to its `Result`, or to None when it streams.

    With a `listener` nobody awaits: it is called once, with the result or the first chunk there.
    """

    __slots__ = (
        "began_us",
        "begun",
        "chunk_bytes",
        "chunks",
        "content_type",
        "following",
        "gone",
        "invoke",
        "listener",
        "more",
        "qualifier",
        "resent",
        "result",
        "version",
    )

    def __init__(
        self,
        invoke: Invoke,
        version: Version,
        *,
        qualifier: str,
        began_us: int,
        begun: asyncio.Future[Result | None] | None,
        listener: Callable[[Call], None] | None = None,
    ) -> None:
        self.invoke = invoke
        self.version = version
        self.qualifier = qualifier
        #: When it was accepted, on the monotonic clock.
        self.began_us = began_us
        #: None with a listener.
        self.begun = begun
        self.listener = listener
        #: Parts of a streamed result not yet written to the caller.
        self.chunks: deque[bytes] = deque()
        self.chunk_bytes = 0
        self.content_type = ""
        self.result: Result | None = None
        #: When the journal is looked into for it; None for a call without an idempotency key.
        self.following: asyncio.TimerHandle | None = None
        #: Whether it was said to a second scheduler.
        self.resent = False
        #: How to notice that the caller has gone; None when nobody watches, or somebody does.
        self.gone: Callable[[], Awaitable[None]] | None = None
        #: Resolved when there are more chunks, or the result, for who waits for them.
        self.more: asyncio.Future[None] | None = None

    def answer(self, result: Result) -> None:
        """The result is there."""
        self.result = result
        self._tell(result)

    def add(self, payload: bytes, content_type: str) -> None:
        """A part of the result is there."""
        self.content_type = self.content_type or content_type
        self.chunks.append(payload)
        self.chunk_bytes += len(payload)
        self._tell(None)

    def take(self) -> bytes:
        """The oldest of what was streamed, about `TAKE_BYTES` at a time."""
        parts, size = [], 0
        while self.chunks and size < TAKE_BYTES:
            parts.append(self.chunks.popleft())
            size += len(parts[-1])
        self.chunk_bytes -= size
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def drop(self) -> int:
        """Forget what nobody will read; how many bytes."""
        size, self.chunk_bytes = self.chunk_bytes, 0
        self.chunks.clear()
        return size

    def _tell(self, result: Result | None) -> None:
        listener, begun = self.listener, self.begun
        if listener is not None:
            self.listener = None
            listener(self)
        elif begun is not None and not begun.done():
            begun.set_result(result)
        if self.more is not None and not self.more.done():
            self.more.set_result(None)


def invoke_of(invocation: Invocation, *, reply_to: str) -> Invoke:
    """The message that has a journalled invocation run."""
    return Invoke(
        request_id=invocation.request_id,
        namespace=invocation.namespace,
        function=invocation.function,
        version_id=invocation.version_id,
        reply_to=reply_to,
        deadline_ms=invocation.expires_at_ms,
        timeout_ms=invocation.timeout_ms,
        accepted_at_ms=invocation.accepted_at_ms,
        payload=invocation.event,
        content_type=invocation.content_type,
        journalled=True,
        attempts_max=invocation.attempts_max,
        backoff_ms=invocation.backoff_ms,
        concurrency_max=invocation.concurrency_max,
        memory_mb=invocation.memory_mb,
        trace=invocation.trace,
        idempotency_key=invocation.idempotency_key,
        trigger=invocation.trigger,
    )


def new_invocation(
    version: Version,
    request_id: str,
    *,
    now_ms: int,
    mode: Mode,
    event: bytes,
    content_type: str,
    qualifier: str = "",
    timeout_ms: int = 0,
    idempotency_key: str = "",
    trace: str = "",
    trigger: str = "http",
    replay_of: str = "",
) -> Invocation:
    """An accepted invocation of a version, for the journal."""
    config = version.config
    timeout_ms = timeout_ms or config.timeout_ms
    age_ms = timeout_ms if mode == "sync" else config.event_age_max_ms
    return Invocation(
        namespace=version.namespace,
        request_id=request_id,
        function=version.name,
        version=str(version.number),
        qualifier=qualifier,
        mode=mode,
        trigger=trigger,
        content_type=content_type,
        event=event,
        idempotency_key=idempotency_key,
        trace=trace,
        accepted_at_ms=now_ms,
        timeout_ms=timeout_ms,
        attempts_max=1 if mode == "sync" else config.retries + 1,
        backoff_ms=config.retry_backoff_ms,
        expires_at_ms=now_ms + age_ms,
        concurrency_max=config.concurrency_max or 0,
        memory_mb=config.memory_mb,
        replay_of=replay_of,
        timeline=[Mark("accepted", now_ms)],
    )


def finished_invocation(call: Call, result: Result, *, now_ms: int, total_us: int) -> Invocation:
    """The record of a sync call that was not journalled, after the fact."""
    invoke = call.invoke
    marks = [Mark("accepted", invoke.accepted_at_ms)]
    if result.placed_at_ms:
        marks.append(Mark("placed", result.placed_at_ms, 1, result.node_id))
    if result.started_at_ms:
        detail: str = result.start_kind
        if result.cold_reason:
            detail = f"{detail}: {result.cold_reason}"
        marks.append(Mark("started", result.started_at_ms, 1, detail))
        marks.append(Mark("ran", now_ms, 1, result.outcome))
    marks.append(Mark("answered", now_ms, 1, result.failure.code if result.failure else ""))
    return Invocation(
        namespace=invoke.namespace,
        request_id=invoke.request_id,
        function=invoke.function,
        version=str(call.version.number),
        qualifier=call.qualifier,
        mode="sync",
        trigger=invoke.trigger,
        content_type=invoke.content_type,
        event=invoke.payload,
        trace=invoke.trace,
        accepted_at_ms=invoke.accepted_at_ms,
        timeout_ms=invoke.timeout_ms,
        expires_at_ms=invoke.deadline_ms,
        state="done",
        attempt=result.attempt,
        outcome=result.outcome,
        failure=result.failure,
        result=result.payload,
        result_content_type=result.content_type,
        timeline=marks,
        start_kind=result.start_kind,
        cold_reason=result.cold_reason,
        node_id=result.node_id,
        instance_id=result.instance_id,
        queue_us=max(0, total_us - result.start_us - result.run_us),
        start_us=result.start_us,
        run_us=result.run_us,
        finished_at_ms=now_ms,
    )
