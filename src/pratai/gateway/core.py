"""The gateway's core: who may come in, who waits, and until when. Pure.

A sync call is admitted, sent to the scheduler and waits here for its `Result`. The node and the
scheduler answer late calls themselves, naming the stage; this core's own deadline, a little later,
is for when they cannot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from msgspec.structs import replace

from pratai.config import schema
from pratai.core.deadlines import Deadlines
from pratai.core.effects import Answer, Count, Effect, Send, StreamChunk, Wake
from pratai.core.machine import UnknownMessage
from pratai.model.invocation import Failure
from pratai.wire.messages import (
    BACKLOG_LASTS_MS,
    Backlog,
    Cancel,
    Chunk,
    Invoke,
    Message,
    Result,
    Tick,
)


class Gateway:
    """Decides which calls come in and who is answered. Performs no I/O."""

    def __init__(self, config: schema.Gateway, address: str) -> None:
        self._config = config
        #: Where results are sent: `gateway:ID`.
        self.address = address
        #: {request_id: bytes of its event} of sync calls not answered yet.
        self.waiting: dict[str, int] = {}
        self.waiting_bytes = 0
        self._deadlines = Deadlines()
        #: {namespace/function: seconds} of functions whose backlog is full; `/` = all together.
        self._full: dict[str, int] = {}
        #: When what was said to be full is believed no more, unless it is said again.
        self._full_until = Deadlines()
        self.draining = False

    def handle(self, message: Message, now_ms: int) -> list[Effect]:
        """Take one message; say what is to be done."""
        transition = self._TRANSITIONS.get(type(message))
        if transition is None:
            raise UnknownMessage(self, message)
        effects: list[Effect] = []
        transition(self, message, now_ms, effects)
        return effects

    def backlog_wait_s(self, namespace: str, function: str) -> int:
        """Seconds until an async event of this function may be accepted; 0 = now."""
        full = self._full
        return (full.get(f"{namespace}/{function}", 0) or full.get("/", 0)) if full else 0

    def forget_backlogs(self) -> None:
        """No backlog is known to be full: the scheduler that said so is gone."""
        self._full.clear()

    def _on_invoke(self, invoke: Invoke, now_ms: int, effects: list[Effect]) -> None:  # noqa: ARG002
        size = len(invoke.payload or b"")
        refusal = self._refusal(invoke, size)
        if refusal is not None:
            effects.append(Answer(refusal))
            if invoke.journalled:  # accepted already: it runs, and its key finds the result
                effects.append(Send("scheduler", replace(invoke, reply_to="")))
            return
        self.waiting[invoke.request_id] = size
        self.waiting_bytes += size
        due_ms = invoke.deadline_ms + self._config.deadline_grace_ms
        if self._deadlines.add(invoke.request_id, due_ms):
            effects.append(Wake(due_ms))
        effects.append(Send("scheduler", invoke))

    def _on_result(self, result: Result, now_ms: int, effects: list[Effect]) -> None:  # noqa: ARG002
        if self._leave(result.request_id):
            effects.append(Answer(result))
        else:
            effects.append(Count("results_unawaited"))

    def _on_chunk(self, chunk: Chunk, now_ms: int, effects: list[Effect]) -> None:  # noqa: ARG002
        if chunk.request_id in self.waiting:
            effects.append(StreamChunk(chunk.request_id, chunk.payload, chunk.content_type))

    def _on_cancel(self, cancel: Cancel, now_ms: int, effects: list[Effect]) -> None:  # noqa: ARG002
        if self._leave(cancel.request_id):
            effects.append(Send("scheduler", cancel))

    def _on_backlog(self, backlog: Backlog, now_ms: int, effects: list[Effect]) -> None:
        key = f"{backlog.namespace}/{backlog.function}"
        if backlog.full:
            self._full[key] = backlog.retry_after_s
            if self._full_until.add(key, now_ms + BACKLOG_LASTS_MS):
                effects.append(Wake(now_ms + BACKLOG_LASTS_MS))
        else:
            self._full.pop(key, None)
            self._full_until.discard(key)

    def _on_tick(self, tick: Tick, now_ms: int, effects: list[Effect]) -> None:  # noqa: ARG002
        for request_id in self._deadlines.due(now_ms):
            self.waiting_bytes -= self.waiting.pop(request_id)
            failure = Failure(
                code="timed_out",
                fault="platform",
                error_message="its deadline passed and neither node nor scheduler answered",
                next="Look at `pratai nodes`, then call again.",
            )
            result = Result(request_id=request_id, outcome="timed_out", failure=failure)
            effects.append(Answer(result))
            effects.append(Send("scheduler", Cancel(request_id=request_id)))
        for key in self._full_until.due(now_ms):
            del self._full[key]
        nexts = (self._deadlines.next_ms(), self._full_until.next_ms())
        effects.extend(Wake(due_ms) for due_ms in nexts if due_ms is not None)

    def _refusal(self, invoke: Invoke, size: int) -> Result | None:
        """The answer to a call that may not come in; None when it may."""
        config = self._config
        if self.draining:
            why, code = "this gateway is shutting down", "draining"
        elif len(self.waiting) >= config.waiting_max:
            why, code = f"{config.waiting_max} calls are waiting already", "throttled"
        elif self.waiting_bytes + size > config.waiting_bytes_max:
            why = f"waiting calls hold {config.waiting_bytes_max} bytes of events already"
            code = "throttled"
        else:
            return None
        return Result(
            request_id=invoke.request_id,
            outcome="throttled",
            failure=Failure(
                code=code,
                fault="platform" if self.draining else "caller",
                error_message=why,
                next="Ask again after the time in Retry-After.",
            ),
            retry_after_s=1,
        )

    def _leave(self, request_id: str) -> bool:
        size = self.waiting.pop(request_id, None)
        if size is None:
            return False
        self.waiting_bytes -= size
        self._deadlines.discard(request_id)
        return True

    def check(self) -> None:
        """All invariants."""
        self._deadlines.check()
        assert len(self._full_until) == len(self._full)
        assert self.waiting_bytes == sum(self.waiting.values())
        assert len(self._deadlines) == len(self.waiting)
        assert len(self.waiting) <= self._config.waiting_max

    _TRANSITIONS: ClassVar[dict[type[Message], Callable[..., None]]] = {
        Invoke: _on_invoke,
        Result: _on_result,
        Chunk: _on_chunk,
        Cancel: _on_cancel,
        Backlog: _on_backlog,
        Tick: _on_tick,
    }
