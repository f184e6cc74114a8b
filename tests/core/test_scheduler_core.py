"""Facts about the scheduler's core: who runs next, where, and what is said when nobody may."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import (
    GATEWAY,
    NOW,
    TIMEOUT_MS,
    Checked,
    dispatched,
    event,
    freed,
    invoke,
    joined,
    of_kind,
    placed,
    sent,
    settings,
    wakes,
)

from pratai.core.effects import Count, RecordLease, Send
from pratai.core.leases import Leases
from pratai.core.machine import UnknownMessage
from pratai.scheduler.core.scheduler import Scheduler
from pratai.wire.messages import (
    Backlog,
    Cancel,
    Dispatch,
    Gone,
    Heartbeat,
    Message,
    Outcome,
    Result,
    Tick,
    Unfit,
    Withdraw,
)


def given(*messages: Message, **config: Any) -> Checked[Scheduler]:
    """A scheduler to which this was said."""
    scheduler = Checked(Scheduler(settings(**config), Leases(), [GATEWAY]))
    for message in messages:
        scheduler.handle(message)
    return scheduler


def free(scheduler: Checked[Scheduler], request_id: str, **changes: Any) -> list[str]:
    """End what runs; ids of what is dispatched in its place."""
    return dispatched(scheduler.handle(freed(scheduler.leases, request_id, **changes)))


def drain_in_order(scheduler: Checked[Scheduler], running: str, function: str = "f") -> list[str]:
    """End one after the other; the order in which everything ran, `running` left out."""
    functions = {running: function}
    order: list[str] = []
    while running:
        effects = scheduler.handle(freed(scheduler.leases, running, function=functions[running]))
        running = ""
        for message in sent(effects, Dispatch):
            functions[message.request_id] = message.function
            running = message.request_id
            order.append(running)
    return order


# dispatch


def test_a_call_is_dispatched_at_once_to_a_node_with_credit() -> None:
    scheduler = given(joined())

    effects = scheduler.handle(invoke("r1"))

    assert [
        Send(
            "node:n1",
            Dispatch(
                request_id="r1",
                attempt=1,
                namespace="default",
                function="f",
                version_id="default/f/1",
                reply_to=GATEWAY,
                deadline_ms=NOW + TIMEOUT_MS,
                timeout_ms=TIMEOUT_MS,
                payload=b"{}",
                dispatched_at_ms=NOW,
            ),
        )
    ] == of_kind(effects, Send)


def test_a_call_waits_until_a_node_joins() -> None:
    scheduler = given(invoke("r1"))

    assert dispatched(scheduler.handle(joined())) == ["r1"]


def test_a_call_waits_for_credit() -> None:
    scheduler = given(joined(slots=1, prefetch=1), invoke("r1"), invoke("r2"))

    assert dispatched(scheduler.handle(invoke("r3"))) == []
    assert free(scheduler, "r1") == ["r3"]


def test_a_repeated_invoke_is_counted_and_nothing_else() -> None:
    scheduler = given(joined(), invoke("r1"), invoke("r2"))

    assert [Count("invokes_repeated")] == scheduler.handle(invoke("r1"))
    assert [Count("invokes_repeated")] == scheduler.handle(invoke("r2"))


def test_an_events_attempt_has_its_whole_timeout_from_its_dispatch() -> None:
    scheduler = given(event("e1", timeout_ms=5_000))

    (message,) = sent(scheduler.handle(joined(), NOW + 60_000), Dispatch)

    assert message.deadline_ms == NOW + 65_000


def test_a_lease_of_an_event_is_recorded_and_one_of_a_call_is_not() -> None:
    scheduler = given(joined(slots=2))

    assert [RecordLease("e1", "default", 1, "n1", NOW)] == of_kind(
        scheduler.handle(event("e1")), RecordLease
    )
    assert of_kind(scheduler.handle(invoke("r1")), RecordLease) == []


def test_a_message_that_is_not_the_schedulers_raises() -> None:
    with pytest.raises(UnknownMessage, match="Scheduler has no transition for Heartbeat"):
        given().handle(Heartbeat(node_id="n1"))


# fairness


def test_a_flood_of_one_function_does_not_starve_a_rare_one() -> None:
    flood = [invoke(f"flood{number}", "flood") for number in range(100)]
    scheduler = given(joined(), *flood, invoke("rare", "rare"))

    order = drain_in_order(scheduler, "flood0", "flood")

    assert order.index("rare") <= 1
    assert len(order) == 100


def test_functions_take_turns() -> None:
    scheduler = given(
        joined(),
        invoke("x", "x"),
        *(invoke(f"a{number}", "a") for number in range(3)),
        *(invoke(f"b{number}", "b") for number in range(3)),
    )

    assert drain_in_order(scheduler, "x", "x") == ["a0", "b0", "a1", "b1", "a2", "b2"]


def test_calls_go_before_events_of_their_function_with_every_fifth_turn_for_an_event() -> None:
    scheduler = given(
        joined(),
        invoke("x", "x"),
        *(event(f"e{number}") for number in range(2)),
        *(invoke(f"r{number}") for number in range(10)),
    )

    assert [
        *("r0", "r1", "r2", "r3", "e0"),
        *("r4", "r5", "r6", "r7", "e1"),
        *("r8", "r9"),
    ] == drain_in_order(scheduler, "x", "x")


def test_concurrency_max_bounds_what_runs_of_a_function_and_not_of_others() -> None:
    scheduler = given(
        joined(slots=10), *(invoke(f"r{number}", concurrency_max=2) for number in range(3))
    )

    assert len(scheduler.leases) == 2
    assert dispatched(scheduler.handle(invoke("g1", "g"))) == ["g1"]
    assert free(scheduler, "r0") == ["r2"]


def test_a_raised_concurrency_max_counts_at_once() -> None:
    scheduler = given(
        joined(slots=10), *(invoke(f"r{number}", concurrency_max=1) for number in range(2))
    )

    assert dispatched(scheduler.handle(invoke("r2", concurrency_max=5))) == ["r1", "r2"]


# bounds


def test_a_call_beyond_queue_max_is_throttled_with_the_time_to_come_back() -> None:
    scheduler = given(joined(), invoke("r0"), invoke("r1"), queue_max=4)
    free(scheduler, "r0", run_us=2_000_000)
    for number in range(2, 6):
        scheduler.handle(invoke(f"r{number}"))

    (result,) = sent(scheduler.handle(invoke("late")), Result, GATEWAY)

    assert (result.request_id, result.outcome, result.retry_after_s) == ("late", "throttled", 8)
    assert result.failure is not None
    assert result.failure.code == "throttled"
    assert "8 s" in result.failure.next


@pytest.mark.parametrize(("run_us", "seconds"), [(0, 1), (1_000, 1), (3_600_000_000, 60)])
def test_retry_after_is_from_one_second_to_a_minute(run_us: int, seconds: int) -> None:
    scheduler = given(joined(), invoke("r0"), invoke("r1"), queue_max=1)
    free(scheduler, "r0", run_us=run_us)
    scheduler.handle(invoke("r2"))

    (result,) = sent(scheduler.handle(invoke("late")), Result)

    assert seconds == result.retry_after_s


def test_events_are_queued_beyond_queue_max() -> None:
    scheduler = given(joined(), *(event(f"e{number}") for number in range(5)), queue_max=1)

    assert scheduler.queues.async_count("default/f") == 4


def test_gateways_are_told_once_of_a_full_backlog_and_once_of_room() -> None:
    scheduler = given(joined(), backlog_max=10)
    said = [
        backlog.full
        for number in range(13)
        for backlog in sent(scheduler.handle(event(f"e{number}")), Backlog, GATEWAY)
    ]
    assert said == [True]

    said = []
    for number in range(13):
        effects = scheduler.handle(freed(scheduler.leases, f"e{number}"))
        said += [
            (scheduler.queues.async_count("default/f"), backlog.full)
            for backlog in sent(effects, Backlog, GATEWAY)
        ]

    assert said == [(8, False)]


def test_gateways_are_told_of_room_when_a_full_backlog_expires() -> None:
    """Steps: the backlog fills while no node is there; all of it becomes too old; refused
    gateways send nothing more, so nobody else would ever say that there is room.
    """
    scheduler = given(
        *(event(f"e{number}", deadline_ms=NOW + 10) for number in range(3)), backlog_max=3
    )

    effects = scheduler.handle(Tick(), NOW + 10)

    assert [backlog.full for backlog in sent(effects, Backlog, GATEWAY)] == [False]


def test_payloads_beyond_the_bound_stay_in_the_journal() -> None:
    scheduler = given(
        event("e1", payload=b"x" * 60),
        event("e2", payload=b"x" * 60),
        event("e3", payload=b"x" * 40),
        payload_bytes_max=100,
    )
    assert scheduler.payload_bytes == 100

    messages = sent(scheduler.handle(joined(slots=3)), Dispatch)

    assert [
        len(message.payload) if message.payload is not None else None for message in messages
    ] == [60, None, 40]
    assert scheduler.payload_bytes == 0


def test_payloads_of_calls_are_never_left_out() -> None:
    scheduler = given(invoke("r1", payload=b"x" * 60), payload_bytes_max=0)

    assert [m.payload for m in sent(scheduler.handle(joined()), Dispatch)] == [b"x" * 60]


# cancel


def test_a_cancelled_call_leaves_its_queue() -> None:
    scheduler = given(joined(), invoke("r1"), invoke("r2"), invoke("r3"))

    assert [Count("invokes_cancelled")] == scheduler.handle(Cancel(request_id="r2"))
    assert free(scheduler, "r1") == ["r3"]


def test_a_cancelled_call_that_runs_is_withdrawn_from_its_node() -> None:
    scheduler = given(joined(), invoke("r1"))

    effects = scheduler.handle(Cancel(request_id="r1"))

    assert [Send("node:n1", Withdraw(request_id="r1", attempt=1))] == of_kind(effects, Send)
    assert len(scheduler.leases) == 1


def test_cancelling_what_is_not_there_does_nothing() -> None:
    assert given(joined()).handle(Cancel(request_id="r1")) == []


def test_a_journalled_call_stays_queued_when_its_caller_goes() -> None:
    """It was accepted durably, so it must end in a recorded outcome."""
    scheduler = given(invoke("r1", journalled=True))

    scheduler.handle(Cancel(request_id="r1"))

    assert dispatched(scheduler.handle(joined())) == ["r1"]


# deadlines


def test_a_call_whose_deadline_passes_in_the_queue_is_answered_with_that_stage() -> None:
    scheduler = given(joined(), invoke("r1"))
    assert NOW + 500 in wakes(scheduler.handle(invoke("r2", deadline_ms=NOW + 500)))

    (result,) = sent(scheduler.handle(Tick(), NOW + 500), Result, GATEWAY)

    assert (result.request_id, result.outcome) == ("r2", "timed_out")
    assert result.failure is not None
    assert result.failure.stage == "queue"
    assert free(scheduler, "r1") == []


def test_an_event_too_old_in_its_queue_is_discarded_by_record() -> None:
    scheduler = given(event("e1", deadline_ms=NOW + 500))

    (outcome,) = sent(scheduler.handle(Tick(), NOW + 500), Outcome, "collector")

    assert (
        outcome.request_id,
        outcome.outcome,
        outcome.attempt,
        outcome.node_id,
    ) == ("e1", "discarded", 0, "")
    assert (outcome.function, outcome.version_id) == ("f", "default/f/1")
    assert scheduler.payload_bytes == 0


def test_a_journalled_call_too_late_in_its_queue_is_answered_and_recorded_as_timed_out() -> None:
    scheduler = given(invoke("r1", journalled=True))

    effects = scheduler.handle(Tick(), NOW + TIMEOUT_MS)

    assert [result.outcome for result in sent(effects, Result, GATEWAY)] == ["timed_out"]
    assert [ended.outcome for ended in sent(effects, Outcome, "collector")] == ["timed_out"]


def test_a_lease_that_expires_is_told_to_the_collector_as_a_fault_of_the_platform() -> None:
    scheduler = given(joined(), event("e1"), lease_grace_ms=5_000)
    due_ms = NOW + TIMEOUT_MS + 5_000
    assert sent(scheduler.handle(Tick(), due_ms - 1), Outcome) == []

    (outcome,) = sent(scheduler.handle(Tick(), due_ms), Outcome, "collector")

    assert (
        outcome.request_id,
        outcome.attempt,
        outcome.node_id,
        outcome.outcome,
    ) == ("e1", 1, "n1", "crashed")
    assert outcome.failure is not None
    assert (outcome.failure.code, outcome.failure.fault) == ("lease_expired", "platform")


# retries


def test_a_retry_waits_for_its_time_and_has_the_next_attempt_number() -> None:
    scheduler = given(joined())
    effects = scheduler.handle(event("e1", attempt=1, available_at_ms=NOW + 700))
    assert dispatched(effects) == []
    assert wakes(effects) == [NOW + 700]
    assert dispatched(scheduler.handle(Tick(), NOW + 699)) == []

    (message,) = sent(scheduler.handle(Tick(), NOW + 700), Dispatch)

    assert (message.request_id, message.attempt) == ("e1", 2)


# nodes


def test_a_lost_node_gets_nothing_more() -> None:
    scheduler = given(joined("n1"), joined("n2"), Gone(node_id="n1"))

    assert placed(scheduler.handle(invoke("r1"))) == [("r1", "n2")]
    assert placed(scheduler.handle(invoke("r2"))) == []


def test_leases_opened_on_a_node_while_its_loss_was_on_the_way_are_given_up() -> None:
    """Steps: the collector closes a lost node's leases and says Gone; before the scheduler hears
    it, another call is dispatched to that node.
    """
    scheduler = given(joined("n1"), event("e1"))

    effects = scheduler.handle(Gone(node_id="n1"))

    assert [
        (outcome.request_id, outcome.attempt, outcome.node_id, outcome.outcome)
        for outcome in sent(effects, Outcome, "collector")
    ] == [("e1", 1, "n1", "crashed")]


def test_a_lease_of_a_nodes_former_life_gives_no_credit_to_its_new_one() -> None:
    scheduler = given(joined("n1"), event("e1"), Gone(node_id="n1"), joined("n1"))

    scheduler.handle(freed(scheduler.leases, "e1"))

    assert (
        scheduler.placement.nodes["n1"].held,
        scheduler.placement.nodes["n1"].credit,
    ) == (0, 1)


def test_a_node_that_offers_less_than_it_holds_gets_nothing_until_it_is_below() -> None:
    scheduler = given(joined(slots=3), *(invoke(f"r{number}") for number in range(3)))
    scheduler.handle(joined(slots=1))
    scheduler.handle(invoke("r3"))

    assert free(scheduler, "r0") == []
    assert free(scheduler, "r1") == []
    assert free(scheduler, "r2") == ["r3"]


def test_a_node_is_warm_for_what_it_ran() -> None:
    scheduler = given(joined("n1"), joined("n2"), invoke("a1", "a"), invoke("b1", "b"))
    nodes = {
        lease.invoke.function: lease.node_id for lease in map(scheduler.leases.get, ("a1", "b1"))
    }
    for request_id, function in (("a1", "a"), ("b1", "b")):
        free(scheduler, request_id, function=function, node_id=nodes[function])

    assert [("b2", nodes["b"])] == placed(scheduler.handle(invoke("b2", "b")))
    assert [("a2", nodes["a"])] == placed(scheduler.handle(invoke("a2", "a")))


# draining


def test_a_draining_scheduler_runs_calls_and_leaves_events_to_the_journal() -> None:
    scheduler = given(joined(), invoke("r0"), event("e1"), invoke("r1"))
    scheduler.drain()

    assert free(scheduler, "r0") == ["r1"]
    assert free(scheduler, "r1") == []
    assert dispatched(scheduler.handle(event("e2"))) == []
    assert dispatched(scheduler.handle(invoke("r2"))) == ["r2"]
    assert scheduler.queues.async_count() == 2


def test_events_left_by_a_drain_still_expire_by_record() -> None:
    scheduler = given(joined(), invoke("r0"), event("e1", deadline_ms=NOW + 500))
    scheduler.drain()
    free(scheduler, "r0")

    (outcome,) = sent(scheduler.handle(Tick(), NOW + 500), Outcome, "collector")

    assert (outcome.request_id, outcome.outcome) == ("e1", "discarded")


# memory


def test_nothing_is_kept_of_what_ended() -> None:
    scheduler = given(joined(slots=2), *(invoke(f"r{number}", f"f{number}") for number in range(5)))
    scheduler.handle(Cancel(request_id="r4"))
    for number in range(4):
        free(scheduler, f"r{number}", function=f"f{number}")

    assert (len(scheduler.queues), len(scheduler.leases), scheduler.payload_bytes) == (0, 0, 0)
    assert scheduler.queues.functions == 0


def test_a_function_whose_calls_were_cancelled_while_one_ran_is_forgotten_with_it() -> None:
    scheduler = given(joined(), *(invoke(f"r{number}", concurrency_max=1) for number in range(3)))
    scheduler.handle(Cancel(request_id="r1"))
    scheduler.handle(Cancel(request_id="r2"))

    assert free(scheduler, "r0") == []
    assert scheduler.queues.functions == 0


def test_what_a_node_cannot_run_is_given_to_another_one_without_using_up_an_attempt() -> None:
    scheduler = given(joined("n1", slots=4), joined("n2", slots=4), invoke("a"))
    lease = scheduler.leases.get("a")
    assert lease is not None
    scheduler.handle(freed(scheduler.leases, "a", node_id=lease.node_id))

    effects = scheduler.handle(Unfit(node_id=lease.node_id, invoke=lease.invoke, attempt=1))

    (dispatch,) = [
        effect.message for effect in effects if isinstance(getattr(effect, "message", 0), Dispatch)
    ]
    again = scheduler.leases.get("a")
    assert again is not None
    assert again.node_id != lease.node_id
    assert (dispatch.attempt, dispatch.movable, dispatch.reply_to) == (2, False, GATEWAY)
    assert again.invoke.attempts_max == lease.invoke.attempts_max + 1


def test_what_only_a_full_node_can_run_waits_while_others_have_room() -> None:
    scheduler = given(joined("n1", slots=4), joined("n2", slots=1))
    scheduler.placement.exclude("default/f/1", "n1")

    assert dispatched(scheduler.handle(invoke("a"))) == ["a"]
    assert dispatched(scheduler.handle(invoke("b"))) == []
    assert free(scheduler, "a", node_id="n2") == []
    assert dispatched(scheduler.handle(Tick(), NOW + 50)) == ["b"]
