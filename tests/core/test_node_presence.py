"""Facts about what a node says of itself."""

from __future__ import annotations

from tests.builders import Checked, dispatch, of_kind, sent

from pratai.config import schema
from pratai.core.effects import Count
from pratai.model.node import Capacity
from pratai.node.core import Node
from pratai.node.presence import Presence
from pratai.wire.instance import Drain
from pratai.wire.messages import Heartbeat, Roster

CAPACITY = Capacity(slots=4, prefetch=2, driver="fake")


def node(endpoint: str = "tcp://n1:5558") -> Checked[Node]:
    presence = Presence("n1", endpoint=endpoint, capacity=CAPACITY, degraded=["No root."])
    return Checked(Node(schema.Node(), "n1", memory_mb=1_024, presence=presence))


def test_a_node_joins_with_what_it_offers_and_has() -> None:
    given = node()
    given.handle(dispatch("r1", attempt=3))

    joined = given.core.join()

    assert (joined.endpoint, joined.capacity, joined.held, joined.degraded) == (
        "tcp://n1:5558",
        CAPACITY,
        [("r1", 3)],
        ["No root."],
    )


def test_every_heartbeat_serves_as_a_join() -> None:
    beat = node().core.heartbeat()

    assert (beat.endpoint, beat.capacity) == ("tcp://n1:5558", CAPACITY)


def test_a_draining_node_says_at_once_that_it_offers_no_place_any_more() -> None:
    (beat,) = sent(node().handle(Drain()), Heartbeat, "collector")

    assert beat.capacity == Capacity(slots=0, prefetch=0, driver="fake")


def test_a_node_in_one_process_with_its_scheduler_goes_on_taking_what_is_queued() -> None:
    (beat,) = sent(node("memory").handle(Drain()), Heartbeat, "collector")

    assert beat.capacity == CAPACITY


def test_a_node_keeps_the_newest_roster_and_counts_that_it_is_refused() -> None:
    given = node()
    roster = Roster(scheduler_id="s1", gateways=[], nodes=1, refused="Install another release.")

    assert of_kind(given.handle(roster), Count) == [Count("joins_refused")]
    assert given.core.presence.roster == roster
