"""Facts that hold for every seed, and proof that the checkers would notice if they did not."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from pratai.collector.core import Collector
from pratai.core.deadlines import Deadlines
from pratai.core.effects import RecordOutcome, Send
from pratai.core.leases import Lease, Leases
from pratai.gateway.core import Gateway
from pratai.node.core import Node
from pratai.scheduler.core.placement import NodeLedger
from pratai.scheduler.core.queues import Queues
from pratai.scheduler.core.scheduler import Scheduler
from pratai.sim.world import SimulationFailed, World
from pratai.wire.instance import InstanceExited, Returned
from pratai.wire.messages import Freed, Gone, Invoke, Outcome, Peers, Result, Resume

#: Seeds within which a mutation must be noticed.
NOTICED_WITHIN = 300


@pytest.mark.parametrize("first", range(1, 61, 20))
def test_without_faults_nothing_is_lost_repeated_or_left_over(first: int) -> None:
    reports = [World(seed, faults=False).run() for seed in range(first, first + 20)]

    assert sum(report.invocations for report in reports) == 20 * 70


@pytest.mark.parametrize("first", range(1_001, 1_101, 20))
def test_with_faults_nothing_is_lost_repeated_or_left_over(first: int) -> None:
    reports = [World(seed).run() for seed in range(first, first + 20)]

    assert sum(report.invocations for report in reports) == 20 * 70


def test_seeds_meet_every_outcome() -> None:
    """A simulation in which nothing ever goes wrong would prove nothing."""
    seen: set[str] = set()
    for seed in range(1, 31):
        seen.update(World(seed).run().outcomes)

    assert seen == {"succeeded", "failed", "timed_out", "crashed", "discarded"}


def test_a_seed_is_the_same_run_every_time() -> None:
    first, again, other = World(7).run(), World(7).run(), World(8).run()

    assert first == again
    assert first.trace_hash != other.trace_hash


# mutations: each breaks a core in one place, as a careless change would

Mutation = Callable[[pytest.MonkeyPatch], None]


def first_failure() -> SimulationFailed | None:
    """What the first failing seed says, with and without faults by turns."""
    for seed in range(1, NOTICED_WITHIN + 1):
        try:
            World(seed, faults=seed % 2 == 0).run()
        except SimulationFailed as failure:
            return failure
    return None


def change_handler(
    patch: pytest.MonkeyPatch, core: type[Any], message: type[Any], handler: Callable[..., None]
) -> None:
    patch.setitem(core._TRANSITIONS, message, handler)


def fencing_is_off(patch: pytest.MonkeyPatch) -> None:
    """The outcome of any attempt closes the lease of the newest."""
    original = Collector._on_outcome

    def on_outcome(self: Collector, outcome: Outcome, now_ms: int, effects: list[Any]) -> None:
        lease = self._leases.get(outcome.request_id)
        effects_before = len(effects)
        if lease is not None:
            known = replace(outcome, attempt=lease.attempt, node_id=lease.node_id)
            original(self, known, now_ms, effects)
            effects[effects_before:] = [
                RecordOutcome(outcome, e.namespace, e.dead, e.queue_us, e.function)
                if isinstance(e, RecordOutcome)
                else e
                for e in effects[effects_before:]
            ]
        else:
            original(self, outcome, now_ms, effects)

    change_handler(patch, Collector, Outcome, on_outcome)


def leases_are_never_closed(patch: pytest.MonkeyPatch) -> None:
    def close(self: Leases, request_id: str, attempt: int | None = None) -> Lease | None:
        return self.get(request_id)

    patch.setattr(Leases, "close", close)


def a_retry_keeps_its_attempt_number(patch: pytest.MonkeyPatch) -> None:
    original = Collector._settle

    def settle(self: Collector, lease: Lease, outcome: Outcome, now_ms: int, effects: Any) -> None:
        original(self, lease, outcome, now_ms, effects)
        for index, effect in enumerate(effects):
            if isinstance(effect, Send) and isinstance(effect.message, Invoke):
                again = replace(effect.message, attempt=effect.message.attempt - 1)
                effects[index] = Send(effect.to, again)

    patch.setattr(Collector, "_settle", settle)


def a_cancel_drops_the_neighbour_too(patch: pytest.MonkeyPatch) -> None:
    original = Queues.remove

    def remove(self: Queues, request_id: str) -> Invoke | None:
        removed = original(self, request_id)
        if removed is not None:
            for neighbour, waiting in list(self._queued.items()):
                if waiting.function == removed.function:
                    original(self, neighbour)
                    break
        return removed

    patch.setattr(Queues, "remove", remove)


def credit_is_not_returned(patch: pytest.MonkeyPatch) -> None:
    original = NodeLedger.settle
    offered: set[NodeLedger] = set()

    def settle(self: NodeLedger) -> None:
        if self.place >= 0 or self not in offered:
            original(self)
            offered.add(self)

    patch.setattr(NodeLedger, "settle", settle)


def outcomes_are_recorded_twice(patch: pytest.MonkeyPatch) -> None:
    original = Collector._record

    def record(
        self: Collector, lease: Lease, outcome: Outcome, effects: Any, *, dead: bool
    ) -> None:
        original(self, lease, outcome, effects, dead=dead)
        original(self, lease, outcome, effects, dead=dead)

    patch.setattr(Collector, "_record", record)


def retries_are_not_bounded(patch: pytest.MonkeyPatch) -> None:
    original = Collector._settle

    def settle(self: Collector, lease: Lease, outcome: Outcome, now_ms: int, effects: Any) -> None:
        lease = replace(lease, invoke=replace(lease.invoke, attempts_max=99))
        original(self, lease, outcome, now_ms, effects)

    patch.setattr(Collector, "_settle", settle)


def expired_leases_are_not_told(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Leases, "expired", lambda self, now_ms: [])


def a_late_deadline_is_forgotten_with_an_early_one(patch: pytest.MonkeyPatch) -> None:
    original = Deadlines.due

    def due(self: Deadlines, now_ms: int) -> list[str]:
        keys = original(self, now_ms)
        if keys and self._at_ms:
            self._at_ms.pop(next(iter(self._at_ms)))
        return keys

    patch.setattr(Deadlines, "due", due)


def a_crash_loses_what_its_instance_had(patch: pytest.MonkeyPatch) -> None:
    original = Node._on_exited

    def on_exited(self: Node, exited: InstanceExited, now_ms: int, effects: list[Any]) -> None:
        instance = self.pool.instances.get(exited.instance_id)
        if instance is not None:
            while instance.given:
                request_id = instance.given.pop()
                self.held.pop(request_id, None)
                self._deadlines.discard(request_id)
        original(self, exited, now_ms, effects)

    change_handler(patch, Node, InstanceExited, on_exited)


def results_reach_the_wrong_caller(patch: pytest.MonkeyPatch) -> None:
    original = Gateway._on_result

    def on_result(self: Gateway, result: Result, now_ms: int, effects: list[Any]) -> None:
        if len(self.waiting) > 1 and result.request_id in self.waiting:
            result = replace(result, request_id=next(iter(self.waiting)))
        original(self, result, now_ms, effects)

    change_handler(patch, Gateway, Result, on_result)


def returned_events_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    def on_returned(self: Node, returned: Returned, now_ms: int, effects: list[Any]) -> None:
        instance = self.pool.instances.get(returned.instance_id)
        if instance is not None and returned.request_id in instance.given:
            instance.given.remove(returned.request_id)

    change_handler(patch, Node, Returned, on_returned)


def freed_calls_still_count_as_running(patch: pytest.MonkeyPatch) -> None:
    original = Scheduler._on_freed

    def on_freed(self: Scheduler, freed: Freed, now_ms: int, effects: list[Any]) -> None:
        self.queues.of(f"{freed.namespace}/{freed.function}").running += 1
        original(self, freed, now_ms, effects)

    change_handler(patch, Scheduler, Freed, on_freed)


def a_full_queue_answers_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Scheduler, "_refuse", lambda self, queue, invoke, effects: None)


def resumed_attempts_are_not_opened_again(patch: pytest.MonkeyPatch) -> None:
    change_handler(patch, Scheduler, Resume, lambda self, resume, now_ms, effects: None)


def resumed_attempts_do_not_count_as_running(patch: pytest.MonkeyPatch) -> None:
    original = Scheduler._on_resume

    def on_resume(self: Scheduler, resume: Resume, now_ms: int, effects: list[Any]) -> None:
        known = self.knows(resume.invoke.request_id)
        original(self, resume, now_ms, effects)
        if not known:
            self.queues.of(f"{resume.invoke.namespace}/{resume.invoke.function}").running -= 1

    change_handler(patch, Scheduler, Resume, on_resume)


def gateways_that_come_are_not_noticed(patch: pytest.MonkeyPatch) -> None:
    change_handler(patch, Scheduler, Peers, lambda self, peers, now_ms, effects: None)


def lost_nodes_stay_in_the_order(patch: pytest.MonkeyPatch) -> None:
    change_handler(patch, Scheduler, Gone, lambda self, gone, now_ms, effects: None)


@pytest.mark.parametrize(
    "mutation",
    [
        fencing_is_off,
        leases_are_never_closed,
        a_retry_keeps_its_attempt_number,
        a_cancel_drops_the_neighbour_too,
        credit_is_not_returned,
        outcomes_are_recorded_twice,
        retries_are_not_bounded,
        expired_leases_are_not_told,
        a_late_deadline_is_forgotten_with_an_early_one,
        a_crash_loses_what_its_instance_had,
        results_reach_the_wrong_caller,
        returned_events_are_forgotten,
        freed_calls_still_count_as_running,
        a_full_queue_answers_nobody,
        resumed_attempts_are_not_opened_again,
        resumed_attempts_do_not_count_as_running,
        gateways_that_come_are_not_noticed,
        lost_nodes_stay_in_the_order,
    ],
)
def test_a_broken_core_is_noticed(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation(monkeypatch)

    failure = first_failure()

    assert failure is not None
    assert f"seed {failure.seed}: {failure.reason}" in str(failure)


def test_a_failure_tells_the_story_of_the_request_it_is_about(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcomes_are_recorded_twice(monkeypatch)

    failure = first_failure()

    assert failure is not None
    assert re.fullmatch(r"Broken: r\d+ is recorded twice", failure.reason)
    request_id = failure.reason.split()[1]
    story = str(failure).splitlines()[1:]
    assert 0 < len(story) <= 40
    assert all(f" {request_id} " in line for line in story)
