"""Facts about the collector's core: what becomes of an attempt that ended, and of lost nodes."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import (
    FUNCTION_FAULT,
    GATEWAY,
    NOW,
    PLATFORM_FAULT,
    Checked,
    event,
    invoke,
    of_kind,
    outcome,
    sent,
    settings,
    wakes,
)

from pratai.collector.core import BACKOFF_MS_MAX, Collector
from pratai.core.effects import Count, Deliver, Effect, RecordLogs, RecordOutcome, RecordRetry, Send
from pratai.core.leases import Lease, Leases
from pratai.core.machine import UnknownMessage
from pratai.model.invocation import Failure, LogRecord
from pratai.model.node import Capacity
from pratai.wire.messages import (
    Freed,
    Gone,
    Heartbeat,
    Invoke,
    Join,
    Joined,
    Leave,
    Logs,
    Result,
    Roster,
    Tick,
)

JOIN = Join(node_id="n1", endpoint="memory", capacity=Capacity(slots=2))


def given(*invokes: Invoke, node_id: str = "n1", **config: Any) -> Checked[Collector]:
    """A collector that knows node n1, with a lease there for the next attempt of each."""
    leases = Leases()
    collector = Checked(Collector(settings(**config), leases))
    collector.handle(JOIN)
    for item in invokes:
        lease(collector, item, node_id=node_id)
    return collector


def lease(collector: Checked[Collector], item: Invoke, node_id: str = "n1") -> None:
    collector._leases.open(
        Lease(
            invoke=item,
            attempt=item.attempt + 1,
            node_id=node_id,
            expires_at_ms=NOW + 60_000,
            placed_at_ms=NOW,
        )
    )


def freed(effects: list[Effect]) -> list[str]:
    return [message.request_id for message in sent(effects, Freed, "scheduler")]


def again(effects: list[Effect]) -> Invoke:
    """The invocation that is given back to the scheduler."""
    (message,) = sent(effects, Invoke, "scheduler")
    return message


def failed(request_id: str, attempt: int = 1, failure: Failure = FUNCTION_FAULT) -> Any:
    return outcome(request_id, attempt, outcome="failed", failure=failure)


# outcomes


def test_an_outcome_frees_its_lease() -> None:
    collector = given(invoke("r1"))

    effects = collector.handle(outcome("r1", run_us=7))

    assert effects == [
        Send(
            "scheduler",
            Freed(request_id="r1", node_id="n1", namespace="default", function="f", run_us=7),
        )
    ]
    assert len(collector._leases) == 0


def test_a_success_is_delivered_and_then_recorded() -> None:
    item = event("e1", accepted_at_ms=NOW - 30)
    success = outcome("e1", payload=b"42")

    effects = given(item).handle(success)

    assert effects[1:] == [
        Deliver(success, "default", "f", "default/f/1"),
        RecordOutcome(success, "default", dead=False, queue_us=30_000, function="f"),
    ]


def test_a_repeated_outcome_is_fenced() -> None:
    collector = given(event("e1"))
    collector.handle(outcome("e1"))

    assert collector.handle(outcome("e1")) == [Count("outcomes_fenced")]


@pytest.mark.parametrize("attempt", [1, 3])
def test_an_outcome_of_another_attempt_is_fenced(attempt: int) -> None:
    collector = given(event("e1", attempt=1))

    assert collector.handle(outcome("e1", attempt)) == [Count("outcomes_fenced")]
    assert len(collector._leases) == 1


def test_an_outcome_of_another_node_is_fenced() -> None:
    """After a restart that lost the record of a lease two nodes may have the same attempt."""
    collector = given(event("e1"), node_id="n2")

    assert collector.handle(outcome("e1", node_id="n1")) == [Count("outcomes_fenced")]


def test_an_event_that_gave_up_in_its_queue_is_delivered_and_a_dead_letter() -> None:
    gave_up = outcome(
        "e1", 0, node_id="", outcome="discarded", function="f", version_id="default/f/1"
    )

    assert given().handle(gave_up) == [
        Deliver(gave_up, "default", "f", "default/f/1"),
        RecordOutcome(gave_up, "default", dead=True, function="f"),
    ]


def test_a_journalled_call_that_timed_out_in_its_queue_is_recorded_and_no_dead_letter() -> None:
    late = outcome("r1", 0, node_id="", outcome="timed_out", function="f")

    assert of_kind(given().handle(late), RecordOutcome) == [
        RecordOutcome(late, "default", dead=False, function="f")
    ]


def test_a_message_that_is_not_the_collectors_raises() -> None:
    with pytest.raises(UnknownMessage, match="Collector has no transition for Gone"):
        given().handle(Gone(node_id="n1"))


# retries


def test_a_failed_event_is_given_back_for_its_next_attempt() -> None:
    collector = given(event("e1", backoff_ms=500))

    effects = collector.handle(failed("e1"))

    assert freed(effects) == ["e1"]
    assert of_kind(effects, RecordRetry) == [RecordRetry(failed("e1"), "default", NOW + 500)]
    assert again(effects) == event("e1", backoff_ms=500, attempt=1, available_at_ms=NOW + 500)


def test_the_wait_between_attempts_doubles() -> None:
    waits = []
    for attempt in range(1, 5):
        collector = given(event("e1", attempt=attempt - 1, attempts_max=9, backoff_ms=500))
        waits.append(again(collector.handle(failed("e1", attempt))).available_at_ms - NOW)

    assert waits == [500, 1_000, 2_000, 4_000]


def test_the_wait_between_attempts_is_bounded() -> None:
    item = event("e1", attempt=90, attempts_max=99, backoff_ms=3_600_000, deadline_ms=NOW + 10**9)

    effects = given(item).handle(failed("e1", 91))

    assert again(effects).available_at_ms == NOW + BACKOFF_MS_MAX


def test_attempts_that_the_platform_lost_do_not_lengthen_the_wait() -> None:
    item = event("e1", attempt=2, recoveries=2, attempts_max=5, backoff_ms=500)

    assert again(given(item).handle(failed("e1", 3))).available_at_ms == NOW + 500


def test_the_last_attempt_that_fails_makes_a_dead_letter() -> None:
    last = failed("e1", 3)

    effects = given(event("e1", attempt=2, attempts_max=3)).handle(last)

    assert [record.dead for record in of_kind(effects, RecordOutcome)] == [True]
    assert of_kind(effects, Deliver) == [Deliver(last, "default", "f", "default/f/1")]
    assert sent(effects, Invoke) == []


def test_a_journalled_call_that_fails_is_recorded_and_no_dead_letter() -> None:
    effects = given(invoke("r1", journalled=True)).handle(failed("r1"))

    assert [record.dead for record in of_kind(effects, RecordOutcome)] == [False]


def test_a_retry_that_would_come_after_the_events_age_is_not_made() -> None:
    collector = given(event("e1", backoff_ms=500, deadline_ms=NOW + 500))

    effects = collector.handle(failed("e1"))

    assert [record.dead for record in of_kind(effects, RecordOutcome)] == [True]
    assert sent(effects, Invoke) == []


def test_a_fault_of_the_platform_uses_up_no_attempt_and_is_repeated_at_once() -> None:
    collector = given(event("e1", attempt=2, attempts_max=3))

    repeated = again(collector.handle(failed("e1", 3, PLATFORM_FAULT)))

    assert (repeated.attempt, repeated.attempts_max, repeated.recoveries) == (3, 4, 1)
    assert repeated.available_at_ms == NOW


def test_repeated_faults_of_the_platform_wait_ever_longer() -> None:
    waits = []
    for recoveries in range(4):
        item = event("e1", attempt=recoveries, recoveries=recoveries)
        effects = given(item).handle(failed("e1", recoveries + 1, PLATFORM_FAULT))
        waits.append(again(effects).available_at_ms - NOW)

    assert waits == [0, 100, 200, 400]


def test_faults_of_the_platform_are_bounded_by_recoveries_max() -> None:
    collector = given(event("e1", attempt=2, recoveries=2), recoveries_max=2)

    effects = collector.handle(failed("e1", 3, PLATFORM_FAULT))

    assert [record.dead for record in of_kind(effects, RecordOutcome)] == [True]
    assert sent(effects, Invoke) == []


def test_a_call_is_never_repeated() -> None:
    effects = given(invoke("r1")).handle(failed("r1", failure=PLATFORM_FAULT))

    assert (freed(effects), sent(effects, Invoke), sent(effects, Result)) == (["r1"], [], [])


def test_the_caller_of_a_lease_that_expired_is_answered_for_its_node() -> None:
    expired = Failure(code="lease_expired", fault="platform")

    effects = given(invoke("r1")).handle(outcome("r1", outcome="crashed", failure=expired))

    (result,) = sent(effects, Result, GATEWAY)
    assert (result.request_id, result.outcome, result.failure, result.retry_after_s) == (
        "r1",
        "crashed",
        expired,
        1,
    )


# nodes


def test_a_node_that_joins_is_told_to_the_scheduler_and_expected_to_be_heard() -> None:
    collector = Checked(Collector(settings(node_silence_max_ms=10_000), Leases()))

    effects = collector.handle(JOIN)

    joined = Joined(node_id="n1", endpoint="memory", capacity=Capacity(slots=2))
    assert of_kind(effects, Send) == [
        Send("scheduler", joined),
        Send("node:n1", Roster(scheduler_id="scheduler", gateways=[], nodes=1)),
    ]
    assert wakes(effects) == [NOW + 10_000]


def test_a_heartbeat_is_heard() -> None:
    collector = given(node_silence_max_ms=10_000)
    collector.handle(Heartbeat(node_id="n1", instances=3, memory_used_mb=7), NOW + 9_000)

    assert sent(collector.handle(Tick(), NOW + 10_000), Gone) == []
    member = collector.members["n1"]
    assert (member.instances, member.memory_used_mb, member.heard_at_ms) == (3, 7, NOW + 9_000)


def test_a_heartbeat_of_an_unknown_node_is_counted() -> None:
    assert given().handle(Heartbeat(node_id="n9")) == [Count("heartbeats_unknown")]


def test_a_silent_node_is_gone_before_what_it_ran_is_given_back() -> None:
    """Otherwise its freed credit would draw work to it that nobody would run."""
    collector = given(event("e1"), invoke("r1"), node_silence_max_ms=10_000)

    effects = collector.handle(Tick(), NOW + 10_000)

    messages = [type(effect.message) for effect in of_kind(effects, Send)]
    assert messages == [Gone, Freed, Invoke, Freed, Result]
    assert again(effects).request_id == "e1"
    assert collector.members == {}


def test_a_node_that_leaves_is_gone_at_once() -> None:
    collector = given(event("e1"))

    effects = collector.handle(Leave(node_id="n1"))

    assert sent(effects, Gone, "scheduler") == [Gone(node_id="n1")]
    assert again(effects).recoveries == 1
    assert collector.handle(Leave(node_id="n1")) == []


def test_a_late_outcome_of_a_lost_node_is_fenced() -> None:
    collector = given(event("e1"))
    collector.handle(Leave(node_id="n1"))

    assert collector.handle(outcome("e1")) == [Count("outcomes_fenced")]


def test_logs_are_kept() -> None:
    record = LogRecord(
        namespace="default",
        function="f",
        version="1",
        request_id="r1",
        instance_id="n1-1",
        at_ms=NOW,
        level="INFO",
        text="hello",
    )

    assert given().handle(Logs(node_id="n1", records=[record])) == [RecordLogs([record])]


def test_a_dispatch_that_a_node_cannot_run_goes_back_to_the_scheduler_unrecorded() -> None:
    failure = Failure(code="unfit", fault="platform", error_message="no packages here")
    collector = given(event("e1"))

    effects = collector.handle(outcome("e1", outcome="crashed", failure=failure))

    names = [type(effect.message).__name__ for effect in effects if isinstance(effect, Send)]
    assert names == ["Freed", "Unfit"]
    assert not any(isinstance(effect, RecordOutcome | RecordRetry) for effect in effects)
    assert len(collector._leases) == 0
