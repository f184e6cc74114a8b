"""Facts about the queues: nothing lost, nothing doubled, turns taken, memory given back."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.builders import event, invoke

from pratai.scheduler.core.queues import DEAD_MAX, SYNC_RUN_MAX, Queues
from pratai.wire.messages import Invoke


def queued(*invokes: Invoke) -> Queues:
    queues = Queues()
    for item in invokes:
        push(queues, item)
    return queues


def push(queues: Queues, item: Invoke) -> None:
    queue = queues.of(f"{item.namespace}/{item.function}")
    queue.concurrency_max = item.concurrency_max
    queues.push(queue, item)
    queues.check()


def pop(queues: Queues, **how: Any) -> str:
    popped = queues.pop(**how)
    queues.check()
    return "" if popped is None else popped[1].request_id


def test_the_oldest_of_a_function_is_first() -> None:
    queues = queued(invoke("r1"), invoke("r2"))

    assert [pop(queues), pop(queues), pop(queues)] == ["r1", "r2", ""]


def test_a_removed_one_is_not_popped_and_counts_no_more() -> None:
    queues = queued(invoke("r1"), event("e1"), event("e2"))

    assert queues.remove("e1") == event("e1")
    assert queues.remove("e1") is None
    assert (queues.sync_count("default/f"), queues.async_count("default/f")) == (1, 1)
    assert [pop(queues), pop(queues), pop(queues)] == ["r1", "e2", ""]


def test_a_removed_one_may_be_queued_again_and_comes_last() -> None:
    queues = queued(event("e1"), event("e2"))
    queues.remove("e1")
    push(queues, event("e1"))

    assert [pop(queues), pop(queues), pop(queues)] == ["e2", "e1", ""]


def test_an_event_has_its_turn_after_a_run_of_calls() -> None:
    calls = [invoke(f"r{number}") for number in range(SYNC_RUN_MAX + 1)]
    queues = queued(*calls, event("e1"))

    assert [pop(queues) for _ in range(6)] == ["r0", "r1", "r2", "r3", "e1", "r4"]


def test_only_calls_are_popped_when_asked_and_events_wait_on() -> None:
    queues = queued(event("e1"), invoke("r1"))

    assert [pop(queues, sync_only=True), pop(queues, sync_only=True)] == ["r1", ""]
    assert queues.async_count() == 1


def test_a_function_at_its_limit_is_passed_over() -> None:
    queues = queued(
        invoke("r1", concurrency_max=1), invoke("r2", concurrency_max=1), invoke("g1", "g")
    )

    assert [pop(queues), pop(queues), pop(queues)] == ["r1", "g1", ""]


def test_dead_entries_are_bounded_by_the_living() -> None:
    queues = queued(*(event(f"e{number}") for number in range(1_000)))
    for number in range(1, 1_000):
        queues.remove(f"e{number}")

    assert len(queues.of("default/f").backlog) <= DEAD_MAX
    assert pop(queues) == "e0"


def test_nothing_is_kept_of_functions_whose_calls_were_all_removed() -> None:
    queues = queued(*(invoke(f"r{number}", f"f{number}") for number in range(10)))
    for number in range(10):
        queues.remove(f"r{number}")

    queues.check()
    assert (len(queues), queues.functions) == (0, 0)


FUNCTIONS = ("f", "g", "h")
LIMITS = {"f": 0, "g": 1, "h": 3}


class QueuesMachine(RuleBasedStateMachine):
    """Against a model: {request_id: invoke} that waits, and a count of what runs."""

    def __init__(self) -> None:
        super().__init__()
        self.queues = Queues()
        self.waiting: dict[str, Invoke] = {}
        self.running: list[str] = []
        self.pushed = 0

    @rule(function=st.sampled_from(FUNCTIONS), is_event=st.booleans())
    def push(self, function: str, is_event: bool) -> None:
        self.pushed += 1
        make = event if is_event else invoke
        item = make(f"r{self.pushed}", function, concurrency_max=LIMITS[function])
        push(self.queues, item)
        self.waiting[item.request_id] = item

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.waiting)))
        assert self.queues.remove(request_id) is self.waiting.pop(request_id)

    @rule(sync_only=st.booleans())
    def pop(self, sync_only: bool) -> None:
        may_run = {
            request_id
            for request_id, item in self.waiting.items()
            if not LIMITS[item.function]
            or self.running.count(item.function) < LIMITS[item.function]
            if not sync_only or item.reply_to
        }
        # a queue passed over because only calls were wanted gets its turn back with the next offer
        popped = self.queues.pop(sync_only=sync_only)
        if popped is None:
            assert sync_only or not self.in_turn(may_run)
            return
        item = popped[1]
        assert item.request_id in may_run
        del self.waiting[item.request_id]
        self.running.append(item.function)

    def in_turn(self, may_run: set[str]) -> bool:
        return any(
            self.queues.of(f"default/{self.waiting[request_id].function}").in_ring
            for request_id in may_run
        )

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        function = data.draw(st.sampled_from(sorted(set(self.running))))
        self.running.remove(function)
        queue = self.queues.of(f"default/{function}")
        queue.running -= 1
        self.queues.offer(queue)
        self.queues.drop_if_unused(queue)

    @invariant()
    def agrees(self) -> None:
        self.queues.check()
        assert len(self.queues) == len(self.waiting)
        assert all(request_id in self.queues for request_id in self.waiting)
        events = sum(not item.reply_to for item in self.waiting.values())
        assert self.queues.async_count() == events
        if not self.waiting and not self.running:
            assert self.queues.functions == 0


TestQueues = QueuesMachine.TestCase
TestQueues.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
