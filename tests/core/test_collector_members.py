"""Facts about membership: who introduces themselves is there, who falls silent is not."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import NOW, Checked, event, invoke, of_kind, outcome, sent, settings

from pratai.collector import membership
from pratai.collector.core import JOIN_AGE_MS, Collector
from pratai.core.effects import Count, Disconnect, Effect, RecordMember, RecordOutcome
from pratai.core.leases import Lease, Leases
from pratai.model.node import Capacity, NodeRecord, ProcessRecord
from pratai.wire.messages import (
    PROTOCOL,
    Announce,
    DrainNode,
    Freed,
    Gone,
    Heartbeat,
    Invoke,
    Join,
    Joined,
    Leave,
    Peer,
    Peers,
    Result,
    Resume,
    Roster,
    Tick,
    Withdraw,
)

ENDPOINT = "tcp://10.0.0.7:5558"
NODE = f"node:n1@{ENDPOINT}"
CAPACITY = Capacity(slots=4, prefetch=1, driver="fake", labels={"zone": "a"})
SILENCE_MS = 10_000
DAY_MS = 86_400_000


def collector() -> Checked[Collector]:
    config = settings(node_silence_max_ms=SILENCE_MS, gateway_silence_max_ms=SILENCE_MS)
    return Checked(Collector(config, Leases(), scheduler_id="s1"))


def join(node_id: str = "n1", **changes: Any) -> Join:
    values: dict[str, Any] = {"node_id": node_id, "endpoint": ENDPOINT, "capacity": CAPACITY}
    return Join(**(values | changes))


def beat(node_id: str = "n1", **changes: Any) -> Heartbeat:
    values: dict[str, Any] = {"node_id": node_id, "endpoint": ENDPOINT, "capacity": CAPACITY}
    return Heartbeat(**(values | changes))


def announce(process_id: str = "g1", **changes: Any) -> Announce:
    values: dict[str, Any] = {
        "process_id": process_id,
        "kind": "gateway",
        "endpoint": f"tcp://{process_id}:5559",
    }
    return Announce(**(values | changes))


def lease(given: Checked[Collector], item: Invoke, **changes: Any) -> None:
    values: dict[str, Any] = {
        "invoke": item,
        "attempt": item.attempt + 1,
        "node_id": "n1",
        "expires_at_ms": NOW + 60_000,
        "placed_at_ms": NOW,
    }
    given._leases.open(Lease(**(values | changes)))


def states(effects: list[Effect]) -> list[tuple[str, str, bool]]:
    """(who, state, forgotten) of what is to be written down."""
    return [
        (
            record.node_id if isinstance(record, NodeRecord) else record.process_id,
            record.state,
            effect.forgotten,
        )
        for effect in of_kind(effects, RecordMember)
        for record in (effect.record,)
    ]


# nodes


def test_a_node_that_joins_is_answered_with_who_is_there() -> None:
    given = collector()
    given.handle(announce())

    effects = given.handle(join())

    peer = Peer(process_id="g1", endpoint="tcp://g1:5559")
    assert sent(effects, Roster, NODE) == [Roster(scheduler_id="s1", gateways=[peer], nodes=1)]
    assert states(effects) == [("n1", "ready", False)]


def test_a_heartbeat_that_says_what_it_offers_serves_as_a_join() -> None:
    effects = collector().handle(beat())

    assert sent(effects, Joined, "scheduler") == [
        Joined(node_id="n1", endpoint=ENDPOINT, capacity=CAPACITY)
    ]
    assert len(sent(effects, Roster, NODE)) == 1


def test_a_heartbeat_of_a_known_node_is_no_news_to_the_scheduler_unless_it_offers_other_things() -> (
    None
):
    given = collector()
    given.handle(join())
    less = Capacity(slots=0, driver="fake")

    assert sent(given.handle(beat()), Joined) == []
    assert [said.capacity for said in sent(given.handle(beat(capacity=less)), Joined)] == [less]


@pytest.mark.parametrize("said", [join(protocol=PROTOCOL + 1), beat(protocol=PROTOCOL - 1)])
def test_a_node_of_another_protocol_is_told_so_and_nothing_else(said: Join | Heartbeat) -> None:
    given = collector()

    effects = given.handle(said)

    (roster,) = sent(effects, Roster, NODE)
    assert "install the same release" in roster.refused
    assert of_kind(effects, RecordMember) == []
    assert (sent(effects, Joined), given.members) == ([], {})


def test_the_socket_to_a_refused_node_is_closed_after_a_while() -> None:
    given = collector()
    given.handle(join(protocol=PROTOCOL + 1))

    assert of_kind(given.handle(Tick(), NOW + SILENCE_MS), Disconnect) == [Disconnect(NODE)]


def test_strangers_beyond_a_bound_are_counted_and_not_answered() -> None:
    given = collector()
    for number in range(membership.REFUSED_MAX):
        given.handle(join(f"n{number}", protocol=PROTOCOL + 1))

    effects = given.handle(join("late", protocol=PROTOCOL + 1))

    assert effects == [Count("members_refused")]


def test_figures_of_a_node_are_written_now_and_then_only() -> None:
    given = collector()
    given.handle(join())
    times = [
        NOW + ms
        for ms in range(1_000, 21_000, 1_000)
        if of_kind(given.handle(beat(instances=3), NOW + ms), RecordMember)
    ]

    assert times == [NOW + 5_000, NOW + 10_000, NOW + 15_000, NOW + 20_000]


def test_a_node_in_the_same_process_is_written_at_changes_only() -> None:
    given = collector()
    given.handle(join(endpoint="memory"))

    for ms in range(1_000, 60_000, 1_000):
        effects = given.handle(beat(endpoint="memory"), NOW + ms)
        assert of_kind(effects, RecordMember) == []


def test_what_is_known_of_a_lost_node_is_kept_for_a_day() -> None:
    given = collector()
    given.handle(join())
    lost_ms = NOW + SILENCE_MS

    assert states(given.handle(Tick(), lost_ms)) == [("n1", "lost", False)]
    assert states(given.handle(Tick(), lost_ms + DAY_MS - 1)) == []
    assert states(given.handle(Tick(), lost_ms + DAY_MS)) == [("n1", "lost", True)]


def test_a_lost_node_that_is_heard_again_is_there_again() -> None:
    given = collector()
    given.handle(join())
    given.handle(Tick(), NOW + SILENCE_MS)

    effects = given.handle(beat(), NOW + SILENCE_MS + 1)

    assert len(sent(effects, Joined, "scheduler")) == 1
    assert states(effects) == [("n1", "ready", False)]


def test_a_drained_node_stays_drained_while_it_is_away() -> None:
    given = collector()
    given.handle(join())
    assert states(given.handle(DrainNode(node_id="n1", drain=True))) == [("n1", "draining", False)]
    (left,) = of_kind(given.handle(Leave(node_id="n1")), RecordMember)
    assert isinstance(left.record, NodeRecord)
    assert (left.record.state, left.record.draining) == ("left", True)

    assert states(given.handle(join())) == [("n1", "draining", False)]
    assert states(given.handle(DrainNode(node_id="n1", drain=False))) == [("n1", "ready", False)]


def test_a_node_of_the_scheduler_before_is_lost_unless_it_is_heard() -> None:
    given = collector()
    records: list[NodeRecord | ProcessRecord] = [
        NodeRecord(node_id="n1", state="ready", heard_at_ms=NOW - 100),
        NodeRecord(node_id="n2", state="ready", heard_at_ms=NOW - 100),
        NodeRecord(node_id="n3", state="lost", heard_at_ms=NOW - DAY_MS + 50_000),
    ]
    given.remember(records, NOW)
    given.check()
    given.handle(beat("n1"), NOW + 1)
    given.handle(beat("n1"), NOW + SILENCE_MS - 1)

    assert states(given.handle(Tick(), NOW + SILENCE_MS)) == [("n2", "lost", False)]
    given.handle(beat("n1"), NOW + 2 * SILENCE_MS)
    given.handle(beat("n1"), NOW + 3 * SILENCE_MS)
    given.handle(beat("n1"), NOW + 4 * SILENCE_MS)
    assert ("n3", "lost", True) in states(given.handle(Tick(), NOW + 50_000))


# gateways and agents


def test_gateways_that_announce_themselves_are_told_to_the_scheduler_once() -> None:
    given = collector()
    peer = Peer(process_id="g1", endpoint="tcp://g1:5559", url="http://g1:9996")

    effects = given.handle(announce(url=peer.url))

    assert sent(effects, Peers, "scheduler") == [Peers(gateways=[peer])]
    roster = Roster(scheduler_id="s1", gateways=[peer], nodes=0)
    assert set(map(str, sent(effects, Roster, "gateway:g1@tcp://g1:5559"))) == {str(roster)}
    assert sent(given.handle(announce(url=peer.url), NOW + 1_000), Peers) == []


def test_gateways_are_told_at_once_of_another_one() -> None:
    given = collector()
    given.handle(announce("g1"))

    (roster,) = sent(given.handle(announce("g2")), Roster, "gateway:g1@tcp://g1:5559")

    assert [peer.process_id for peer in roster.gateways] == ["g1", "g2"]


def test_a_silent_gateway_is_a_peer_no_more() -> None:
    given = collector()
    given.handle(announce("g1"))
    given.handle(announce("g2"), NOW + 5_000)

    effects = given.handle(Tick(), NOW + SILENCE_MS)

    (peers,) = sent(effects, Peers, "scheduler")
    assert [peer.process_id for peer in peers.gateways] == ["g2"]
    assert states(effects) == [("g1", "lost", True)]


def test_an_agent_is_answered_and_no_peer() -> None:
    given = collector()

    effects = given.handle(announce("a1", kind="agent"))

    assert sent(effects, Peers) == []
    assert len(sent(effects, Roster, "agent:a1@tcp://a1:5559")) == 1
    assert of_kind(given.handle(Tick(), NOW + SILENCE_MS), Disconnect) == [
        Disconnect("agent:a1@tcp://a1:5559")
    ]


def test_a_gateway_of_another_protocol_is_refused() -> None:
    effects = collector().handle(announce(protocol=PROTOCOL + 1))

    (roster,) = sent(effects, Roster, "gateway:g1@tcp://g1:5559")
    assert (bool(roster.refused), sent(effects, Peers)) == (True, [])


def test_gateways_of_the_scheduler_before_are_no_peers_until_they_are_heard() -> None:
    given = collector()
    record = ProcessRecord(process_id="g1", kind="gateway", endpoint="tcp://g1:5559")
    given.remember([record], NOW)

    assert [len(peers.gateways) for peers in sent(given.handle(announce("g2")), Peers)] == [1]
    assert [len(peers.gateways) for peers in sent(given.handle(announce("g1")), Peers)] == [2]


def test_processes_beyond_a_bound_are_counted_and_not_taken_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(membership, "PROCESSES_MAX", 1)
    given = collector()
    given.handle(announce("g1"))

    assert given.handle(announce("g2")) == [Count("announces_refused")]


# what nodes have, and what they should


def lost(effects: list[Effect]) -> list[str]:
    """Request ids of the leases that were ended."""
    return [message.request_id for message in sent(effects, Freed, "scheduler")]


def test_a_lease_that_its_node_does_not_have_is_ended_once_it_is_old_enough() -> None:
    given = collector()
    given.handle(join())
    lease(given, event("e1"))
    lease(given, event("e2"))
    held = [("e2", 1)]

    assert lost(given.handle(beat(held=held), NOW + SILENCE_MS - 1)) == []
    effects = given.handle(beat(held=held), NOW + SILENCE_MS)

    assert lost(effects) == ["e1"]
    (again,) = sent(effects, Invoke, "scheduler")
    assert (again.request_id, again.attempt, again.recoveries) == ("e1", 1, 1)


def test_the_caller_of_a_dispatch_that_was_lost_is_answered() -> None:
    given = collector()
    given.handle(join())
    lease(given, invoke("r1"))

    (result,) = sent(given.handle(beat(), NOW + SILENCE_MS), Result)

    assert result.failure is not None
    assert (result.request_id, result.failure.code) == ("r1", "dispatch_lost")


def test_a_node_that_joins_anew_has_lost_what_its_former_life_had() -> None:
    given = collector()
    given.handle(join())
    lease(given, event("old"))
    lease(given, event("new"), placed_at_ms=NOW + 5_000)

    assert lost(given.handle(join(), NOW + 5_000 + JOIN_AGE_MS - 1)) == ["old"]


def test_an_older_attempt_of_an_event_is_withdrawn_where_it_still_runs() -> None:
    given = collector()
    lease(given, event("e1", attempt=1), node_id="n2")

    effects = given.handle(beat(held=[("e1", 1)]))

    assert sent(effects, Withdraw, NODE) == [Withdraw(request_id="e1", attempt=1)]


@pytest.mark.parametrize(
    "item",
    [
        invoke("r1", attempt=1),
        invoke("r1", attempt=1, journalled=True),
        event("r1", attempt=1, deadline_ms=NOW + 10_000),
    ],
)
def test_what_a_caller_may_wait_for_is_never_withdrawn(item: Invoke) -> None:
    given = collector()
    lease(given, item, node_id="n2")

    assert sent(given.handle(beat(held=[("r1", 1)])), Withdraw) == []


def test_calls_without_a_lease_go_on() -> None:
    """After a restart of the scheduler their callers still wait for the node's answer."""
    assert sent(collector().handle(beat(held=[("r1", 1)])), Withdraw) == []


# leases of the scheduler before


def resume(given: Checked[Collector], request_id: str = "e1", now_ms: int = NOW) -> list[Effect]:
    """The scheduler opens a lease again and says so."""
    item = event(request_id)
    lease(given, item, resumed=True, placed_at_ms=now_ms, expires_at_ms=now_ms + SILENCE_MS)
    return given.handle(Resume(invoke=item, attempt=1, node_id="n1"), now_ms)


def test_a_resumed_attempt_that_its_node_has_goes_on() -> None:
    given = collector()
    resume(given)

    given.handle(beat(held=[("e1", 1)]), NOW + 2_000)

    confirmed = given._leases.get("e1")
    assert confirmed is not None
    assert confirmed.expires_at_ms == NOW + 2_000 + 10_000 + 5_000
    assert of_kind(given.handle(outcome("e1"), NOW + 3_000), RecordOutcome) != []


def test_a_resumed_attempt_that_its_node_does_not_have_is_repeated_at_once() -> None:
    given = collector()
    resume(given)

    effects = given.handle(beat(), NOW + 1)

    assert lost(effects) == ["e1"]
    assert [again.attempt for again in sent(effects, Invoke)] == [1]


@pytest.mark.parametrize(("held", "ended"), [([], ["e1"]), ([("e1", 1)], [])])
def test_a_node_that_was_heard_before_the_journal_was_read_has_said_what_it_has(
    held: list[tuple[str, int]], ended: list[str]
) -> None:
    given = collector()
    given.handle(join(held=held))

    assert lost(resume(given)) == ended


def test_an_outcome_that_came_before_its_lease_was_read_counts() -> None:
    given = collector()
    given._leases.recovering = True
    assert given.handle(outcome("e1")) == []

    effects = resume(given)

    assert [record.outcome for record in of_kind(effects, RecordOutcome)] == [outcome("e1")]


def test_early_outcomes_without_a_lease_are_forgotten_when_the_journal_is_read() -> None:
    given = collector()
    given._leases.recovering = True
    given.handle(outcome("e1"))
    given._leases.recovering = False

    assert Count("outcomes_fenced") in given.handle(beat())
    assert given._early == {}


def test_resuming_what_has_ended_does_nothing() -> None:
    assert collector().handle(Resume(invoke=event("e1"), attempt=1, node_id="n1")) == []


def test_a_lost_node_is_gone_before_its_record_says_so() -> None:
    given = collector()
    given.handle(join())

    assert sent(given.handle(Tick(), NOW + SILENCE_MS), Gone) == [Gone(node_id="n1")]
