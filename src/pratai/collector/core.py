"""The collector's core: admit nodes, close leases, retry, record or give up. Pure.

An outcome counts only if its attempt holds the lease (fencing); so each journalled invocation is
recorded exactly once here, however often messages are repeated. Faults of the platform (a lost
node, an expired lease) do not use up the attempts that the function's own failures have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import msgspec
from msgspec.structs import replace

from pratai.config import schema
from pratai.core.deadlines import Deadlines
from pratai.core.effects import (
    Count,
    Deliver,
    Effect,
    RecordLogs,
    RecordOutcome,
    RecordRetry,
    Send,
    Wake,
)
from pratai.core.leases import Lease, Leases
from pratai.core.machine import UnknownMessage
from pratai.model.invocation import Failure
from pratai.model.node import Capacity
from pratai.wire.messages import (
    Freed,
    Gone,
    Heartbeat,
    Invoke,
    Join,
    Joined,
    Leave,
    Logs,
    Message,
    Outcome,
    Result,
    Tick,
)

#: Longest wait between two attempts.
BACKOFF_MS_MAX = 3_600_000
#: Wait after the second attempt that the platform lost; doubles. The first repeats at once.
RECOVERY_BACKOFF_MS = 100


class Member(msgspec.Struct):
    """What the collector knows of a node."""

    node_id: str
    endpoint: str
    capacity: Capacity
    joined_at_ms: int
    heard_at_ms: int
    instances: int = 0
    memory_used_mb: int = 0


class Collector:
    """Decides what becomes of an attempt that ended. Performs no I/O."""

    def __init__(self, config: schema.Scheduler, leases: Leases) -> None:
        self._config = config
        self._leases = leases
        #: Nodes that joined and were heard lately.
        self.members: dict[str, Member] = {}
        self._silence = Deadlines()

    def handle(self, message: Message, now_ms: int) -> list[Effect]:
        """Take one message; say what is to be done."""
        transition = self._TRANSITIONS.get(type(message))
        if transition is None:
            raise UnknownMessage(self, message)
        effects: list[Effect] = []
        transition(self, message, now_ms, effects)
        return effects

    # transitions

    def _on_outcome(self, outcome: Outcome, now_ms: int, effects: list[Effect]) -> None:
        lease = self._leases.get(outcome.request_id)
        if (
            lease is None
            or (lease.attempt, lease.node_id) != (outcome.attempt, outcome.node_id)
            or self._leases.close(outcome.request_id, outcome.attempt) is None
        ):
            self._on_unleased(outcome, effects)
            return
        invoke = lease.invoke
        effects.append(
            Send(
                "scheduler",
                Freed(
                    request_id=outcome.request_id,
                    node_id=lease.node_id,
                    namespace=invoke.namespace,
                    function=invoke.function,
                    run_us=outcome.run_us,
                ),
            )
        )
        if invoke.journalled:
            self._settle(lease, outcome, now_ms, effects)
        elif outcome.failure is not None and outcome.failure.code in _SILENT:
            self._answer_for_node(invoke, outcome, effects)

    def _on_unleased(self, outcome: Outcome, effects: list[Effect]) -> None:
        """An event that gave up in its queue has no lease; anything else is of an old attempt."""
        if outcome.node_id:
            effects.append(Count("outcomes_fenced"))
            return
        namespace, function = outcome.namespace, outcome.function
        dead = outcome.outcome == "discarded"
        effects.append(RecordOutcome(outcome, namespace, dead, function=function))
        effects.append(Deliver(outcome, namespace, function, outcome.version_id))

    def _on_join(self, join: Join, now_ms: int, effects: list[Effect]) -> None:
        self.members[join.node_id] = Member(
            node_id=join.node_id,
            endpoint=join.endpoint,
            capacity=join.capacity,
            joined_at_ms=now_ms,
            heard_at_ms=now_ms,
        )
        self._expect(join.node_id, now_ms, effects)
        joined = Joined(node_id=join.node_id, endpoint=join.endpoint, capacity=join.capacity)
        effects.append(Send("scheduler", joined))

    def _on_heartbeat(self, beat: Heartbeat, now_ms: int, effects: list[Effect]) -> None:
        member = self.members.get(beat.node_id)
        if member is None:
            effects.append(Count("heartbeats_unknown"))
            return
        member.heard_at_ms = now_ms
        member.instances = beat.instances
        member.memory_used_mb = beat.memory_used_mb
        self._expect(beat.node_id, now_ms, effects)

    def _on_leave(self, leave: Leave, now_ms: int, effects: list[Effect]) -> None:
        if self.members.pop(leave.node_id, None) is not None:
            self._silence.discard(leave.node_id)
            self._abandon(leave.node_id, "left", now_ms, effects)

    def _on_logs(self, logs: Logs, now_ms: int, effects: list[Effect]) -> None:  # noqa: ARG002
        effects.append(RecordLogs(logs.records))

    def _on_tick(self, tick: Tick, now_ms: int, effects: list[Effect]) -> None:  # noqa: ARG002
        for node_id in self._silence.due(now_ms):
            if self.members.pop(node_id, None) is not None:
                effects.append(Count("nodes_lost"))
                self._abandon(node_id, "was lost", now_ms, effects)
        due_ms = self._silence.next_ms()
        if due_ms is not None:
            effects.append(Wake(due_ms))

    # decisions

    def _settle(self, lease: Lease, outcome: Outcome, now_ms: int, effects: list[Effect]) -> None:
        invoke = lease.invoke
        if outcome.outcome == "succeeded":
            self._record(lease, outcome, effects, dead=False)
            return
        platform = outcome.failure is not None and outcome.failure.fault == "platform"
        if platform:
            recoveries, attempts_max = invoke.recoveries + 1, invoke.attempts_max + 1
            over = recoveries > self._config.recoveries_max
        else:
            recoveries, attempts_max = invoke.recoveries, invoke.attempts_max
            over = outcome.attempt >= attempts_max
        if over:
            self._record(lease, outcome, effects, dead=not invoke.reply_to)
            return
        if platform:
            wait_ms = 0 if recoveries == 1 else RECOVERY_BACKOFF_MS << min(12, recoveries - 2)
        else:
            failed = max(0, outcome.attempt - 1 - recoveries)
            wait_ms = min(BACKOFF_MS_MAX, invoke.backoff_ms << min(20, failed))
        if now_ms + wait_ms >= invoke.deadline_ms:
            self._record(lease, outcome, effects, dead=not invoke.reply_to)
            return
        effects.append(RecordRetry(outcome, invoke.namespace, now_ms + wait_ms))
        again = replace(
            invoke,
            attempt=outcome.attempt,
            attempts_max=attempts_max,
            recoveries=recoveries,
            available_at_ms=now_ms + wait_ms,
        )
        effects.append(Send("scheduler", again))

    def _record(self, lease: Lease, outcome: Outcome, effects: list[Effect], *, dead: bool) -> None:
        invoke = lease.invoke
        waited_ms = lease.placed_at_ms - max(invoke.accepted_at_ms, invoke.available_at_ms)
        queue_us = max(0, waited_ms) * 1_000
        effects.append(RecordOutcome(outcome, invoke.namespace, dead, queue_us, invoke.function))
        effects.append(Deliver(outcome, invoke.namespace, invoke.function, invoke.version_id))

    def _answer_for_node(self, invoke: Invoke, outcome: Outcome, effects: list[Effect]) -> None:
        """A node that cannot answer its caller any more: the collector does."""
        if invoke.reply_to:
            result = Result(
                request_id=invoke.request_id,
                outcome=outcome.outcome,
                failure=outcome.failure,
                attempt=outcome.attempt,
                retry_after_s=1,
            )
            effects.append(Send(invoke.reply_to, result))

    def _abandon(self, node_id: str, why: str, now_ms: int, effects: list[Effect]) -> None:
        """Run elsewhere what a node had. `Gone` is said first, so that nothing goes back there."""
        effects.append(Send("scheduler", Gone(node_id=node_id)))
        for lease in self._leases.of_node(node_id):
            outcome = Outcome(
                request_id=lease.invoke.request_id,
                attempt=lease.attempt,
                node_id=node_id,
                outcome="crashed",
                finished_at_ms=now_ms,
                failure=Failure(
                    code="node_lost",
                    fault="platform",
                    error_message=f"node {node_id} {why} while it ran this",
                    next="Call again; if it repeats, look at that node's log.",
                ),
            )
            self._on_outcome(outcome, now_ms, effects)

    def _expect(self, node_id: str, now_ms: int, effects: list[Effect]) -> None:
        due_ms = now_ms + self._config.node_silence_max_ms
        if self._silence.add(node_id, due_ms):
            effects.append(Wake(due_ms))

    def check(self) -> None:
        """All invariants."""
        self._leases.check()
        self._silence.check()
        assert all(node_id in self._silence for node_id in self.members)

    _TRANSITIONS: ClassVar[dict[type[Message], Callable[..., None]]] = {
        Outcome: _on_outcome,
        Join: _on_join,
        Heartbeat: _on_heartbeat,
        Leave: _on_leave,
        Logs: _on_logs,
        Tick: _on_tick,
    }


#: Failures said on behalf of a node that did not say them to the caller itself.
_SILENT = frozenset({"lease_expired", "node_lost"})
