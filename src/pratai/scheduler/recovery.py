"""What becomes of an unfinished invocation that the journal holds when a scheduler starts. Pure.

An attempt that the journal knows to be on a node may still be there, since nodes outlive their
scheduler: it is resumed, and repeated when its node does not have it. Other attempts that began and
did not end were lost; they count against `recoveries_max` and not against the function's own
attempts. An event that the platform died under too often is given up, since it may be what kills
it.
"""

from __future__ import annotations

from pratai.model.invocation import Failure, Invocation
from pratai.wire.messages import Invoke, Outcome, Resume


def recovered(invocation: Invocation, recoveries_max: int) -> Invoke | Resume | Outcome:
    """The message that has it run again, or go on where it may be, or that ends it."""
    attempt = invocation.attempt
    retried = sum(mark.name == "retried" for mark in invocation.timeline)
    lost = max(0, attempt - retried)
    if lost > recoveries_max:
        return _given_up(invocation, lost)
    if invocation.state == "leased" and invocation.node_id and lost:
        invoke = _invoke_of(invocation, attempt - 1, lost - 1)
        return Resume(invoke=invoke, attempt=attempt, node_id=invocation.node_id)
    return _invoke_of(invocation, attempt, lost)


def _given_up(invocation: Invocation, lost: int) -> Outcome:
    return Outcome(
        request_id=invocation.request_id,
        attempt=invocation.attempt,
        node_id="",
        namespace=invocation.namespace,
        function=invocation.function,
        version_id=invocation.version_id,
        outcome="discarded",
        failure=Failure(
            code="recoveries_exhausted",
            fault="platform",
            error_message=f"the platform ended {lost} times while it ran this",
            next="Look at the platform's log of those times, then replay it.",
        ),
    )


def _invoke_of(invocation: Invocation, attempt: int, lost: int) -> Invoke:
    """The message for the attempt after `attempt`, of which `lost` do not count."""
    return Invoke(
        request_id=invocation.request_id,
        namespace=invocation.namespace,
        function=invocation.function,
        version_id=invocation.version_id,
        reply_to="",
        deadline_ms=invocation.expires_at_ms,
        timeout_ms=invocation.timeout_ms,
        accepted_at_ms=invocation.accepted_at_ms,
        payload=None,
        content_type=invocation.content_type,
        journalled=True,
        attempts_max=invocation.attempts_max + lost,
        backoff_ms=invocation.backoff_ms,
        concurrency_max=invocation.concurrency_max,
        memory_mb=invocation.memory_mb,
        attempt=attempt,
        recoveries=lost,
        available_at_ms=invocation.available_at_ms,
        trace=invocation.trace,
        idempotency_key=invocation.idempotency_key,
        trigger=invocation.trigger,
    )
