"""Facts about placement: warm nodes first, credit never overspent, no node left out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import NOW, invoke

from pratai.core.leases import Lease, Leases
from pratai.model.node import Capacity
from pratai.scheduler.core import placement as module
from pratai.scheduler.core.placement import Placement


def placement(**slots: int) -> Placement:
    made = Placement(Leases())
    for node_id, count in slots.items():
        made.join(node_id, "memory", Capacity(slots=count))
    made.check()
    return made


def place(made: Placement, version_id: str, request_id: str) -> str:
    node = made.choose(version_id)
    if node is None:
        return ""
    lease = Lease(
        invoke=invoke(request_id),
        attempt=1,
        node_id=node.node_id,
        expires_at_ms=NOW,
        placed_at_ms=NOW,
    )
    made._leases.open(lease)
    node.settle()
    made.check()
    return node.node_id


def end(made: Placement, request_id: str) -> None:
    """An attempt ended: its lease is closed, its node has a credit more."""
    lease = made._leases.close(request_id)
    assert lease is not None
    node = made.nodes.get(lease.node_id)
    if node is not None:
        node.settle()
    made.check()


def test_no_node_no_choice() -> None:
    assert placement().choose("v1") is None
    assert not placement().has_credit()


def test_a_node_without_credit_is_not_chosen() -> None:
    made = placement(n1=1)
    assert place(made, "v1", "r1") == "n1"

    assert place(made, "v1", "r2") == ""
    assert not made.has_credit()


def test_a_draining_node_is_not_chosen() -> None:
    made = placement(n1=1, n2=1)
    made.drain("n1", drain=True)

    assert place(made, "v1", "r1") == "n2"
    assert place(made, "v1", "r2") == ""


def test_a_version_stays_on_the_node_that_ran_it_last() -> None:
    made = placement(n1=10, n2=10, n3=10)
    first = place(made, "v1", "r0")

    for number in range(1, 10):
        end(made, f"r{number - 1}")
        assert place(made, "v1", f"r{number}") == first


def test_a_crowd_on_one_node_spreads_while_others_sleep() -> None:
    made = placement(n1=32, n2=32)

    chosen = [place(made, "v1", f"r{number}") for number in range(24)]

    assert abs(chosen.count("n1") - chosen.count("n2")) <= 4


def test_a_crowd_stays_where_everybody_is_as_busy() -> None:
    made = placement(n1=32, n2=32)
    for number in range(8):
        place(made, "v1" if number % 2 else "v2", f"r{number}")
    busy = [node.held for node in made.nodes.values()]

    assert abs(busy[0] - busy[1]) <= 4


def test_a_version_goes_on_to_another_node_when_its_own_is_full() -> None:
    made = placement(n1=2, n2=2)

    chosen = [place(made, "v1", f"r{number}") for number in range(4)]

    assert sorted(chosen) == ["n1", "n1", "n2", "n2"]


def test_the_less_loaded_of_two_cold_nodes_is_chosen() -> None:
    made = placement(n1=10, n2=10)
    busy = place(made, "v1", "r1")

    assert place(made, "v2", "r2") != busy


def test_a_node_that_left_is_chosen_no_more() -> None:
    made = placement(n1=1)
    made.choose("v1")
    made.leave("n1")
    made.leave("unknown")

    assert made.choose("v1") is None


def test_a_node_that_says_again_what_it_offers_keeps_what_it_holds() -> None:
    made = placement(n1=2)
    place(made, "v1", "r1")
    made.join("n1", "memory", Capacity(slots=5, prefetch=1))

    assert (made.nodes["n1"].credit, made.nodes["n1"].held) == (5, 1)


def test_a_version_goes_back_to_any_node_that_ran_it_lately() -> None:
    made = placement(n1=1, n2=1, **{f"m{number}": 1 for number in range(50)})
    ran = {place(made, "v1", f"r{number}") for number in range(2)}
    end(made, "r0")
    end(made, "r1")

    assert {place(made, "v1", f"again{number}") for number in range(2)} == ran


def test_a_node_that_was_told_to_make_a_version_ready_comes_before_others() -> None:
    made = placement(**{f"n{number}": 1 for number in range(50)})
    made.remember("v1", made.nodes["n31"])

    assert place(made, "v1", "r1") == "n31"


def test_a_free_slot_elsewhere_comes_before_waiting_behind_a_slot() -> None:
    made = Placement(Leases())
    for node_id in ("n1", "n2"):
        made.join(node_id, "memory", Capacity(slots=1, prefetch=1))
    first, second, third, fourth = (place(made, "v1", f"r{number}") for number in range(4))

    assert first != second
    assert {third, fourth} == {"n1", "n2"}


def test_a_node_short_of_memory_is_left_aside_while_others_have_it() -> None:
    made = Placement(Leases())
    for node_id in ("n1", "n2"):
        made.join(node_id, "memory", Capacity(slots=10, memory_mb=1_000))
    made.nodes["n1"].memory_used_mb = 900

    assert {made_on(made, f"v{number}", 200) for number in range(4)} == {"n2"}
    assert made_on(made, "v4", 200) in {"n1", "n2"}  # both are short by now


def made_on(made: Placement, version_id: str, memory_mb: int) -> str:
    node = made.choose(version_id, memory_mb)
    assert node is not None
    return node.node_id


def test_load_is_spread_evenly_over_many_nodes() -> None:
    made = placement(**{f"n{number}": 100 for number in range(100)})
    for number in range(3_000):
        assert place(made, f"v{number}", f"r{number}")

    held = [node.held for node in made.nodes.values()]
    assert (min(held) > 20, max(held) < 36) == (True, True)


def test_what_is_remembered_of_versions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VERSIONS_MAX", 10)
    made = placement(n1=100)
    for number in range(20):
        place(made, f"v{number}", f"r{number}")

    assert list(made._places) == [f"v{number}" for number in range(10, 20)]
    made.forget("v19")
    assert "v19" not in made._places


@given(
    slots=st.lists(st.integers(0, 3), min_size=1, max_size=5),
    steps=st.lists(
        st.tuples(st.sampled_from(["start", "end", "drain", "join", "leave"]), st.integers(0, 5)),
        max_size=60,
    ),
)
@settings(max_examples=200, deadline=None)
def test_a_node_is_found_exactly_when_there_is_credit(
    slots: list[int], steps: list[tuple[str, int]]
) -> None:
    made = placement(**{f"n{number}": count for number, count in enumerate(slots)})
    running: list[tuple[str, str]] = []
    for step, (what, number) in enumerate(steps):
        node_id = f"n{number}"
        credit = sum(node.credit for node in made.nodes.values() if not node.draining)
        if what == "start":
            chosen = place(made, f"v{number}", f"r{step}")
            assert bool(chosen) == (credit > 0)
            running += [(chosen, f"r{step}")] if chosen else []
        elif what == "end" and running:
            _, request_id = running.pop(number % len(running))
            end(made, request_id)
        elif what == "drain":
            made.drain(node_id, drain=step % 2 == 0)
        elif what == "join":
            made.join(node_id, "memory", Capacity(slots=step % 4))
        elif what == "leave":
            made.leave(node_id)
        made.check()
        assert made.has_credit() == any(
            node.credit > 0 and not node.draining for node in made.nodes.values()
        )


def test_a_node_that_cannot_run_a_version_is_not_chosen_for_it_again() -> None:
    made = placement(n1=10, n2=10)
    assert made.is_movable("v1", "n1")
    made.exclude("v1", "n1")

    assert {place(made, "v1", f"r{number}") for number in range(6)} == {"n2"}
    assert not made.is_movable("v1", "n2")
    assert {place(made, "v2", f"s{number}") for number in range(8)} >= {"n1"}


def test_a_version_waits_for_nodes_that_can_run_it() -> None:
    made = placement(n1=10, n2=1)
    made.exclude("v1", "n1")

    assert place(made, "v1", "r1") == "n2"
    assert place(made, "v1", "r2") == ""
    assert made.has_credit()


def test_where_no_node_can_run_a_version_one_is_chosen_to_say_so() -> None:
    made = placement(n1=10)
    made.exclude("v1", "n1")

    assert place(made, "v1", "r1") == "n1"
    assert not made.is_movable("v1", "n1")
    made.forget("v1")
    made.join("n2", "memory", Capacity(slots=1))
    assert made.is_movable("v1", "n1")
