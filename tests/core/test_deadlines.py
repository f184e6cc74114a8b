"""Facts about deadlines: what is due, in which order, and what memory they take."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pratai.core.deadlines import COMPACT_MIN, Deadlines


def test_what_is_due_comes_earliest_first_and_once() -> None:
    deadlines = Deadlines()
    for key, at_ms in (("b", 20), ("a", 10), ("c", 30)):
        deadlines.add(key, at_ms)

    assert deadlines.due(20) == ["a", "b"]
    assert deadlines.due(20) == []
    assert deadlines.next_ms() == 30


def test_adding_the_earliest_asks_for_a_wake() -> None:
    deadlines = Deadlines()

    assert [deadlines.add("a", 20), deadlines.add("b", 30), deadlines.add("c", 10)] == [
        True,
        False,
        True,
    ]


def test_after_the_earliest_was_discarded_and_its_time_has_come_the_next_asks_for_a_wake() -> None:
    deadlines = Deadlines()
    deadlines.add("a", 10)
    deadlines.discard("a")
    assert deadlines.due(10) == []

    assert deadlines.add("b", 15)


def test_what_comes_before_the_next_that_was_told_asks_for_a_wake() -> None:
    """A service that ticks wakes no more for what it was told before, only for what is next."""
    deadlines = Deadlines()
    for key, at_ms in (("a", 10), ("b", 300)):
        deadlines.add(key, at_ms)
    deadlines.discard("a")
    assert (deadlines.due(5), deadlines.next_ms()) == ([], 300)

    assert deadlines.add("c", 150)


def test_a_moved_deadline_is_due_at_its_new_time_alone() -> None:
    deadlines = Deadlines()
    deadlines.add("a", 10)
    deadlines.add("a", 30)

    assert deadlines.due(20) == []
    assert deadlines.due(30) == ["a"]


def test_a_discarded_deadline_is_never_due() -> None:
    deadlines = Deadlines()
    deadlines.add("a", 10)
    deadlines.discard("a")
    deadlines.discard("unknown")

    assert (deadlines.due(10), deadlines.next_ms(), len(deadlines)) == ([], None, 0)


def test_memory_follows_what_is_live_and_not_what_was() -> None:
    deadlines = Deadlines()
    for number in range(50 * COMPACT_MIN):
        deadlines.add(str(number), number)
        deadlines.discard(str(number))

    assert deadlines._entries <= COMPACT_MIN + 1


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from("abcdef"), st.integers(0, 200)),
        st.tuples(st.just("discard"), st.sampled_from("abcdef"), st.just(0)),
        st.tuples(st.just("due"), st.just(""), st.integers(0, 200)),
    ),
    max_size=60,
)


@given(STEPS)
@settings(max_examples=200, deadline=None)
def test_deadlines_are_a_map_of_which_what_is_due_is_taken(
    steps: list[tuple[str, str, int]],
) -> None:
    deadlines, model = Deadlines(), dict[str, int]()
    for action, key, at_ms in steps:
        if action == "add":
            deadlines.add(key, at_ms)
            model[key] = at_ms
        elif action == "discard":
            deadlines.discard(key)
            model.pop(key, None)
        else:
            expected = sorted((due_ms, name) for name, due_ms in model.items() if due_ms <= at_ms)
            assert deadlines.due(at_ms) == [name for _, name in expected]
            for _, name in expected:
                del model[name]
        deadlines.check()
        assert len(deadlines) == len(model)
        assert deadlines.next_ms() == min(model.values(), default=None)
        assert all(name in deadlines for name in model)
