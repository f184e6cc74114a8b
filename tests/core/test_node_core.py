"""Facts about the node's core: which instance runs what, and what becomes of those that end."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import (
    FUNCTION_FAULT,
    GATEWAY,
    NOW,
    TIMEOUT_MS,
    Checked,
    dispatch,
    ended,
    event_dispatch,
    of_kind,
    runs,
    sent,
    starts,
    wakes,
)

from pratai.config import schema
from pratai.core.effects import Count, Drop, Prepare, Recall, Send, Start, Stop
from pratai.core.machine import UnknownMessage
from pratai.model.invocation import Failure
from pratai.model.node import Capacity
from pratai.node.core import Node
from pratai.wire.instance import (
    Answered,
    Drain,
    InstanceExited,
    InstanceFailed,
    InstanceReady,
    Measured,
    Prepared,
    Returned,
    Streamed,
)
from pratai.wire.messages import (
    Chunk,
    Forget,
    Heartbeat,
    Join,
    Message,
    Outcome,
    Provision,
    Result,
    Tick,
    Withdraw,
)

CRASH = Failure(code="crashed", fault="function", error_message="killed by signal 11")
MIB = 1 << 20


def node(**config: Any) -> Checked[Node]:
    """A node with nothing on it."""
    return Checked(Node(schema.Node(**config), "n1", memory_mb=1_024))


def given(*messages: Message, **config: Any) -> Checked[Node]:
    """A node to which this was said, with version f prepared."""
    checked = node(**config)
    checked.handle(Provision(version_id="default/f/1"))
    checked.handle(Prepared(version_id="default/f/1"))
    for message in messages:
        checked.handle(message)
    return checked


def ready(number: int, start_us: int = 50_000) -> InstanceReady:
    return InstanceReady(instance_id=f"n1-{number}", start_us=start_us)


def answered(number: int, run_us: int = 100_000, **changes: Any) -> Answered:
    return Answered(instance_id=f"n1-{number}", run_us=run_us, **changes)


def exited(number: int, failure: Failure = CRASH) -> InstanceExited:
    return InstanceExited(instance_id=f"n1-{number}", failure=failure)


def warmed(count: int, run_us: int = 100_000, **config: Any) -> Checked[Node]:
    """A node with `count` idle instances of f that have each run something, a while ago."""
    then_ms = NOW - 5_000
    checked = given(**config)
    for number in range(count):
        checked.handle(dispatch(f"warm{number}"), then_ms)
    while len(checked.pool.instances) < count:
        then_ms += 10
        checked.handle(Tick(), then_ms)
        for instance in list(checked.pool.instances.values()):
            checked.handle(
                InstanceReady(instance_id=instance.instance_id, start_us=50_000), then_ms
            )
    checked.handle(ready(count), then_ms)
    for number in range(count):
        checked.handle(answered(number + 1, run_us), then_ms)
    checked.handle(Tick(), then_ms + 100)
    assert len(checked.pool.versions["default/f/1"].idle) == count
    return checked


def short(**config: Any) -> Checked[Node]:
    """A node with one idle instance of f, known to be short, so it is served at depth."""
    return warmed(1, run_us=200, **config)


# first call and reuse


def test_the_first_call_of_a_version_has_it_prepared() -> None:
    checked = node()

    assert of_kind(checked.handle(dispatch("r1")), Prepare) == [Prepare("default/f/1")]
    assert of_kind(checked.handle(dispatch("r2")), Prepare) == []


def test_the_first_calls_start_one_instance() -> None:
    checked = node()
    checked.handle(dispatch("r1"))
    checked.handle(dispatch("r2"))

    effects = checked.handle(Prepared(version_id="default/f/1"))

    assert of_kind(effects, Start) == [Start("n1-1", "default/f/1")]


def test_a_ready_instance_gets_the_call_that_waited_longest() -> None:
    checked = given(dispatch("r1"), dispatch("r2"))

    assert runs(checked.handle(ready(1))) == [("n1-1", "r1")]


def test_an_idle_instance_is_reused_and_its_call_is_warm() -> None:
    checked = warmed(1)

    assert runs(checked.handle(dispatch("r2"))) == [("n1-1", "r2")]
    (result,) = sent(checked.handle(answered(1)), Result)
    assert (result.start_kind, result.cold_reason) == ("warm", "")


def test_a_cold_call_says_why_and_how_long_its_start_took() -> None:
    checked = given(dispatch("r1"), ready(1, start_us=70_000))

    (result,) = sent(checked.handle(answered(1, payload=b"42")), Result, GATEWAY)

    assert (result.request_id, result.outcome, result.payload) == ("r1", "succeeded", b"42")
    assert (result.start_kind, result.start_us) == ("cold", 70_000)
    assert result.cold_reason == "first call of this version on this node"


def test_a_call_to_a_kept_instance_that_never_ran_is_provisioned() -> None:
    checked = given(Provision(version_id="default/f/1", count=1), ready(1))
    checked.handle(dispatch("r1"))

    (result,) = sent(checked.handle(answered(1)), Result)

    assert (result.start_kind, result.cold_reason, result.start_us) == ("provisioned", "", 0)


def test_an_answer_goes_to_the_caller_and_an_outcome_to_the_collector() -> None:
    checked = given(dispatch("r1"), ready(1))

    effects = checked.handle(answered(1, run_us=1_500))

    assert [effect.to for effect in of_kind(effects, Send)] == [GATEWAY, "collector"]
    assert sent(effects, Outcome) == [
        Outcome(request_id="r1", attempt=1, node_id="n1", outcome="succeeded", run_us=1_500)
    ]
    assert checked.held == {}


def test_the_outcome_of_an_event_carries_its_result_and_nobody_is_answered() -> None:
    checked = given(event_dispatch("e1"), ready(1))

    effects = checked.handle(answered(1, payload=b"42"))

    assert [(m.request_id, m.payload) for m in sent(effects, Outcome)] == [("e1", b"42")]
    assert sent(effects, Result) == []


def test_a_functions_own_failure_is_an_outcome_and_its_instance_goes_on() -> None:
    checked = given(dispatch("r1"), ready(1))

    effects = checked.handle(answered(1, failure=FUNCTION_FAULT))

    assert ended(effects) == [("r1", "failed")]
    assert runs(checked.handle(dispatch("r2"))) == [("n1-1", "r2")]


def test_chunks_go_to_the_caller_of_the_call_that_runs() -> None:
    checked = given(dispatch("r1"), ready(1))

    effects = checked.handle(Streamed(instance_id="n1-1", payload=b"a", content_type="text/plain"))

    chunk = Chunk(request_id="r1", payload=b"a", content_type="text/plain")
    assert effects == [Send(GATEWAY, chunk)]


def test_a_repeated_dispatch_is_counted_and_nothing_else() -> None:
    checked = given(dispatch("r1"), ready(1))

    assert checked.handle(dispatch("r1")) == [Count("dispatches_repeated")]


def test_what_still_runs_counts_as_the_newer_attempt_it_is_given_again_as() -> None:
    """Steps: the node was thought lost, so its lease was given up and the event queued again;
    it comes back, and the next attempt is placed on it while the first one still runs.
    """
    checked = given(event_dispatch("e1"), ready(1))

    assert runs(checked.handle(event_dispatch("e1", attempt=2))) == []
    (outcome,) = sent(checked.handle(answered(1)), Outcome)

    assert (outcome.request_id, outcome.attempt) == ("e1", 2)


def test_an_older_attempt_than_the_one_it_has_changes_nothing() -> None:
    checked = given(event_dispatch("e1", attempt=2), ready(1), event_dispatch("e1", attempt=1))

    (outcome,) = sent(checked.handle(answered(1)), Outcome)

    assert outcome.attempt == 2


def test_a_message_that_is_not_the_nodes_raises() -> None:
    join = Join(node_id="n1", endpoint="memory", capacity=Capacity(slots=1))
    with pytest.raises(UnknownMessage, match="Node has no transition for Join"):
        given().handle(join)


def test_a_heartbeat_tells_what_is_held() -> None:
    checked = given(dispatch("r1"), event_dispatch("e1", attempt=3))

    assert checked.heartbeat() == Heartbeat(
        node_id="n1", instances=1, held=[("r1", 1), ("e1", 3)], memory_used_mb=16
    )


# depth


def test_a_short_function_gets_a_second_event_while_it_runs() -> None:
    checked = short()

    assert runs(checked.handle(dispatch("r1"))) == [("n1-1", "r1")]
    assert runs(checked.handle(dispatch("r2"))) == [("n1-1", "r2")]
    assert runs(checked.handle(dispatch("r3"))) == []
    assert runs(checked.handle(answered(1, run_us=200))) == [("n1-1", "r3")]


def test_a_long_function_gets_one_event_at_a_time() -> None:
    checked = warmed(1)
    checked.handle(dispatch("r1"))

    assert runs(checked.handle(dispatch("r2"))) == []


def test_events_behind_one_that_turns_out_long_are_recalled_and_run_elsewhere() -> None:
    checked = short(start_wait_ms=5)
    checked.handle(dispatch("r1"))
    checked.handle(dispatch("r2"))
    assert of_kind(checked.handle(Tick(), NOW + 5), Recall) == []

    assert of_kind(checked.handle(Tick(), NOW + 10), Recall) == [Recall("n1-1")]
    returned = Returned(instance_id="n1-1", request_id="r2")
    assert starts(checked.handle(returned, NOW + 11)) == ["n1-2"]
    assert runs(checked.handle(ready(2), NOW + 30)) == [("n1-2", "r2")]
    assert ended(checked.handle(answered(1))) == [("r1", "succeeded")]


def test_an_instance_is_recalled_once_for_one_stall() -> None:
    checked = short()
    checked.handle(dispatch("r1"))
    checked.handle(dispatch("r2"))
    checked.handle(Tick(), NOW + 10)

    assert of_kind(checked.handle(Tick(), NOW + 20), Recall) == []


def test_an_instance_that_returns_its_last_event_after_an_answer_is_idle() -> None:
    """Steps: the recall reaches an instance just as it ends the long event, so the answer comes
    first and then the return of what it would have run next.
    """
    checked = short()
    checked.handle(dispatch("r1"))
    checked.handle(dispatch("r2"))
    checked.handle(Tick(), NOW + 10)
    checked.handle(answered(1, run_us=30_000_000), NOW + 30)

    effects = checked.handle(Returned(instance_id="n1-1", request_id="r2"), NOW + 30)

    assert runs(effects) == [("n1-1", "r2")]


def test_a_return_of_what_it_does_not_have_is_ignored() -> None:
    checked = given(dispatch("r1"), ready(1))

    assert checked.handle(Returned(instance_id="n1-1", request_id="r9")) == []
    assert checked.handle(Returned(instance_id="n1-9", request_id="r1")) == []


# how many


def test_a_call_that_waited_start_wait_gets_one_more_instance() -> None:
    checked = given(dispatch("r1"), ready(1), start_wait_ms=5)
    checked.handle(dispatch("r2"))
    assert starts(checked.handle(Tick(), NOW + 4)) == []

    assert starts(checked.handle(Tick(), NOW + 5)) == ["n1-2"]


def test_a_call_that_would_wait_for_long_gets_an_instance_at_once() -> None:
    checked = warmed(1, run_us=100_000, start_wait_ms=5)
    checked.handle(dispatch("r1"))

    assert starts(checked.handle(dispatch("r2"))) == ["n1-2"]


def test_short_calls_wait_for_a_busy_instance() -> None:
    checked = warmed(1, run_us=1_000, start_wait_ms=5)

    assert [starts(checked.handle(dispatch(f"r{number}"))) for number in range(6)] == [[]] * 5 + [
        ["n1-2"]
    ]


def test_a_crowd_of_long_calls_has_an_instance_each_within_a_few_waits() -> None:
    checked = given(*(dispatch(f"r{number}") for number in range(40)), ready(1), start_wait_ms=5)

    for step in range(1, 8):
        now_ms = NOW + 5 * step
        checked.handle(Tick(), now_ms)
        for instance in list(checked.pool.instances.values()):
            checked.handle(InstanceReady(instance_id=instance.instance_id), now_ms)

    assert len(checked.pool.instances) == 40


def test_a_crowd_starts_no_more_for_being_told_of_one_by_one() -> None:
    checked = given(*(dispatch(f"r{number}") for number in range(20)), ready(1), start_wait_ms=5)
    assert len(starts(checked.handle(Tick(), NOW + 5))) == 1

    assert [starts(checked.handle(dispatch(f"s{number}"), NOW + 6)) for number in range(9)] == [
        []
    ] * 9


def test_no_more_instances_than_instances_max() -> None:
    checked = given(*(dispatch(f"r{number}") for number in range(40)), ready(1), instances_max=3)
    for step in range(1, 9):
        checked.handle(Tick(), NOW + 5 * step)
        for instance in list(checked.pool.instances.values()):
            checked.handle(InstanceReady(instance_id=instance.instance_id), NOW + 5 * step)

    assert len(checked.pool.instances) == 3


def test_a_full_node_gives_up_an_idle_instance_of_another_version() -> None:
    checked = warmed(1, instances_max=1)
    checked.handle(dispatch("g1", "g"))

    effects = checked.handle(Prepared(version_id="default/g/1"))

    assert [stop.instance_id for stop in of_kind(effects, Stop)] == ["n1-1"]
    assert starts(effects) == ["n1-2"]


def test_evicted_instances_that_are_not_gone_yet_do_not_count_as_instances() -> None:
    """Steps: room is made twice before the first evicted instance has exited."""
    checked = warmed(2, instances_max=2)
    for name in ("g", "h"):
        checked.handle(dispatch(f"{name}1", name))
        checked.handle(Prepared(version_id=f"default/{name}/1"))

    states = [instance.state for instance in checked.pool.instances.values()]
    assert sorted(states) == ["draining", "draining", "starting", "starting"]


# deadlines


def test_a_call_that_runs_past_its_deadline_is_answered_and_its_instance_killed() -> None:
    checked = given(dispatch("r1"), ready(1))

    effects = checked.handle(Tick(), NOW + TIMEOUT_MS)

    (result,) = sent(effects, Result)
    assert result.failure is not None
    assert (result.outcome, result.failure.stage, result.failure.fault) == (
        "timed_out",
        "run",
        "function",
    )
    assert [(stop.instance_id, stop.grace_ms) for stop in of_kind(effects, Stop)] == [("n1-1", 0)]
    assert ended(checked.handle(exited(1))) == []
    assert checked.pool.instances == {}


def test_a_call_whose_deadline_passes_before_an_instance_is_ready_was_late_in_start() -> None:
    checked = given(dispatch("r1"))

    (result,) = sent(checked.handle(Tick(), NOW + TIMEOUT_MS), Result)

    assert result.failure is not None
    assert (result.outcome, result.failure.stage) == ("timed_out", "start")
    assert runs(checked.handle(ready(1))) == []


def test_an_event_behind_the_head_is_not_killed_with_it() -> None:
    checked = short()
    checked.handle(dispatch("r1", deadline_ms=NOW + 100))
    checked.handle(dispatch("r2"))
    effects = checked.handle(Tick(), NOW + 100)
    assert ended(effects) == [("r1", "timed_out")]

    effects = checked.handle(exited(1), NOW + 101)

    assert ended(effects) == []
    assert starts(effects) == ["n1-2"]
    assert runs(checked.handle(ready(2), NOW + 102)) == [("n1-2", "r2")]


def test_the_head_is_not_killed_for_an_event_behind_it() -> None:
    checked = short()
    checked.handle(dispatch("r1"))
    checked.handle(dispatch("r2", deadline_ms=NOW + 100))

    effects = checked.handle(Tick(), NOW + 100)

    assert ended(effects) == [("r2", "timed_out")]
    assert of_kind(effects, Stop) == []
    assert of_kind(effects, Recall) == [Recall("n1-1")]


def test_what_nobody_waits_for_does_not_run_on_when_its_turn_comes() -> None:
    """Steps: an event behind another's loses its caller; the recall comes too late, so the
    instance begins it. No deadline watches it any more, so it must not go on.
    """
    checked = short()
    checked.handle(dispatch("r1"))
    checked.handle(dispatch("r2"))
    effects = checked.handle(Withdraw(request_id="r2", attempt=1))
    assert of_kind(effects, Recall) == [Recall("n1-1")]

    effects = checked.handle(answered(1, run_us=200))

    assert ended(effects) == [("r1", "succeeded")]
    assert [stop.instance_id for stop in of_kind(effects, Stop)] == ["n1-1"]


# crashes


def test_a_crash_ends_the_call_that_ran_and_queues_again_what_had_not_begun() -> None:
    checked = short()
    checked.handle(dispatch("r1"))
    checked.handle(dispatch("r2"))

    effects = checked.handle(exited(1))

    assert ended(effects) == [("r1", "crashed")]
    assert starts(effects) == ["n1-2"]
    assert runs(checked.handle(ready(2))) == [("n1-2", "r2")]
    (result,) = sent(checked.handle(answered(2)), Result)
    assert result.cold_reason == "the instance before it ended: killed by signal 11"


def test_an_init_failure_fails_the_calls_that_wait_for_it() -> None:
    checked = given(dispatch("r1"), dispatch("r2"))

    effects = checked.handle(InstanceFailed(instance_id="n1-1", failure=FUNCTION_FAULT))

    assert ended(effects) == [("r1", "failed"), ("r2", "failed")]
    assert starts(checked.handle(exited(1))) == []


def test_an_init_failure_fails_no_call_that_another_instance_can_serve() -> None:
    checked = warmed(1, start_wait_ms=5)
    checked.handle(dispatch("r1"))
    assert starts(checked.handle(dispatch("r2"))) == ["n1-2"]

    effects = checked.handle(InstanceFailed(instance_id="n1-2", failure=FUNCTION_FAULT))

    assert ended(effects) == []
    assert runs(checked.handle(answered(1))) == [("n1-1", "r2")]


def test_an_instance_that_dies_while_starting_fails_the_calls_that_wait_for_it() -> None:
    checked = given(dispatch("r1"))

    assert ended(checked.handle(exited(1))) == [("r1", "failed")]
    assert checked.pool.versions == {}


def test_a_version_that_cannot_be_prepared_fails_its_waiting_calls() -> None:
    checked = node()
    checked.handle(dispatch("r1"))
    failure = Failure(code="package_missing", fault="platform")

    (result,) = sent(checked.handle(Prepared(version_id="default/f/1", failure=failure)), Result)

    assert (result.request_id, result.outcome, result.failure) == ("r1", "crashed", failure)
    assert checked.pool.versions == {}


def test_an_answer_of_an_unknown_instance_is_counted() -> None:
    assert given().handle(answered(7)) == [Count("answers_unexpected")]


# keep warm


def test_instances_to_keep_warm_are_started_ahead_of_any_call() -> None:
    checked = given()

    effects = checked.handle(Provision(version_id="default/f/1", count=2))

    assert starts(effects) == ["n1-1", "n1-2"]


def test_a_failing_start_is_not_repeated_at_once_to_keep_warm_and_waits_double() -> None:
    checked = given(Provision(version_id="default/f/1", count=1))
    now_ms, waits = NOW, []
    for number in range(1, 5):
        checked.handle(InstanceFailed(instance_id=f"n1-{number}", failure=FUNCTION_FAULT), now_ms)
        effects = checked.handle(exited(number), now_ms)
        assert starts(effects) == []
        (wake_ms,) = set(wakes(effects))
        waits.append(wake_ms - now_ms)
        now_ms = wake_ms
        assert len(starts(checked.handle(Tick(), now_ms))) == 1

    assert waits == [1_000, 2_000, 4_000, 8_000]


def test_a_call_starts_an_instance_whatever_failed_before() -> None:
    checked = given(Provision(version_id="default/f/1", count=1))
    checked.handle(InstanceFailed(instance_id="n1-1", failure=FUNCTION_FAULT))
    checked.handle(exited(1))

    assert starts(checked.handle(dispatch("r1"))) == ["n1-2"]


# memory and idleness


def test_memory_pressure_evicts_the_least_valuable_first() -> None:
    checked = warmed(3)
    for _ in range(5):
        checked.handle(dispatch("again"))
        checked.handle(answered(3))

    effects = checked.handle(
        Measured(
            memory_bytes={"n1-1": 400 * MIB, "n1-2": 500 * MIB, "n1-3": 400 * MIB},
            available_bytes=1 << 40,
        )
    )

    assert [stop.instance_id for stop in of_kind(effects, Stop)] == ["n1-1"]


def test_a_machine_short_of_memory_evicts_although_the_node_is_below_its_own_bound() -> None:
    checked = warmed(2)

    effects = checked.handle(
        Measured(memory_bytes={"n1-1": 10 * MIB, "n1-2": 20 * MIB}, available_bytes=255 * MIB)
    )

    assert [stop.instance_id for stop in of_kind(effects, Stop)] == ["n1-1"]


def test_memory_pressure_spares_what_is_kept_warm_however_much_is_missing() -> None:
    checked = warmed(2)
    checked.handle(Provision(version_id="default/f/1", count=1))

    effects = checked.handle(
        Measured(memory_bytes={"n1-1": 1 << 40, "n1-2": 1 << 30}, available_bytes=1 << 40)
    )

    assert len(of_kind(effects, Stop)) == 1


def test_a_busy_instance_is_never_evicted() -> None:
    checked = given(dispatch("r1"), ready(1))

    effects = checked.handle(Measured(memory_bytes={"n1-1": 1 << 40}, available_bytes=0))

    assert effects == []


def test_an_idle_instance_is_stopped_after_idle_max() -> None:
    checked = given(dispatch("r1"), ready(1), answered(1), idle_max_ms=60_000)
    assert of_kind(checked.handle(Tick(), NOW + 59_999), Stop) == []

    effects = checked.handle(Tick(), NOW + 60_000)

    assert [stop.instance_id for stop in of_kind(effects, Stop)] == ["n1-1"]
    checked.handle(exited(1))
    assert checked.pool.versions == {}


def test_idle_instances_due_together_leave_as_many_as_are_kept_warm() -> None:
    checked = warmed(3, idle_max_ms=60_000)
    checked.handle(Provision(version_id="default/f/1", count=1))

    effects = checked.handle(Tick(), NOW + 120_000)

    assert len(of_kind(effects, Stop)) == 2


def test_a_kept_instance_is_stopped_later_when_it_is_kept_no_more() -> None:
    checked = warmed(1, idle_max_ms=60_000)
    checked.handle(Provision(version_id="default/f/1", count=1))
    assert of_kind(checked.handle(Tick(), NOW + 60_000), Stop) == []
    checked.handle(Provision(version_id="default/f/1", count=0))

    effects = checked.handle(Tick(), NOW + 120_000)

    assert len(of_kind(effects, Stop)) == 1


def test_an_instance_used_meanwhile_is_not_stopped() -> None:
    checked = given(dispatch("r1"), ready(1), answered(1), idle_max_ms=60_000)
    checked.handle(dispatch("r2", deadline_ms=NOW + 900_000), NOW + 50_000)
    checked.handle(answered(1), NOW + 55_000)

    assert of_kind(checked.handle(Tick(), NOW + 60_000), Stop) == []
    assert len(of_kind(checked.handle(Tick(), NOW + 115_000), Stop)) == 1


# withdraw, forget, drain


def test_a_withdrawn_call_that_runs_is_ended_and_its_instance_killed() -> None:
    checked = given(dispatch("r1"), ready(1))

    effects = checked.handle(Withdraw(request_id="r1", attempt=1))

    assert ended(effects) == [("r1", "discarded")]
    assert [stop.instance_id for stop in of_kind(effects, Stop)] == ["n1-1"]


def test_a_withdrawn_call_that_waits_leaves_the_queue() -> None:
    checked = given(dispatch("r1"), dispatch("r2"))

    assert ended(checked.handle(Withdraw(request_id="r1", attempt=1))) == [("r1", "discarded")]
    assert runs(checked.handle(ready(1))) == [("n1-1", "r2")]


def test_a_withdraw_of_another_attempt_does_nothing() -> None:
    checked = given(dispatch("r1", attempt=2))

    assert checked.handle(Withdraw(request_id="r1", attempt=1)) == []


def test_a_forgotten_version_loses_its_idle_instances_and_what_was_prepared() -> None:
    checked = warmed(2)

    effects = checked.handle(Forget(version_id="default/f/1"))

    assert len(of_kind(effects, Stop)) == 2
    assert of_kind(effects, Drop) == [Drop("default/f/1")]


def test_a_version_deleted_while_it_was_prepared_is_dropped_and_not_kept_warm() -> None:
    checked = node()
    checked.handle(Provision(version_id="default/f/1", count=1))
    checked.handle(Forget(version_id="default/f/1"))

    effects = checked.handle(Prepared(version_id="default/f/1", keep_warm=1))

    assert effects == [Drop("default/f/1")]
    assert checked.pool.versions == {}


def test_a_draining_node_gives_back_events_and_goes_on_with_calls() -> None:
    checked = given(dispatch("r1"), event_dispatch("e1"), dispatch("r2"))

    effects = checked.handle(Drain())

    (outcome,) = sent(effects, Outcome)
    assert outcome.failure is not None
    assert (outcome.request_id, outcome.outcome, outcome.failure.fault) == (
        "e1",
        "discarded",
        "platform",
    )
    assert ended(checked.handle(event_dispatch("e2"))) == [("e2", "discarded")]
    assert runs(checked.handle(ready(1))) == [("n1-1", "r1")]
    assert runs(checked.handle(answered(1))) == [("n1-1", "r2")]


def test_what_this_node_cannot_run_is_left_to_another_one_if_there_is_one() -> None:
    unfit = Failure(code="apt_unsupported", fault="platform", error_message="no packages here")
    made = node()
    made.handle(dispatch("a", movable=True))
    made.handle(dispatch("b", movable=False))

    effects = made.handle(Prepared(version_id=dispatch("a").version_id, failure=unfit))

    said = [effect for effect in effects if isinstance(effect, Send)]
    codes = [(one.to, one.message.request_id, one.message.failure.code) for one in said]
    assert codes == [
        ("collector", "a", "unfit"),
        (GATEWAY, "b", "apt_unsupported"),
        ("collector", "b", "apt_unsupported"),
    ]
