"""Facts about recovery: what a scheduler makes of what the journal has unfinished."""

from __future__ import annotations

from typing import Any

from pratai.model.invocation import Invocation, Mark
from pratai.scheduler.recovery import recovered
from pratai.wire.messages import Invoke, Outcome, Resume


def unfinished(**changes: Any) -> Invocation:
    values: dict[str, Any] = {
        "namespace": "default",
        "request_id": "e1",
        "function": "f",
        "version": "1",
        "mode": "async",
        "attempts_max": 3,
        "expires_at_ms": 10**9,
    }
    return Invocation(**(values | changes))


def test_what_never_ran_is_queued() -> None:
    message = recovered(unfinished(), 10)

    assert isinstance(message, Invoke)
    assert (message.attempt, message.attempts_max, message.recoveries) == (0, 3, 0)
    assert message.payload is None


def test_what_is_on_a_node_is_resumed_with_its_attempt_not_lost_yet() -> None:
    message = recovered(unfinished(state="leased", attempt=2, node_id="n1"), 10)

    assert isinstance(message, Resume)
    assert (message.attempt, message.node_id) == (2, "n1")
    assert (message.invoke.attempt, message.invoke.recoveries) == (1, 1)
    assert message.invoke.attempts_max == 4


def test_attempts_that_failed_by_themselves_are_not_lost() -> None:
    timeline = [Mark("retried", 5, 1)]

    message = recovered(unfinished(state="leased", attempt=2, node_id="n1", timeline=timeline), 10)

    assert isinstance(message, Resume)
    assert (message.invoke.recoveries, message.invoke.attempts_max) == (0, 3)


def test_what_waits_for_its_retry_goes_on_waiting() -> None:
    timeline = [Mark("retried", 5, 1)]

    message = recovered(unfinished(attempt=1, available_at_ms=77, timeline=timeline), 10)

    assert isinstance(message, Invoke)
    assert (message.attempt, message.available_at_ms, message.recoveries) == (1, 77, 0)


def test_what_was_lost_too_often_is_given_up() -> None:
    message = recovered(unfinished(state="leased", attempt=3, node_id="n1"), 2)

    assert isinstance(message, Outcome)
    assert message.failure is not None
    assert (message.outcome, message.failure.code) == ("discarded", "recoveries_exhausted")
