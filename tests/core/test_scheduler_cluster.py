"""Facts about the scheduler among several gateways and nodes: leases resumed, shares, drains."""

from __future__ import annotations

from typing import Any

from hypothesis import given as for_all
from hypothesis import settings as tries
from hypothesis import strategies as st
from tests.builders import (
    NOW,
    Checked,
    dispatched,
    event,
    freed,
    invoke,
    of_kind,
    sent,
    settings,
    wakes,
)

from pratai.core.effects import Count, Disconnect, Effect, Send
from pratai.core.leases import Leases
from pratai.model.node import Capacity
from pratai.scheduler.core import provisions, scheduler
from pratai.scheduler.core.provisions import PREPARED_MAX, Provisions
from pratai.scheduler.core.scheduler import Scheduler
from pratai.wire.messages import (
    BACKLOG_REPEAT_MS,
    Backlog,
    Cancel,
    Dispatch,
    DrainNode,
    Forget,
    Gone,
    Joined,
    Message,
    Outcome,
    Peer,
    Peers,
    Provision,
    Resume,
    Tick,
    Withdraw,
)


def given(*messages: Message, **config: Any) -> Checked[Scheduler]:
    made = Checked(Scheduler(settings(**config), Leases()))
    for message in messages:
        made.handle(message)
    return made


def joined(node_id: str = "n1", slots: int = 2, port: int = 5558) -> Joined:
    endpoint = f"tcp://{node_id}:{port}"
    return Joined(node_id=node_id, endpoint=endpoint, capacity=Capacity(slots=slots))


def peers(*names: str) -> Peers:
    return Peers(gateways=[Peer(process_id=name, endpoint=f"tcp://{name}:5559") for name in names])


def resumed(request_id: str = "e1", node_id: str = "n1", **changes: Any) -> Resume:
    return Resume(invoke=event(request_id, **changes), attempt=1, node_id=node_id)


def shares(effects: list[Effect]) -> dict[str, int]:
    """{node_id: count} of what nodes are told to keep."""
    return {
        effect.to.removeprefix("node:").partition("@")[0]: effect.message.count
        for effect in of_kind(effects, Send)
        if isinstance(effect.message, Provision)
    }


# addresses


def test_a_dispatch_goes_to_the_endpoint_that_its_node_announced() -> None:
    made = given(joined("n1"))

    (effect,) = of_kind(made.handle(invoke("r1")), Send)

    assert effect.to == "node:n1@tcp://n1:5558"
    assert isinstance(effect.message, Dispatch)


def test_a_cancelled_call_is_withdrawn_at_that_endpoint() -> None:
    made = given(joined("n1"), invoke("r1"))

    effects = made.handle(Cancel(request_id="r1"))

    assert len(sent(effects, Withdraw, "node:n1@tcp://n1:5558")) == 1


def test_the_socket_to_a_node_that_is_gone_or_moved_is_closed() -> None:
    made = given(joined("n1"), joined("n2"))

    assert of_kind(made.handle(joined("n1", port=6000)), Disconnect) == [
        Disconnect("node:n1@tcp://n1:5558")
    ]
    assert of_kind(made.handle(Gone(node_id="n2")), Disconnect) == [
        Disconnect("node:n2@tcp://n2:5558")
    ]


# gateways


def test_a_gateway_that_comes_is_told_what_is_full_and_one_that_goes_nothing_more() -> None:
    made = given(peers("g1"), *(event(f"e{number}") for number in range(3)), backlog_max=3)

    effects = made.handle(peers("g2"))

    assert [said.full for said in sent(effects, Backlog, "gateway:g2@tcp://g2:5559")] == [True]
    assert of_kind(effects, Disconnect) == [Disconnect("gateway:g1@tcp://g1:5559")]


def test_what_is_full_is_repeated_and_that_there_is_room_is_repeated_once() -> None:
    made = given(peers("g1"), joined(slots=1), backlog_max=3)
    for number in range(4):
        effects = made.handle(event(f"e{number}"))
    assert NOW + BACKLOG_REPEAT_MS in wakes(effects)
    assert [said.full for said in sent(made.handle(Tick(), NOW + BACKLOG_REPEAT_MS), Backlog)] == [
        True
    ]

    for number in range(3):
        made.handle(freed(made.leases, f"e{number}"), NOW + BACKLOG_REPEAT_MS)
    later = [
        [said.full for said in sent(made.handle(Tick(), NOW + times * BACKLOG_REPEAT_MS), Backlog)]
        for times in (2, 3, 4)
    ]

    assert later == [[False], [], []]


# leases of the scheduler before


def test_a_resumed_attempt_counts_where_it_runs() -> None:
    made = given(joined("n1", slots=1))

    effects = made.handle(resumed(concurrency_max=1))

    assert sent(effects, Resume, "collector") == [resumed(concurrency_max=1)]
    assert made.placement.nodes["n1"].credit == 0
    assert dispatched(made.handle(event("e2", concurrency_max=1))) == []


def test_a_resumed_attempt_counts_on_a_node_that_joins_later() -> None:
    made = given(resumed(), joined("n1", slots=1))

    assert made.placement.nodes["n1"].credit == 0


def test_a_resumed_attempt_may_exceed_what_its_node_offers_now() -> None:
    made = given(joined("n1", slots=1), event("e0"), resumed())

    assert (made.placement.nodes["n1"].held, made.placement.nodes["n1"].credit) == (2, 0)


def test_a_resumed_attempt_whose_node_never_comes_is_given_up_after_its_silence() -> None:
    made = given(node_silence_max_ms=10_000)
    assert NOW + 10_000 in wakes(made.handle(resumed()))

    (outcome,) = sent(made.handle(Tick(), NOW + 10_000), Outcome, "collector")

    assert (outcome.request_id, outcome.attempt, outcome.node_id) == ("e1", 1, "n1")


def test_resuming_what_is_known_already_is_counted_and_nothing_else() -> None:
    made = given(event("e1"))

    assert made.handle(resumed()) == [Count("invokes_repeated")]


# drains


def test_a_drained_node_stays_drained_when_it_joins_again() -> None:
    made = given(joined("n1"), DrainNode(node_id="n1", drain=True))

    for message in (joined("n1"), Gone(node_id="n1"), joined("n1")):
        made.handle(message)

    assert dispatched(made.handle(invoke("r1"))) == []
    assert dispatched(made.handle(DrainNode(node_id="n1", drain=False))) == ["r1"]


def test_a_node_may_be_drained_before_it_joins() -> None:
    made = given(DrainNode(node_id="n1", drain=True), joined("n1"))

    assert dispatched(made.handle(invoke("r1"))) == []


def test_a_drain_is_passed_on_to_be_written_down() -> None:
    move = DrainNode(node_id="n1", drain=True)

    assert given().handle(move) == [Send("collector", move)]


def test_the_drained_nodes_that_are_remembered_are_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(scheduler, "DRAINED_MAX", 2)
    made = given(*(DrainNode(node_id=f"n{number}", drain=True) for number in range(3)))

    assert list(made._drained) == ["n1", "n2"]


# provisions


def test_instances_to_keep_are_shared_between_nodes() -> None:
    made = given(*(joined(f"n{number}") for number in range(3)))

    told = shares(made.handle(Provision(version_id="v1", count=5)))

    assert sorted(told.values()) == [1, 2, 2]


def test_a_version_without_instances_to_keep_is_prepared_on_a_few_nodes() -> None:
    made = given(*(joined(f"n{number}") for number in range(20)))

    told = shares(made.handle(Provision(version_id="v1")))

    assert list(told.values()) == [0] * PREPARED_MAX
    assert made.provisions.wanted == {}


def test_a_node_that_joins_later_takes_its_share() -> None:
    made = given(Provision(version_id="v1", count=4))
    assert shares(made.handle(joined("n1"))) == {"n1": 4}

    assert shares(made.handle(joined("n2"))) == {"n1": 2, "n2": 2}


def test_a_node_that_joins_again_is_told_its_share_again() -> None:
    made = given(joined("n1"), Provision(version_id="v1", count=4))

    assert shares(made.handle(joined("n1"))) == {"n1": 4}


def test_the_share_of_a_node_that_goes_or_drains_is_taken_by_others() -> None:
    made = given(*(joined(f"n{number}") for number in range(3)))
    made.handle(Provision(version_id="v1", count=6))

    assert shares(made.handle(Gone(node_id="n0"))) == {"n1": 3, "n2": 3}
    assert shares(made.handle(DrainNode(node_id="n1", drain=True))) == {"n1": 0, "n2": 6}
    assert shares(made.handle(DrainNode(node_id="n1", drain=False))) == {"n1": 3, "n2": 3}


def test_a_version_that_is_kept_no_more_is_kept_nowhere() -> None:
    made = given(joined("n1"), joined("n2"), Provision(version_id="v1", count=2))

    assert shares(made.handle(Provision(version_id="v1"))) == {"n1": 0, "n2": 0}
    assert shares(made.handle(joined("n1"))) == {}


def test_a_deleted_version_is_forgotten_by_every_node() -> None:
    made = given(joined("n1"), joined("n2"), Provision(version_id="v1", count=2))

    effects = made.handle(Forget(version_id="v1"))

    assert len(sent(effects, Forget)) == 2
    assert shares(made.handle(joined("n1"))) == {}


def test_the_versions_that_are_kept_are_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(provisions, "PROVISIONS_MAX", 2)
    made = given(joined("n1"))
    told = [shares(made.handle(Provision(version_id=f"v{number}", count=1))) for number in range(3)]

    assert list(made.provisions.wanted) == ["v1", "v2"]
    assert told[2] == {"n1": 0}  # v0, said after v2


@for_all(
    steps=st.lists(
        st.tuples(st.sampled_from(["want", "join", "leave", "forget"]), st.integers(0, 5)),
        max_size=60,
    ),
    count=st.integers(0, 9),
)
@tries(max_examples=100, deadline=None)
def test_what_nodes_were_told_adds_up_to_what_is_wanted(
    steps: list[tuple[str, int]], count: int
) -> None:
    made, nodes = Provisions(), list[str]()
    told: dict[tuple[str, str], int] = {}
    for step, number in steps:
        node_id, version_id, said = f"n{number}", f"v{number}", list[Any]()
        if step == "join":
            nodes += [] if node_id in nodes else [node_id]
            said = made.join(node_id, nodes)
        elif step == "leave" and node_id in nodes:
            nodes.remove(node_id)
            said = made.leave(node_id, nodes)
        elif step == "want":
            said = made.want(version_id, (count + number) % 10, nodes)
        elif step == "forget":
            made.forget(version_id)
            told = {key: value for key, value in told.items() if key[1] != version_id}
        for node, provision in said:
            told[node, provision.version_id] = provision.count
        made.check()
    for version_id, wanted in made.wanted.items():
        kept = sum(told.get((node_id, version_id), 0) for node_id in nodes)
        assert kept == (wanted if nodes else 0)
