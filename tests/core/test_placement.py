"""Facts about placement: warm nodes first, credit never overspent, no node left out."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pratai.model.node import Capacity
from pratai.scheduler.core.placement import WARM_MAX, Placement


def placement(**slots: int) -> Placement:
    made = Placement()
    for node_id, count in slots.items():
        made.join(node_id, "memory", Capacity(slots=count))
    made.check()
    return made


def place(made: Placement, version_id: str, request_id: str) -> str:
    node = made.choose(version_id)
    if node is None:
        return ""
    node.spend(version_id, request_id)
    made.check()
    return node.node_id


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
    made.nodes["n1"].draining = True

    assert place(made, "v1", "r1") == "n2"
    assert place(made, "v1", "r2") == ""


def test_a_version_stays_on_the_node_that_ran_it_last() -> None:
    made = placement(n1=10, n2=10, n3=10)
    first = place(made, "v1", "r0")

    assert {place(made, "v1", f"r{number}") for number in range(1, 10)} == {first}


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


def test_an_end_that_is_told_twice_grants_one_credit() -> None:
    made = placement(n1=2)
    place(made, "v1", "r1")
    place(made, "v1", "r2")
    made.nodes["n1"].grant("r1")
    made.nodes["n1"].grant("r1")

    assert (made.nodes["n1"].credit, made.nodes["n1"].held) == (1, 1)


def test_a_node_that_says_again_what_it_offers_keeps_what_it_holds() -> None:
    made = placement(n1=2)
    place(made, "v1", "r1")
    made.join("n1", "memory", Capacity(slots=5, prefetch=1))

    assert (made.nodes["n1"].credit, made.nodes["n1"].held) == (5, 1)


def test_the_versions_a_node_is_warm_for_are_bounded() -> None:
    made = placement(n1=1)
    for number in range(WARM_MAX + 100):
        place(made, f"v{number}", f"r{number}")
        made.nodes["n1"].grant(f"r{number}")

    assert len(made.nodes["n1"].warm) == WARM_MAX
    assert len(made._last) <= WARM_MAX


@given(
    slots=st.lists(st.integers(0, 3), min_size=1, max_size=5),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=60),
)
@settings(max_examples=150, deadline=None)
def test_a_node_is_found_exactly_when_there_is_credit(
    slots: list[int], steps: list[tuple[bool, int]]
) -> None:
    made = placement(**{f"n{number}": count for number, count in enumerate(slots)})
    running: list[tuple[str, str]] = []
    for number, (starts, version) in enumerate(steps):
        if starts:
            node_id = place(made, f"v{version}", f"r{number}")
            assert bool(node_id) == (len(running) < sum(slots))
            if node_id:
                running.append((node_id, f"r{number}"))
        elif running:
            node_id, request_id = running.pop(version % len(running))
            made.nodes[node_id].grant(request_id)
        made.check()
        assert sum(node.held for node in made.nodes.values()) == len(running)
        assert made.has_credit() == (len(running) < sum(slots))
