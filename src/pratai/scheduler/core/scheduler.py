"""The scheduler's core: queue, place, lease, dispatch. Pure; `service.py` does what it decides.

An invocation here is in exactly one of three places: queued (`Queues`), waiting for its retry time
(`_delayed`), or leased (`Leases`, shared with the collector, which closes what this core opens).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar

from msgspec.structs import replace

from pratai.config import schema
from pratai.core.deadlines import Deadlines
from pratai.core.effects import Count, Disconnect, Effect, RecordLease, Send, Wake
from pratai.core.leases import Lease, Leases
from pratai.core.machine import UnknownMessage
from pratai.model.node import address_of
from pratai.scheduler.core import answers
from pratai.scheduler.core.backlogs import Backlogs
from pratai.scheduler.core.placement import NodeLedger, Placement
from pratai.scheduler.core.provisions import Provisions, Told
from pratai.scheduler.core.queues import FunctionQueue, Queues
from pratai.wire.messages import (
    Backlog,
    Cancel,
    DrainNode,
    Forget,
    Freed,
    Gone,
    Invoke,
    Joined,
    Message,
    NodeUsed,
    Peers,
    Provision,
    Resume,
    Tick,
    Unfit,
    Withdraw,
)

#: Longest wait that a throttled caller is told.
RETRY_AFTER_S_MAX = 60
#: Wait that callers are told while all backlogs together are full.
FULL_RETRY_AFTER_S = 5
#: The backlog must fall below this share of its bound before gateways are told of room.
BACKLOG_LOW = 0.9
#: Wait of what only full nodes can run.
FIT_WAIT_MS = 50
#: Drained nodes that are remembered; a further one takes the place of the oldest.
DRAINED_MAX = 10_000


class Scheduler:
    """Decides which node runs which invocation, and when. Performs no I/O."""

    def __init__(
        self, config: schema.Scheduler, leases: Leases, gateways: Iterable[str] = ()
    ) -> None:
        self._config = config
        self.leases = leases
        self.queues = Queues()
        self.placement = Placement(leases)
        #: Gateways, which are told of backlogs; those given are there until `Peers` says others.
        self.backlogs = Backlogs(gateways)
        self.provisions = Provisions()
        #: Nodes that an operator took out of service, there or not; oldest first.
        self._drained: dict[str, None] = {}
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

    def knows(self, request_id: str) -> bool:
        """Whether an invocation is here: queued, waiting for its time, or leased."""
        return (
            request_id in self.queues
            or request_id in self._delayed
            or self.leases.get(request_id) is not None
        )

    # transitions

    def _on_invoke(self, invoke: Invoke, now_ms: int, effects: list[Effect]) -> None:
        request_id = invoke.request_id
        if self.knows(request_id):
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
        if not invoke.journalled and queue.sync_count >= self._config.queue_max:
            self._refuse(queue, invoke, effects)
            return
        if self._place_at_once(queue, invoke, now_ms, effects):
            return
        self.queues.push(queue, self._hold(invoke))
        self._dispatch(now_ms, effects)
        if invoke.request_id in self.queues:
            if self._expiry.add(invoke.request_id, invoke.deadline_ms):
                effects.append(Wake(invoke.deadline_ms))
            self._tell_backlog(queue, now_ms, effects)

    def _on_unfit(self, unfit: Unfit, now_ms: int, effects: list[Effect]) -> None:
        """A node cannot run this version: others are tried, and it is not asked again."""
        invoke = unfit.invoke
        self.placement.exclude(invoke.version_id, unfit.node_id)
        again = replace(
            invoke, attempt=unfit.attempt, attempts_max=invoke.attempts_max + 1, available_at_ms=0
        )
        self._on_invoke(again, now_ms, effects)

    def _on_resume(self, resume: Resume, now_ms: int, effects: list[Effect]) -> None:
        """Open a lease of the scheduler before this one again, for as long as a node that lives may
        be silent; the collector finds out whether the node has the attempt.
        """
        invoke, node_id = resume.invoke, resume.node_id
        request_id = invoke.request_id
        if self.knows(request_id):
            effects.append(Count("invokes_repeated"))
            return
        queue = self.queues.of(f"{invoke.namespace}/{invoke.function}")
        queue.concurrency_max = invoke.concurrency_max
        queue.running += 1
        lease = Lease(
            invoke=invoke,
            attempt=resume.attempt,
            node_id=node_id,
            expires_at_ms=now_ms + self._config.node_silence_max_ms,
            placed_at_ms=now_ms,
            resumed=True,
        )
        if self.leases.open(lease):
            effects.append(Wake(lease.expires_at_ms))
        node = self.placement.nodes.get(node_id)
        if node is not None:
            node.settle()
        effects.append(Send("collector", resume))

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
        node = self.placement.nodes.get(lease.node_id) if lease is not None else None
        if lease is not None and node is not None and not lease.invoke.journalled:
            withdraw = Withdraw(request_id=cancel.request_id, attempt=lease.attempt)
            effects.append(Send(node.address, withdraw))
        self._dispatch(now_ms, effects)

    def _on_freed(self, freed: Freed, now_ms: int, effects: list[Effect]) -> None:
        node = self.placement.nodes.get(freed.node_id)
        if node is not None:
            node.settle()
        queue = self.queues.of(f"{freed.namespace}/{freed.function}")
        queue.running -= 1
        if freed.run_us:
            queue.run_us = (
                freed.run_us if not queue.run_us else ((7 * queue.run_us + freed.run_us) // 8)
            )
        self.queues.offer(queue)
        self._dispatch(now_ms, effects)
        self._tell_backlog(queue, now_ms, effects)
        self.queues.drop_if_unused(queue)

    def _on_joined(self, joined: Joined, now_ms: int, effects: list[Effect]) -> None:
        node_id = joined.node_id
        known = self.placement.nodes.get(node_id)
        before = known.address if known is not None else ""
        node = self.placement.join(node_id, joined.endpoint, joined.capacity)
        if before and before != node.address:
            effects.append(Disconnect(before))
        node.drain(drain=node_id in self._drained)
        if not node.draining:
            self._provision(self.provisions.join(node_id, self._eligible()), effects)
        self._dispatch(now_ms, effects)

    def _on_drain_node(self, move: DrainNode, now_ms: int, effects: list[Effect]) -> None:
        node_id = move.node_id
        self._drained.pop(node_id, None)
        if move.drain:
            self._drained[node_id] = None
            if len(self._drained) > DRAINED_MAX:
                del self._drained[next(iter(self._drained))]
        effects.append(Send("collector", move))  # which has it written down
        if self.placement.drain(node_id, drain=move.drain):
            change = self.provisions.leave if move.drain else self.provisions.join
            self._provision(change(node_id, self._eligible()), effects)
            self._dispatch(now_ms, effects)

    def _on_gone(self, gone: Gone, now_ms: int, effects: list[Effect]) -> None:
        node = self.placement.leave(gone.node_id)
        effects.extend(
            Send("collector", answers.ended_by_platform(lease, now_ms, answers.NODE_LOST))
            for lease in self.leases.of_node(gone.node_id)
        )
        if node is not None:
            effects.append(Disconnect(node.address))
            self._provision(self.provisions.leave(gone.node_id, self._eligible()), effects)
        self._dispatch(now_ms, effects)

    def _on_peers(self, peers: Peers, now_ms: int, effects: list[Effect]) -> None:  # noqa: ARG002
        gateways = [
            address_of("gateway", peer.process_id, peer.endpoint) for peer in peers.gateways
        ]
        self.backlogs.meet(gateways, effects)

    def _on_node_used(self, used: NodeUsed, now_ms: int, effects: list[Effect]) -> None:  # noqa: ARG002
        node = self.placement.nodes.get(used.node_id)
        if node is not None:
            node.memory_used_mb = used.memory_used_mb

    def _on_provision(self, wish: Provision, now_ms: int, effects: list[Effect]) -> None:  # noqa: ARG002
        told = self.provisions.want(wish.version_id, wish.count, self._eligible())
        self._provision(told, effects)

    def _on_forget(self, forget: Forget, now_ms: int, effects: list[Effect]) -> None:  # noqa: ARG002
        self.provisions.forget(forget.version_id)
        self.placement.forget(forget.version_id)
        effects.extend(Send(node.address, forget) for node in self.placement.nodes.values())

    def _on_tick(self, tick: Tick, now_ms: int, effects: list[Effect]) -> None:  # noqa: ARG002
        for request_id in self._delays.due(now_ms):
            self._queue(self._unhold(self._delayed.pop(request_id)), now_ms, effects)
        for request_id in self._expiry.due(now_ms):
            invoke = self.queues.remove(request_id)
            if invoke is not None:
                self._expire(invoke, effects)
                queue = self.queues.of(f"{invoke.namespace}/{invoke.function}")
                self._tell_backlog(queue, now_ms, effects)
                self.queues.drop_if_unused(queue)
        effects.extend(
            Send("collector", answers.ended_by_platform(lease, now_ms, answers.LEASE_EXPIRED))
            for lease in self.leases.expired(now_ms)
        )
        self.backlogs.repeat(now_ms, effects)
        nexts = (
            self._delays.next_ms(),
            self._expiry.next_ms(),
            self.leases.next_expiry_ms(),
            self.backlogs.next_ms(),
        )
        effects.extend(Wake(due_ms) for due_ms in nexts if due_ms is not None)

    # decisions

    def _place_at_once(
        self, queue: FunctionQueue, invoke: Invoke, now_ms: int, effects: list[Effect]
    ) -> bool:
        """The usual case, without a turn in the ring: nothing waits anywhere and there is room."""
        if len(self.queues) or not queue.has_room or (self.draining and not invoke.reply_to):
            return False
        node = self.placement.choose(invoke.version_id, invoke.memory_mb)
        if node is None:
            return False
        queue.running += 1
        self._lease(invoke, node, now_ms, effects)
        return True

    def _dispatch(self, now_ms: int, effects: list[Effect]) -> None:
        """Place what may run while there is credit."""
        while len(self.queues) and self.placement.has_credit():
            popped = self.queues.pop(sync_only=self.draining)
            if popped is None:
                return
            queue, invoke = popped
            node = self.placement.choose(invoke.version_id, invoke.memory_mb)
            self._expiry.discard(invoke.request_id)
            if node is None:  # nodes with credit cannot run it, and those that can are full
                self._wait_for_fit(queue, invoke, now_ms, effects)
                continue
            self._lease(self._unhold(invoke), node, now_ms, effects)

    def _wait_for_fit(
        self, queue: FunctionQueue, invoke: Invoke, now_ms: int, effects: list[Effect]
    ) -> None:
        queue.running -= 1
        self._delayed[invoke.request_id] = invoke
        at_ms = now_ms + FIT_WAIT_MS
        if self._delays.add(invoke.request_id, at_ms):
            effects.append(Wake(at_ms))

    def _lease(self, invoke: Invoke, node: NodeLedger, now_ms: int, effects: list[Effect]) -> None:
        attempt, node_id = invoke.attempt + 1, node.node_id
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
        if node.credit == 0:
            node.settle()
        if invoke.journalled:
            effects.append(
                RecordLease(invoke.request_id, invoke.namespace, attempt, node_id, now_ms)
            )
        movable = self.placement.is_movable(invoke.version_id, node_id)
        dispatch = answers.dispatch_of(invoke, attempt, deadline_ms, now_ms, movable=movable)
        effects.append(Send(node.address, dispatch))

    def _refuse(self, queue: FunctionQueue, invoke: Invoke, effects: list[Effect]) -> None:
        effects.append(Count("invokes_throttled"))
        wait_s = self._retry_after_s(queue, queue.sync_count)
        result = answers.throttled(invoke, self._config.queue_max, wait_s)
        effects.append(Send(invoke.reply_to, result))

    def _expire(self, invoke: Invoke, effects: list[Effect]) -> None:
        """What waited too long: a sync call is answered, an event is discarded by record."""
        self._release(invoke)
        effects.append(Count("invokes_expired"))
        if invoke.reply_to:
            effects.append(Send(invoke.reply_to, answers.late_in_queue(invoke)))
        if invoke.journalled:
            effects.append(Send("collector", answers.too_old(invoke)))

    def _tell_backlog(self, queue: FunctionQueue, now_ms: int, effects: list[Effect]) -> None:
        """Tell gateways when this function's backlog, or all of them together, fill or empty."""
        self._tell_total(now_ms, effects)
        count = queue.async_count
        bound = self._config.backlog_max
        full = count >= bound if not queue.full_said else count >= bound * BACKLOG_LOW
        if full == queue.full_said:
            return
        queue.full_said = full
        namespace, function = queue.key.split("/", 1)
        wait_s = self._retry_after_s(queue, count - int(bound * BACKLOG_LOW))
        backlog = Backlog(namespace=namespace, function=function, full=full, retry_after_s=wait_s)
        self.backlogs.say(backlog, now_ms, effects)

    def _tell_total(self, now_ms: int, effects: list[Effect]) -> None:
        count, bound = len(self.queues), self._config.backlog_total_max
        full = count >= bound if not self.full_said else count >= bound * BACKLOG_LOW
        if full == self.full_said:
            return
        self.full_said = full
        backlog = Backlog(namespace="", function="", full=full, retry_after_s=FULL_RETRY_AFTER_S)
        self.backlogs.say(backlog, now_ms, effects)

    def _eligible(self) -> list[str]:
        """Nodes on which versions may be kept ready."""
        return [node.node_id for node in self.placement.nodes.values() if not node.draining]

    def _provision(self, told: Told, effects: list[Effect]) -> None:
        for node_id, provision in told:
            node = self.placement.nodes.get(node_id)
            if node is not None:
                self.placement.remember(provision.version_id, node)
                effects.append(Send(node.address, provision))

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
        self.backlogs.check()
        self.provisions.check()
        assert set(self._delayed) == {key for key in self._delayed if key in self._delays}
        for request_id in self._delayed:
            assert request_id not in self.queues
            assert self.leases.get(request_id) is None
        assert self.payload_bytes >= 0

    _TRANSITIONS: ClassVar[dict[type[Message], Callable[..., None]]] = {
        Invoke: _on_invoke,
        Cancel: _on_cancel,
        Freed: _on_freed,
        Joined: _on_joined,
        DrainNode: _on_drain_node,
        Gone: _on_gone,
        Resume: _on_resume,
        Unfit: _on_unfit,
        Peers: _on_peers,
        NodeUsed: _on_node_used,
        Provision: _on_provision,
        Forget: _on_forget,
        Tick: _on_tick,
    }
