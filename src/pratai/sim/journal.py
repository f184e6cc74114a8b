"""The journal of the simulation: keeps what the store's contract says, in a dict.

Writes become durable a little after they are asked for; what a process had asked for when it died
and was not durable yet is lost, as it would be with a commit that never came.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from pratai.model.invocation import Invocation, Mark
from pratai.wire.messages import Outcome


class Journal:
    """{request_id: Invocation} of every accepted one."""

    def __init__(self) -> None:
        self.invocations: dict[str, Invocation] = {}

    def accept(self, invocation: Invocation) -> None:
        """Keep a new invocation."""
        assert invocation.request_id not in self.invocations
        self.invocations[invocation.request_id] = invocation

    def lease(self, request_id: str, attempt: int, node_id: str) -> None:
        """An attempt began; older and finished ones stay as they are."""
        self._change(
            request_id,
            lambda now: now.attempt < attempt,
            state="leased",
            attempt=attempt,
            node_id=node_id,
        )

    def retry(self, outcome: Outcome, available_at_ms: int) -> None:
        """Back to the queue, unless a later attempt is known or it is done."""
        platform = outcome.failure is not None and outcome.failure.fault == "platform"
        mark = Mark("lost" if platform else "retried", outcome.finished_at_ms, outcome.attempt)
        invocation = self.invocations[outcome.request_id]
        self._change(
            outcome.request_id,
            lambda now: now.attempt <= outcome.attempt,
            state="queued",
            attempt=outcome.attempt,
            available_at_ms=available_at_ms,
            timeline=[*invocation.timeline, mark],
        )

    def finish(self, outcome: Outcome, *, dead: bool) -> bool:
        """The outcome; whether it was the first one said."""
        return self._change(
            outcome.request_id,
            lambda _: True,
            state="done",
            outcome=outcome.outcome,
            failure=outcome.failure,
            result=outcome.payload,
            attempt=outcome.attempt,
            dead=dead,
        )

    def pending(self) -> list[Invocation]:
        """Everything accepted and not done, oldest first."""
        return [item for item in self.invocations.values() if item.state != "done"]

    def _change(
        self, request_id: str, may: Callable[[Invocation], bool], **changes: object
    ) -> bool:
        invocation = self.invocations[request_id]
        if invocation.state == "done" or not may(invocation):
            return False
        self.invocations[request_id] = replace(invocation, **changes)
        return True
