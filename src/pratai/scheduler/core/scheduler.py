"""The scheduler's core: queue, place, lease, dispatch. Pure; `service.py` does what it decides.

An invocation here is in exactly one of three places: queued (`Queues`), waiting for its retry time
(`_delayed`), or leased (`Leases`, shared with the collector, which closes what this core opens).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from msgspec.structs import replace

from pratai.config import schema
from pratai.core.deadlines import Deadlines
from pratai.core.effects import Count, Effect, RecordLease, Send, Wake
from pratai.core.leases import Lease, Leases
from pratai.core.machine import UnknownMessage
from pratai.model.invocation import Failure
from pratai.scheduler.core.placement import Placement
from pratai.scheduler.core.queues import FunctionQueue, Queues
from pratai.wire.messages import (
    Backlog,
    Cancel,
    Dispatch,
    DrainNode,
    Freed,
    Gone,
    Invoke,
    Joined,
    Message,
    Outcome,
    Result,
    Tick,
    Withdraw,
)

#: Longest wait that a throttled caller is told.
RETRY_AFTER_S_MAX = 60
#: Wait that callers are told while all backlogs together are full.
FULL_RETRY_AFTER_S = 5
#: The backlog must fall below this share of its bound before gateways are told of room.
BACKLOG_LOW = 0.9


class Scheduler:
    """Decides which node runs which invocation, and when. Performs no I/O."""

    def __init__(self, config: schema.Scheduler, leases: Leases, gateways: list[str]) -> None:
        self._config = config
        self.leases = leases
        self.queues = Queues()
        self.placement = Placement()
        #: Gateways that are told of backlogs.
        self._gateways = gateways
        #: {request_id: Invoke} whose retry time has not come. Disjoint from queues and leases.
        self._delayed: dict[str, Invoke] = {}
        self._delays = Deadlines()
        #: When what waits in a queue gives up.
        self._expiry = Deadlines()
        #: Bytes of async events held in memory; at most `payload_bytes_max` plus one event.
        self.payload_bytes = 0
        #: Whether gateways were told that all backlogs together are full.
        self.full_said = False
        self.draining = False

    def handle(self, message: Message, now_ms: int) -> list[Effect]:
        """Take one message; say what is to be done."""
        transition = self._TRANSITIONS.get(type(message))
        if transition is None:
            raise UnknownMessage(self, message)
        effects: list[Effect] = []
        transition(self, message, now_ms, effects)
        return effects

    def drain(self) -> None:
        """Start no async event any more: the journal keeps them for the next start."""
        self.draining = True

    # transitions

    def _on_invoke(self, invoke: Invoke, now_ms: int, effects: list[Effect]) -> None:
        request_id = invoke.request_id
        if (
            request_id in self.queues
            or request_id in self._delayed
            or self.leases.get(request_id) is not None
        ):
            effects.append(Count("invokes_repeated"))
            return
        if invoke.available_at_ms > now_ms:
            self._delayed[request_id] = self._hold(invoke)
            if self._delays.add(request_id, invoke.available_at_ms):
                effects.append(Wake(invoke.available_at_ms))
            return
        self._queue(invoke, now_ms, effects)

    def _queue(self, invoke: Invoke, now_ms: int, effects: list[Effect]) -> None:
        queue = self.queues.of(f"{invoke.namespace}/{invoke.function}")
        queue.concurrency_max = invoke.concurrency_max
        if not invoke.journalled and self.queues.sync_count(queue.key) >= self._config.queue_max:
            self._refuse(queue, invoke, effects)
            return
        if self._place_at_once(queue, invoke, now_ms, effects):
            return
        self.queues.push(queue, self._hold(invoke))
        self._dispatch(now_ms, effects)
        if invoke.request_id in self.queues:
            if self._expiry.add(invoke.request_id, invoke.deadline_ms):
                effects.append(Wake(invoke.deadline_ms))
            self._tell_backlog(queue, effects)

    def _on_cancel(self, cancel: Cancel, now_ms: int, effects: list[Effect]) -> None:
        invoke = self.queues.get(cancel.request_id)
        if invoke is not None and invoke.journalled:
            return  # its caller has gone, yet it was accepted: it runs, or expires by record
        if invoke is not None:
            self.queues.remove(cancel.request_id)
            self._expiry.discard(cancel.request_id)
            self._release(invoke)
            effects.append(Count("invokes_cancelled"))
            return
        lease = self.leases.get(cancel.request_id)
        if lease is not None and not lease.invoke.journalled:
            withdraw = Withdraw(request_id=cancel.request_id, attempt=lease.attempt)
            effects.append(Send(f"node:{lease.node_id}", withdraw))
        self._dispatch(now_ms, effects)

    def _on_freed(self, freed: Freed, now_ms: int, effects: list[Effect]) -> None:
        node = self.placement.nodes.get(freed.node_id)
        if node is not None:
            node.grant(freed.request_id)
        queue = self.queues.of(f"{freed.namespace}/{freed.function}")
        queue.running -= 1
        if freed.run_us:
            queue.run_us = (
                freed.run_us if not queue.run_us else ((7 * queue.run_us + freed.run_us) // 8)
            )
        self.queues.offer(queue)
        self._dispatch(now_ms, effects)
        self._tell_backlog(queue, effects)
        self.queues.drop_if_unused(queue)

    def _on_joined(self, joined: Joined, now_ms: int, effects: list[Effect]) -> None:
        node = self.placement.join(joined.node_id, joined.endpoint, joined.capacity)
        leases = self.leases.of_node(joined.node_id)
        node.request_ids.update(lease.invoke.request_id for lease in leases)
        self._dispatch(now_ms, effects)

    def _on_drain_node(self, move: DrainNode, now_ms: int, effects: list[Effect]) -> None:
        node = self.placement.nodes.get(move.node_id)
        if node is not None:
            node.draining = move.drain
            self._dispatch(now_ms, effects)

    def _on_gone(self, gone: Gone, now_ms: int, effects: list[Effect]) -> None:
        self.placement.leave(gone.node_id)
        effects.extend(
            Send("collector", _ended_by_platform(lease, now_ms, _NODE_LOST))
            for lease in self.leases.of_node(gone.node_id)
        )
        self._dispatch(now_ms, effects)

    def _on_tick(self, tick: Tick, now_ms: int, effects: list[Effect]) -> None:  # noqa: ARG002
        for request_id in self._delays.due(now_ms):
            self._queue(self._unhold(self._delayed.pop(request_id)), now_ms, effects)
        for request_id in self._expiry.due(now_ms):
            invoke = self.queues.remove(request_id)
            if invoke is not None:
                self._expire(invoke, effects)
                queue = self.queues.of(f"{invoke.namespace}/{invoke.function}")
                self._tell_backlog(queue, effects)
                self.queues.drop_if_unused(queue)
        effects.extend(
            Send("collector", _ended_by_platform(lease, now_ms, _LEASE_EXPIRED))
            for lease in self.leases.expired(now_ms)
        )
        nexts = (self._delays.next_ms(), self._expiry.next_ms(), self.leases.next_expiry_ms())
        effects.extend(Wake(due_ms) for due_ms in nexts if due_ms is not None)

    # decisions

    def _place_at_once(
        self, queue: FunctionQueue, invoke: Invoke, now_ms: int, effects: list[Effect]
    ) -> bool:
        """The usual case, without a turn in the ring: nothing waits anywhere and there is room."""
        if len(self.queues) or not queue.has_room or (self.draining and not invoke.reply_to):
            return False
        node = self.placement.choose(invoke.version_id)
        if node is None:
            return False
        queue.running += 1
        node.spend(invoke.version_id, invoke.request_id)
        self._lease(invoke, node.node_id, now_ms, effects)
        return True

    def _dispatch(self, now_ms: int, effects: list[Effect]) -> None:
        """Place what may run while there is credit."""
        while len(self.queues) and self.placement.has_credit():
            popped = self.queues.pop(sync_only=self.draining)
            if popped is None:
                return
            _, invoke = popped
            node = self.placement.choose(invoke.version_id)
            assert node is not None, "there was credit"
            self._expiry.discard(invoke.request_id)
            node.spend(invoke.version_id, invoke.request_id)
            self._lease(self._unhold(invoke), node.node_id, now_ms, effects)

    def _lease(self, invoke: Invoke, node_id: str, now_ms: int, effects: list[Effect]) -> None:
        attempt = invoke.attempt + 1
        deadline_ms = invoke.deadline_ms
        if invoke.journalled and not invoke.reply_to:
            deadline_ms = now_ms + invoke.timeout_ms
        lease = Lease(
            invoke=invoke,
            attempt=attempt,
            node_id=node_id,
            expires_at_ms=deadline_ms + self._config.lease_grace_ms,
            placed_at_ms=now_ms,
        )
        if self.leases.open(lease):
            effects.append(Wake(lease.expires_at_ms))
        if invoke.journalled:
            effects.append(
                RecordLease(invoke.request_id, invoke.namespace, attempt, node_id, now_ms)
            )
        effects.append(
            Send(
                f"node:{node_id}",
                Dispatch(
                    request_id=invoke.request_id,
                    attempt=attempt,
                    namespace=invoke.namespace,
                    function=invoke.function,
                    version_id=invoke.version_id,
                    reply_to=invoke.reply_to,
                    deadline_ms=deadline_ms,
                    timeout_ms=invoke.timeout_ms,
                    payload=invoke.payload,
                    content_type=invoke.content_type,
                    journalled=invoke.journalled,
                    memory_mb=invoke.memory_mb,
                    trace=invoke.trace,
                    idempotency_key=invoke.idempotency_key,
                    trigger=invoke.trigger,
                    dispatched_at_ms=now_ms,
                ),
            )
        )

    def _refuse(self, queue: FunctionQueue, invoke: Invoke, effects: list[Effect]) -> None:
        effects.append(Count("invokes_throttled"))
        wait_s = self._retry_after_s(queue, self.queues.sync_count(queue.key))
        failure = Failure(
            code="throttled",
            fault="caller",
            error_message=(
                f"{self._config.queue_max} calls of {invoke.function} are waiting already"
            ),
            next=f"Ask again in {wait_s} s, or raise its concurrency_max or the node's slots.",
        )
        effects.append(
            Send(
                invoke.reply_to,
                Result(
                    request_id=invoke.request_id,
                    outcome="throttled",
                    failure=failure,
                    retry_after_s=wait_s,
                ),
            )
        )

    def _expire(self, invoke: Invoke, effects: list[Effect]) -> None:
        """What waited too long: a sync call is answered, an event is discarded by record."""
        self._release(invoke)
        effects.append(Count("invokes_expired"))
        if invoke.reply_to:
            failure = Failure(
                code="timed_out",
                stage="queue",
                fault="platform",
                error_message=f"it waited {invoke.timeout_ms} ms and no instance became free",
                next="Raise its concurrency_max or the node's slots, or call it less often.",
            )
            result = Result(request_id=invoke.request_id, outcome="timed_out", failure=failure)
            effects.append(Send(invoke.reply_to, result))
        if invoke.journalled:
            outcome = Outcome(
                request_id=invoke.request_id,
                attempt=invoke.attempt,
                node_id="",
                namespace=invoke.namespace,
                function=invoke.function,
                version_id=invoke.version_id,
                outcome="timed_out" if invoke.reply_to else "discarded",
                failure=Failure(
                    code="event_too_old",
                    fault="platform",
                    error_message="the event was older than its limit before it could run",
                    next="Replay it, or raise the function's event_age_max_ms.",
                ),
            )
            effects.append(Send("collector", outcome))

    def _tell_backlog(self, queue: FunctionQueue, effects: list[Effect]) -> None:
        """Tell gateways when this function's backlog, or all of them together, fill or empty."""
        self._tell_total(effects)
        count = self.queues.async_count(queue.key)
        bound = self._config.backlog_max
        full = count >= bound if not queue.full_said else count >= bound * BACKLOG_LOW
        if full == queue.full_said:
            return
        queue.full_said = full
        namespace, function = queue.key.split("/", 1)
        backlog = Backlog(
            namespace=namespace,
            function=function,
            full=full,
            retry_after_s=self._retry_after_s(queue, count - int(bound * BACKLOG_LOW)),
        )
        effects.extend(Send(gateway, backlog) for gateway in self._gateways)

    def _tell_total(self, effects: list[Effect]) -> None:
        count, bound = len(self.queues), self._config.backlog_total_max
        full = count >= bound if not self.full_said else count >= bound * BACKLOG_LOW
        if full == self.full_said:
            return
        self.full_said = full
        backlog = Backlog(namespace="", function="", full=full, retry_after_s=FULL_RETRY_AFTER_S)
        effects.extend(Send(gateway, backlog) for gateway in self._gateways)

    def _retry_after_s(self, queue: FunctionQueue, count: int) -> int:
        """When `count` calls will have run at the pace seen, in whole seconds, at least 1."""
        seconds = count * queue.run_us / max(1, queue.running) / 1e6
        return max(1, min(RETRY_AFTER_S_MAX, round(seconds)))

    def _hold(self, invoke: Invoke) -> Invoke:
        """Count an async event's bytes; beyond the bound leave them in the journal."""
        if not invoke.journalled or not invoke.payload:
            return invoke
        if self.payload_bytes + len(invoke.payload) > self._config.payload_bytes_max:
            return replace(invoke, payload=None)
        self.payload_bytes += len(invoke.payload)
        return invoke

    def _unhold(self, invoke: Invoke) -> Invoke:
        self._release(invoke)
        return invoke

    def _release(self, invoke: Invoke) -> None:
        if invoke.journalled and invoke.payload:
            self.payload_bytes -= len(invoke.payload)

    def check(self) -> None:
        """All invariants."""
        self.queues.check()
        self.placement.check()
        self.leases.check()
        self._delays.check()
        assert set(self._delayed) == {key for key in self._delayed if key in self._delays}
        for request_id in self._delayed:
            assert request_id not in self.queues
            assert self.leases.get(request_id) is None
        assert self.payload_bytes >= 0
        for node in self.placement.nodes.values():
            leases = self.leases.of_node(node.node_id)
            assert node.request_ids >= {lease.invoke.request_id for lease in leases}

    _TRANSITIONS: ClassVar[dict[type[Message], Callable[..., None]]] = {
        Invoke: _on_invoke,
        Cancel: _on_cancel,
        Freed: _on_freed,
        Joined: _on_joined,
        DrainNode: _on_drain_node,
        Gone: _on_gone,
        Tick: _on_tick,
    }


_LEASE_EXPIRED = Failure(
    code="lease_expired",
    fault="platform",
    error_message="its node did not say how the attempt ended",
    next="Nothing: another attempt is made. If it repeats, look at that node's log.",
)
_NODE_LOST = Failure(
    code="node_lost",
    fault="platform",
    error_message="its node went while the attempt was on its way there",
    next="Call again; if it repeats, look at that node's log.",
)


def _ended_by_platform(lease: Lease, now_ms: int, failure: Failure) -> Outcome:
    """The outcome that stands in for one that never came."""
    return Outcome(
        request_id=lease.invoke.request_id,
        attempt=lease.attempt,
        node_id=lease.node_id,
        outcome="crashed",
        finished_at_ms=now_ms,
        failure=failure,
    )
