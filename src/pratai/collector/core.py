"""The collector's core: hear nodes, close leases, retry, record or give up. Pure.

An outcome counts only if its attempt holds the lease (fencing); so each journalled invocation is
recorded exactly once here, however often messages are repeated. Faults of the platform (a lost
node, an expired lease) do not use up the attempts that the function's own failures have.

A node says which attempts it has. A lease of an attempt that it should have and has not is ended
at once instead of when it expires; an attempt whose lease went to a newer one is withdrawn. Calls
without a lease are left alone: after a restart of the scheduler their callers still wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from msgspec.structs import replace

from pratai.collector.membership import Member, Membership, Said
from pratai.config import schema
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
from pratai.model.node import NodeRecord, ProcessRecord
from pratai.wire.messages import (
    Announce,
    DrainNode,
    Freed,
    Gone,
    Heartbeat,
    Invoke,
    Join,
    Leave,
    Logs,
    Message,
    NodeUsed,
    Outcome,
    Result,
    Resume,
    Tick,
    Unfit,
    Unreachable,
    Withdraw,
)

#: Longest wait between two attempts.
BACKOFF_MS_MAX = 3_600_000
#: Wait after the second attempt that the platform lost; doubles. The first repeats at once.
RECOVERY_BACKOFF_MS = 100
#: A lease at least this old that a node joins without was of the node's former life.
JOIN_AGE_MS = 1_000
#: Outcomes kept that came before their leases were read from the journal, and their bytes.
EARLY_MAX = 10_000
EARLY_BYTES_MAX = 64 * 1024 * 1024


class Collector:
    """Decides what becomes of an attempt that ended. Performs no I/O."""

    def __init__(
        self, config: schema.Scheduler, leases: Leases, *, scheduler_id: str = "scheduler"
    ) -> None:
        self._config = config
        self._leases = leases
        self.membership = Membership(config, leases, scheduler_id)
        #: Nodes that were heard lately.
        self.members: dict[str, Member] = self.membership.nodes
        #: {request_id: outcome} of attempts whose lease may still be read from the journal.
        self._early: dict[str, Outcome] = {}
        self._early_bytes = 0

    def handle(self, message: Message, now_ms: int) -> list[Effect]:
        """Take one message; say what is to be done."""
        transition = self._TRANSITIONS.get(type(message))
        if transition is None:
            raise UnknownMessage(self, message)
        effects: list[Effect] = []
        transition(self, message, now_ms, effects)
        return effects

    def remember(self, records: list[NodeRecord | ProcessRecord], now_ms: int) -> list[Effect]:
        """Take what the scheduler before this one knew of the cluster."""
        effects: list[Effect] = []
        self.membership.remember(records, now_ms, effects)
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
        if outcome.failure is not None and outcome.failure.code == "unfit":
            effects.append(Count("dispatches_unfit"))
            unfit = Unfit(node_id=lease.node_id, invoke=invoke, attempt=lease.attempt)
            effects.append(Send("scheduler", unfit))
        elif invoke.journalled:
            self._settle(lease, outcome, now_ms, effects)
        elif outcome.failure is not None and outcome.failure.code in _SILENT:
            self._answer_for_node(invoke, outcome, effects)

    def _on_unleased(self, outcome: Outcome, effects: list[Effect]) -> None:
        """An event that gave up in its queue has no lease; anything else is of an old attempt."""
        if outcome.node_id:
            if not self._keep_early(outcome):
                effects.append(Count("outcomes_fenced"))
            return
        namespace, function = outcome.namespace, outcome.function
        dead = outcome.outcome == "discarded"
        effects.append(Deliver(outcome, namespace, function, outcome.version_id))
        effects.append(RecordOutcome(outcome, namespace, dead, function=function))

    def _on_said(self, said: Said, now_ms: int, effects: list[Effect]) -> None:
        self._drop_early(effects)
        member = self.membership.hear(said, now_ms, effects)
        if member is None:
            return
        age_ms = self._config.node_silence_max_ms
        if isinstance(said, Join):
            age_ms = min(age_ms, JOIN_AGE_MS)
        else:
            used = NodeUsed(node_id=said.node_id, memory_used_mb=said.memory_used_mb)
            effects.append(Send("scheduler", used))
        for lease in self._leases.of_node(member.node_id):
            if (lease.invoke.request_id, lease.attempt) in member.held:
                self._confirm(lease, now_ms)
            elif lease.resumed or lease.placed_at_ms + age_ms <= now_ms:
                self._lose(lease, _dispatch_lost(member.node_id), now_ms, effects)
        for request_id, attempt in said.held:
            current = self._leases.get(request_id)
            if current is not None and current.attempt > attempt and _is_async(current.invoke):
                withdraw = Withdraw(request_id=request_id, attempt=attempt)
                effects.append(Send(member.address, withdraw))

    def _on_resume(self, resume: Resume, now_ms: int, effects: list[Effect]) -> None:
        """The scheduler opened a lease of its former life again: has its node the attempt?"""
        request_id = resume.invoke.request_id
        lease = self._leases.get(request_id)
        if lease is None or not lease.resumed:
            return
        early = self._early.pop(request_id, None)
        if early is not None:
            self._early_bytes -= len(early.payload)
            if (early.attempt, early.node_id) == (lease.attempt, lease.node_id):
                self._on_outcome(early, now_ms, effects)
                return
        member = self.members.get(lease.node_id)
        if member is None:
            return
        if (request_id, lease.attempt) in member.held:
            self._confirm(lease, now_ms)
        else:
            self._lose(lease, _dispatch_lost(member.node_id), now_ms, effects)

    def _on_drain_node(self, move: DrainNode, now_ms: int, effects: list[Effect]) -> None:
        self.membership.drain(move, now_ms, effects)

    def _on_announce(self, announce: Announce, now_ms: int, effects: list[Effect]) -> None:
        self.membership.announce(announce, now_ms, effects)

    def _on_leave(self, leave: Leave, now_ms: int, effects: list[Effect]) -> None:
        if leave.node_id in self.members:
            self.membership.drop(leave.node_id, "left", now_ms, effects)
            self._abandon(leave.node_id, "left", now_ms, effects)

    def _on_unreachable(self, gone: Unreachable, now_ms: int, effects: list[Effect]) -> None:
        """Sooner than its silence would tell. Should it live, its next heartbeat brings it back."""
        if gone.node_id in self.members:
            effects.append(Count("nodes_lost"))
            self.membership.drop(gone.node_id, "lost", now_ms, effects)
            self._abandon(gone.node_id, "was lost", now_ms, effects)

    def _on_logs(self, logs: Logs, now_ms: int, effects: list[Effect]) -> None:  # noqa: ARG002
        effects.append(RecordLogs(logs.records))

    def _on_tick(self, tick: Tick, now_ms: int, effects: list[Effect]) -> None:  # noqa: ARG002
        self._drop_early(effects)
        for node_id in self.membership.silent(now_ms, effects):
            effects.append(Count("nodes_lost"))
            self.membership.drop(node_id, "lost", now_ms, effects)
            self._abandon(node_id, "was lost", now_ms, effects)
        due_ms = self.membership.next_ms()
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
        effects.append(Deliver(outcome, invoke.namespace, invoke.function, invoke.version_id))
        effects.append(RecordOutcome(outcome, invoke.namespace, dead, queue_us, invoke.function))

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
            failure = Failure(
                code="node_lost",
                fault="platform",
                error_message=f"node {node_id} {why} while it ran this",
                next="Call again; if it repeats, look at that node's log.",
            )
            self._lose(lease, failure, now_ms, effects)

    def _lose(self, lease: Lease, failure: Failure, now_ms: int, effects: list[Effect]) -> None:
        """End an attempt of which nothing more is to be expected."""
        outcome = Outcome(
            request_id=lease.invoke.request_id,
            attempt=lease.attempt,
            node_id=lease.node_id,
            outcome="crashed",
            finished_at_ms=now_ms,
            failure=failure,
        )
        self._on_outcome(outcome, now_ms, effects)

    def _confirm(self, lease: Lease, now_ms: int) -> None:
        """A node has an attempt whose lease was opened again: it may take the time it has."""
        if lease.resumed and not lease.confirmed:
            expires_at_ms = now_ms + lease.invoke.timeout_ms + self._config.lease_grace_ms
            self._leases.confirm(lease.invoke.request_id, expires_at_ms)

    def _keep_early(self, outcome: Outcome) -> bool:
        """Keep an outcome whose lease may not have been read from the journal yet."""
        size = len(outcome.payload)
        if (
            not self._leases.recovering
            or outcome.request_id in self._early
            or self._leases.get(outcome.request_id) is not None
            or len(self._early) >= EARLY_MAX
            or self._early_bytes + size > EARLY_BYTES_MAX
        ):
            return False
        self._early[outcome.request_id] = outcome
        self._early_bytes += size
        return True

    def _drop_early(self, effects: list[Effect]) -> None:
        """The journal was read: what has no lease by now will have none."""
        if self._early and not self._leases.recovering:
            effects.append(Count("outcomes_fenced", len(self._early)))
            self._early.clear()
            self._early_bytes = 0

    def check(self) -> None:
        """All invariants."""
        self._leases.check()
        self.membership.check()
        assert self._early_bytes == sum(len(outcome.payload) for outcome in self._early.values())

    _TRANSITIONS: ClassVar[dict[type[Message], Callable[..., None]]] = {
        Outcome: _on_outcome,
        Join: _on_said,
        Heartbeat: _on_said,
        Resume: _on_resume,
        Announce: _on_announce,
        DrainNode: _on_drain_node,
        Leave: _on_leave,
        Unreachable: _on_unreachable,
        Logs: _on_logs,
        Tick: _on_tick,
    }


#: Failures said on behalf of a node that did not say them to the caller itself.
_SILENT = frozenset({"lease_expired", "node_lost", "dispatch_lost"})


def _is_async(invoke: Invoke) -> bool:
    """Whether nobody can be waiting for this, however often it was recovered: a call that is in the
    journal for its idempotency key lives no longer than its timeout.
    """
    age_max_ms = invoke.deadline_ms - invoke.accepted_at_ms
    return invoke.journalled and not invoke.reply_to and age_max_ms > invoke.timeout_ms


def _dispatch_lost(node_id: str) -> Failure:
    return Failure(
        code="dispatch_lost",
        fault="platform",
        error_message=f"node {node_id} does not have this attempt (any more) and said no outcome",
        next="Call again; if it repeats, look at that node's log and at the network to it.",
    )
