"""What the scheduler says of an invocation: to its node, its caller, the collector. Pure.

Only words and fields are here; whether and when something is said is decided in `scheduler.py`.
"""

from __future__ import annotations

from pratai.core.leases import Lease
from pratai.model.invocation import Failure
from pratai.wire.messages import Dispatch, Invoke, Outcome, Result

LEASE_EXPIRED = Failure(
    code="lease_expired",
    fault="platform",
    error_message="its node did not say how the attempt ended",
    next="Nothing: another attempt is made. If it repeats, look at that node's log.",
)
NODE_LOST = Failure(
    code="node_lost",
    fault="platform",
    error_message="its node went while the attempt was on its way there",
    next="Call again; if it repeats, look at that node's log.",
)


def dispatch_of(
    invoke: Invoke, attempt: int, deadline_ms: int, now_ms: int, *, movable: bool = False
) -> Dispatch:
    """What a node is told of an attempt. `movable`: another node may be able to run it."""
    return Dispatch(
        request_id=invoke.request_id,
        attempt=attempt,
        namespace=invoke.namespace,
        function=invoke.function,
        version_id=invoke.version_id,
        reply_to=invoke.reply_to,
        deadline_ms=deadline_ms,
        timeout_ms=invoke.timeout_ms,
        payload=invoke.payload,
        content_type=invoke.content_type,
        journalled=invoke.journalled,
        memory_mb=invoke.memory_mb,
        trace=invoke.trace,
        idempotency_key=invoke.idempotency_key,
        trigger=invoke.trigger,
        dispatched_at_ms=now_ms,
        movable=movable,
    )


def throttled(invoke: Invoke, queue_max: int, wait_s: int) -> Result:
    """To a caller whose function has too many waiting already."""
    failure = Failure(
        code="throttled",
        fault="caller",
        error_message=f"{queue_max} calls of {invoke.function} are waiting already",
        next=f"Ask again in {wait_s} s, or raise its concurrency_max or the node's slots.",
    )
    return Result(
        request_id=invoke.request_id,
        outcome="throttled",
        failure=failure,
        retry_after_s=wait_s,
    )


def late_in_queue(invoke: Invoke) -> Result:
    """To a caller whose deadline passed before a node could be had."""
    failure = Failure(
        code="timed_out",
        stage="queue",
        fault="platform",
        error_message=f"it waited {invoke.timeout_ms} ms and no instance became free",
        next="Raise its concurrency_max or the node's slots, or call it less often.",
    )
    return Result(request_id=invoke.request_id, outcome="timed_out", failure=failure)


def too_old(invoke: Invoke) -> Outcome:
    """The outcome of what gave up in its queue and is in the journal."""
    return Outcome(
        request_id=invoke.request_id,
        attempt=invoke.attempt,
        node_id="",
        namespace=invoke.namespace,
        function=invoke.function,
        version_id=invoke.version_id,
        outcome="timed_out" if invoke.reply_to else "discarded",
        failure=Failure(
            code="event_too_old",
            fault="platform",
            error_message="the event was older than its limit before it could run",
            next="Replay it, or raise the function's event_age_max_ms.",
        ),
    )


def ended_by_platform(lease: Lease, now_ms: int, failure: Failure) -> Outcome:
    """The outcome that stands in for one that never came."""
    return Outcome(
        request_id=lease.invoke.request_id,
        attempt=lease.attempt,
        node_id=lease.node_id,
        outcome="crashed",
        finished_at_ms=now_ms,
        failure=failure,
    )
