"""The node's core: reuse, start, evict, kill, answer. Pure; `service.py` does what it decides.

How many instances: one at once for the first call of a version; further ones when what waits would
wait longer than a start is worth (`start_wait_ms`), judged by the smoothed run time, and at the
latest when something has waited that long. So a function of microseconds is served by few busy
instances, and one that sleeps gets an instance for each call.

Fast functions are given up to `depth` events at once; those behind a long one are recalled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from pratai.config import schema
from pratai.core.deadlines import Deadlines
from pratai.core.effects import (
    Count,
    Drop,
    Effect,
    Prepare,
    Recall,
    Run,
    Send,
    Start,
    Stop,
    Wake,
)
from pratai.core.machine import UnknownMessage
from pratai.model.invocation import Failure, OutcomeKind
from pratai.node.ending import CALLER_GONE, RETURNED, End, chunk_of, refused_here, timed_out
from pratai.node.pool import Held, Instance, Pool, VersionPool
from pratai.node.presence import Presence
from pratai.node.scaling import depth_of, instances_wanted, may_stall, stalled
from pratai.wire.instance import (
    Answered,
    Drain,
    InstanceExited,
    InstanceFailed,
    InstanceReady,
    Measured,
    Prepared,
    Returned,
    Streamed,
)
from pratai.wire.messages import (
    Dispatch,
    Forget,
    Heartbeat,
    Join,
    Message,
    Provision,
    Roster,
    Tick,
    Withdraw,
)

#: Memory that a node leaves to the rest of its machine.
AVAILABLE_BYTES_MIN = 256 << 20
#: Time between looks at an idle instance that is kept warm, at least.
LOOK_MS_MIN = 1_000


class Node:
    """Decides which instance runs which dispatch. Performs no I/O."""

    def __init__(
        self,
        config: schema.Node,
        node_id: str,
        *,
        memory_mb: int,
        presence: Presence | None = None,
    ) -> None:
        self._config, self.node_id = config, node_id
        self.presence = presence or Presence(node_id)
        self._memory_bytes_max = memory_mb << 20
        self.pool = Pool()
        #: {request_id: Held} of every dispatch not yet answered.
        self.held: dict[str, Held] = {}
        #: Deadlines of attempts.
        self._deadlines = Deadlines()
        #: When an idle instance is stopped, by instance id.
        self._idle = Deadlines()
        #: When a version's waiting calls are looked at again, by version id.
        self._looks = Deadlines()
        #: When a version to be kept warm may start instances again, by version id.
        self._warmings = Deadlines()
        #: Grows by one for each instance; ids are never reused within a node's life.
        self._instances_started = 0
        self.draining = False

    def handle(self, message: Message, now_ms: int) -> list[Effect]:
        """Take one message; say what is to be done."""
        transition = self._TRANSITIONS.get(type(message))
        if transition is None:
            raise UnknownMessage(self, message)
        effects: list[Effect] = []
        transition(self, message, now_ms, effects)
        return effects

    def join(self) -> Join:
        """What this node says when it starts."""
        return self.presence.join(self.held)

    def heartbeat(self) -> Heartbeat:
        """What this node says of itself now and then."""
        return self.presence.heartbeat(self.held, self.pool, draining=self.draining)

    # from the scheduler

    def _on_dispatch(self, dispatch: Dispatch, now_ms: int, effects: list[Effect]) -> None:
        current = self.held.get(dispatch.request_id)
        if current is not None:
            effects.append(Count("dispatches_repeated"))
            if dispatch.attempt > current.dispatch.attempt:
                self._take_over(current, dispatch, effects)
            return
        held = Held(dispatch, now_ms)
        self.held[dispatch.request_id] = held
        if self.draining and not dispatch.reply_to:
            self._end(held, now_ms, effects, outcome="discarded", failure=RETURNED)
            return
        if self._deadlines.add(dispatch.request_id, dispatch.deadline_ms):
            effects.append(Wake(dispatch.deadline_ms))
        pool = self.pool.of(dispatch.version_id)
        if pool.idle and not pool.queue:
            self._give(pool.idle.pop(), held, now_ms, effects)
            return
        pool.queue.append(held)
        self._advance(pool, now_ms, effects)

    def _take_over(self, held: Held, dispatch: Dispatch, effects: list[Effect]) -> None:
        """The older attempt's lease was given up while it went on here: it counts as the newer."""
        held.dispatch = dispatch
        if self._deadlines.add(dispatch.request_id, dispatch.deadline_ms):
            effects.append(Wake(dispatch.deadline_ms))

    def _on_withdraw(self, withdraw: Withdraw, now_ms: int, effects: list[Effect]) -> None:
        held = self.held.get(withdraw.request_id)
        if held is None or held.dispatch.attempt != withdraw.attempt:
            return
        self._end(held, now_ms, effects, outcome="discarded", failure=CALLER_GONE)
        self._take_away(held, "its caller hung up during the call", now_ms, effects)

    def _on_provision(self, provision: Provision, now_ms: int, effects: list[Effect]) -> None:
        pool = self.pool.of(provision.version_id)
        pool.keep_warm = provision.count
        if pool.state == "absent":
            pool.state = "preparing"
            effects.append(Prepare(pool.version_id))
        self._advance(pool, now_ms, effects)

    def _on_forget(self, forget: Forget, now_ms: int, effects: list[Effect]) -> None:  # noqa: ARG002
        pool = self.pool.versions.get(forget.version_id)
        if pool is not None:
            pool.keep_warm = 0
            for instance in list(pool.idle):
                self._stop(instance, "its version was deleted or replaced", effects)
            self.pool.drop_if_unused(pool)
        effects.append(Drop(forget.version_id))

    def _on_roster(self, roster: Roster, now_ms: int, effects: list[Effect]) -> None:  # noqa: ARG002
        if roster.refused:
            effects.append(Count("joins_refused"))
        self.presence.roster = roster

    # from the service: versions and instances

    def _on_prepared(self, prepared: Prepared, now_ms: int, effects: list[Effect]) -> None:
        if prepared.version_id not in self.pool.versions:  # deleted meanwhile
            effects.append(Drop(prepared.version_id))
            return
        pool = self.pool.of(prepared.version_id)
        if prepared.failure is None:
            pool.state = "ready"
            pool.keep_warm = max(pool.keep_warm, prepared.keep_warm)
            self._advance(pool, now_ms, effects)
            return
        pool.state = "absent"
        while pool.queue:
            held = pool.queue.popleft()
            why = refused_here(held, prepared.failure)
            self._end(held, now_ms, effects, outcome="crashed", failure=why)
        self.pool.drop_if_unused(pool)

    def _on_ready(self, ready: InstanceReady, now_ms: int, effects: list[Effect]) -> None:
        instance = self.pool.instances.get(ready.instance_id)
        if instance is None or instance.state != "starting":
            return
        pool = self.pool.versions[instance.version_id]
        instance.start_us = pool.start_us = ready.start_us
        if pool.queue:
            self._give(instance, pool.queue.popleft(), now_ms, effects)
            self._advance(pool, now_ms, effects)
        else:
            self._rest(instance, now_ms, effects)

    def _on_failed(self, failed: InstanceFailed, now_ms: int, effects: list[Effect]) -> None:
        """A start that failed fails the call that waited longest: it would only fail again."""
        instance = self.pool.instances.get(failed.instance_id)
        if instance is None or instance.state == "draining":
            return
        pool = self.pool.versions[instance.version_id]
        pool.learn_failed_start(now_ms)
        self.pool.begin_stop(instance, "the last start failed")
        effects.append(Stop(instance.instance_id, "its start failed"))
        self._fail_waiting(pool, failed.failure, now_ms, effects)

    def _on_exited(self, exited: InstanceExited, now_ms: int, effects: list[Effect]) -> None:
        instance = self.pool.instances.get(exited.instance_id)
        if instance is None:
            return
        was_starting = instance.state == "starting"
        reason = instance.stop_reason
        self._idle.discard(instance.instance_id)
        pool = self.pool.remove(instance)
        if not reason:
            pool.last_loss = f"the instance before it ended: {exited.failure.error_message}"
            effects.append(Count("instances_crashed"))
            if not instance.uses:
                pool.learn_failed_start(now_ms)
        self._requeue(instance, exited.failure, now_ms, effects)
        if was_starting:
            self._fail_waiting(pool, exited.failure, now_ms, effects)
        self._advance(pool, now_ms, effects)
        self.pool.drop_if_unused(pool)

    def _on_answered(self, answered: Answered, now_ms: int, effects: list[Effect]) -> None:
        instance = self.pool.instances.get(answered.instance_id)
        if instance is None or not instance.given:
            effects.append(Count("answers_unexpected"))
            return
        held = self.held.get(instance.given.popleft())
        instance.head_since_ms = now_ms
        instance.recalled = False
        pool = self.pool.versions[instance.version_id]
        pool.learn_run(answered.run_us)
        if held is not None and held.instance_id == instance.instance_id:
            self._end(
                held,
                now_ms,
                effects,
                outcome="succeeded" if answered.failure is None else "failed",
                failure=answered.failure,
                answered=answered,
            )
        if instance.state != "busy":
            return
        if instance.given and not self._is_at(instance, instance.given[0]):
            reason = "the instance before it was killed: it ran what nobody waited for"
            self._stop(instance, reason, effects)
            self._advance(pool, now_ms, effects)
        elif pool.queue and len(instance.given) < depth_of(pool, self._config.depth):
            self._give(instance, pool.queue.popleft(), now_ms, effects)
        elif not instance.given:
            self._rest(instance, now_ms, effects)

    def _on_streamed(self, streamed: Streamed, now_ms: int, effects: list[Effect]) -> None:  # noqa: ARG002
        instance = self.pool.instances.get(streamed.instance_id)
        held = self.held.get(instance.given[0]) if instance and instance.given else None
        if held is not None and held.dispatch.reply_to:
            effects.append(Send(held.dispatch.reply_to, chunk_of(held, streamed)))

    def _on_returned(self, returned: Returned, now_ms: int, effects: list[Effect]) -> None:
        instance = self.pool.instances.get(returned.instance_id)
        if instance is None or returned.request_id not in instance.given:
            return
        instance.given.remove(returned.request_id)
        pool = self.pool.versions[instance.version_id]
        if self._is_at(instance, returned.request_id):
            pool.wait_again(self.held[returned.request_id])
        if instance.state == "busy" and not instance.given:
            instance.recalled = False
            self._rest(instance, now_ms, effects)
        self._advance(pool, now_ms, effects)

    def _on_measured(self, measured: Measured, now_ms: int, effects: list[Effect]) -> None:  # noqa: ARG002
        used = self.pool.measure(measured.memory_bytes)
        over = max(used - self._memory_bytes_max, AVAILABLE_BYTES_MIN - measured.available_bytes)
        while over > 0:
            victim = self.pool.least_valuable()
            if victim is None:
                return
            over -= victim.memory_bytes
            effects.append(Count("instances_evicted"))
            self._stop(victim, "the instance before it was evicted: memory was short", effects)

    def _on_drain(self, drain: Drain, now_ms: int, effects: list[Effect]) -> None:  # noqa: ARG002
        self.draining = True
        for pool in list(self.pool.versions.values()):
            pool.keep_warm = 0
            for held in [held for held in pool.queue if not held.dispatch.reply_to]:
                pool.queue.remove(held)
                self._end(held, now_ms, effects, outcome="discarded", failure=RETURNED)
        effects.append(Send("collector", self.heartbeat()))

    def _on_tick(self, tick: Tick, now_ms: int, effects: list[Effect]) -> None:  # noqa: ARG002
        for request_id in self._deadlines.due(now_ms):
            self._time_out(self.held[request_id], now_ms, effects)
        limit_ms = now_ms - 2 * max(1, self._config.start_wait_ms)
        for version_id in (*self._looks.due(now_ms), *self._warmings.due(now_ms)):
            pool = self.pool.versions.get(version_id)
            if pool is not None:
                for instance in stalled(pool, limit_ms):
                    self._recall(instance, effects)
                self._advance(pool, now_ms, effects)
        for instance_id in self._idle.due(now_ms):
            resting = self.pool.instances.get(instance_id)
            if resting is None or resting.state != "idle":
                continue
            pool = self.pool.versions[resting.version_id]
            if pool.alive > pool.keep_warm:
                effects.append(Count("instances_evicted"))
                self._stop(resting, "the instance before it was stopped when idle", effects)
            else:
                self._idle.add(instance_id, now_ms + max(LOOK_MS_MIN, self._config.idle_max_ms))
        for deadlines in (self._deadlines, self._looks, self._warmings, self._idle):
            due_ms = deadlines.next_ms()
            if due_ms is not None:
                effects.append(Wake(due_ms))

    # decisions

    def _advance(self, pool: VersionPool, now_ms: int, effects: list[Effect]) -> None:
        """Give what waits to who can take it; start instances for the rest if that is worth it."""
        if pool.state != "ready":
            if pool.state == "absent" and pool.queue:
                pool.state = "preparing"
                effects.append(Prepare(pool.version_id))
            return
        queue = pool.queue
        while queue and pool.idle:
            self._give(pool.idle.pop(), queue.popleft(), now_ms, effects)
        depth = depth_of(pool, self._config.depth)
        if queue and depth > 1:
            for instance in list(pool.busy.values()):
                while queue and len(instance.given) < depth and not instance.recalled:
                    self._give(instance, queue.popleft(), now_ms, effects)
        for _ in range(instances_wanted(pool, self._config.start_wait_ms, now_ms)):
            if not self._make_room(effects):
                break
            self._start(pool, effects)
        if (queue or may_stall(pool)) and pool.version_id not in self._looks:
            look_ms = now_ms + max(1, self._config.start_wait_ms)
            if self._looks.add(pool.version_id, look_ms):
                effects.append(Wake(look_ms))
        waits = pool.keep_warm > pool.alive and pool.warm_after_ms > now_ms
        if waits and self._warmings.add(pool.version_id, pool.warm_after_ms):
            effects.append(Wake(pool.warm_after_ms))

    def _make_room(self, effects: list[Effect]) -> bool:
        """Whether one more instance may start, giving up the least valuable idle one if needed."""
        if len(self.pool.instances) < self._config.instances_max:
            return True
        victim = self.pool.least_valuable()
        if victim is None:
            return False
        effects.append(Count("instances_evicted"))
        self._stop(victim, "the instance before it was evicted: the node was full", effects)
        return True

    def _start(self, pool: VersionPool, effects: list[Effect]) -> None:
        self._instances_started += 1
        instance_id = f"{self.node_id}-{self._instances_started}"
        self.pool.add(pool, instance_id)
        effects.append(Start(instance_id, pool.version_id))

    def _give(self, instance: Instance, held: Held, now_ms: int, effects: list[Effect]) -> None:
        kept = self.pool.versions[instance.version_id].keep_warm > 0
        held.begin(instance, now_ms, kept=kept)
        self.pool.make_busy(instance)
        effects.append(Run(instance.instance_id, held.dispatch))

    def _rest(self, instance: Instance, now_ms: int, effects: list[Effect]) -> None:
        self.pool.make_idle(instance)
        due_ms = now_ms + self._config.idle_max_ms
        if self._idle.add(instance.instance_id, due_ms):
            effects.append(Wake(due_ms))

    def _recall(self, instance: Instance, effects: list[Effect]) -> None:
        """Ask an instance to give back what waits behind its first event."""
        if not instance.recalled:
            instance.recalled = True
            effects.append(Count("events_recalled"))
            effects.append(Recall(instance.instance_id))

    def _is_at(self, instance: Instance, request_id: str) -> bool:
        """Whether this dispatch is still awaited from this instance."""
        held = self.held.get(request_id)
        return held is not None and held.instance_id == instance.instance_id

    def _time_out(self, held: Held, now_ms: int, effects: list[Effect]) -> None:
        dispatch = held.dispatch
        instance = self.pool.instances.get(held.instance_id)
        given = instance.given if instance is not None else None
        runs = given and given[0] == dispatch.request_id
        failure = timed_out(dispatch, "run" if runs else "start", now_ms - held.received_at_ms)
        self._end(held, now_ms, effects, outcome="timed_out", failure=failure)
        self._take_away(held, "the instance before it was killed at a deadline", now_ms, effects)

    def _take_away(self, held: Held, reason: str, now_ms: int, effects: list[Effect]) -> None:
        """Make sure an ended dispatch does not run (on): out of the queue, or kill who runs it."""
        pool = self.pool.of(held.dispatch.version_id)
        if not held.instance_id:
            if held in pool.queue:
                pool.queue.remove(held)
            return
        instance = self.pool.instances.get(held.instance_id)
        if instance is None or instance.state == "draining":
            return
        if instance.given[0] != held.dispatch.request_id:
            self._recall(instance, effects)  # the event before it must not die for it
            return
        self._stop(instance, reason, effects)
        self._advance(pool, now_ms, effects)

    def _stop(self, instance: Instance, reason: str, effects: list[Effect]) -> None:
        self._idle.discard(instance.instance_id)
        self.pool.begin_stop(instance, reason)
        effects.append(Stop(instance.instance_id, reason))

    def _requeue(
        self, instance: Instance, failure: Failure, now_ms: int, effects: list[Effect]
    ) -> None:
        """What a gone instance had: the one that ran has crashed, the rest never began. If it was
        stopped, that was for one that has ended already, so all of the rest are innocent.
        """
        pool = self.pool.versions[instance.version_id]
        given = list(instance.given)
        instance.given.clear()
        for place, request_id in reversed(list(enumerate(given))):
            if not self._is_at(instance, request_id):
                continue
            held = self.held[request_id]
            if place == 0 and not instance.stop_reason:
                self._end(held, now_ms, effects, outcome="crashed", failure=failure)
            else:
                pool.wait_again(held)

    def _fail_waiting(
        self, pool: VersionPool, failure: Failure, now_ms: int, effects: list[Effect]
    ) -> None:
        """A start failed: fail as many waiting calls as have no other start to hope for."""
        hopeless = len(pool.queue) - pool.starting - len(pool.busy) - len(pool.idle)
        for _ in range(max(0, hopeless)):
            held = pool.queue.popleft()
            held.start_kind = "cold"
            self._end(held, now_ms, effects, outcome="failed", failure=failure)

    def _end(
        self,
        held: Held,
        now_ms: int,
        effects: list[Effect],
        *,
        outcome: OutcomeKind,
        failure: Failure | None,
        answered: Answered | None = None,
    ) -> None:
        """Say how a dispatch ended, to its caller and to the collector, and forget it."""
        dispatch = held.dispatch
        del self.held[dispatch.request_id]
        self._deadlines.discard(dispatch.request_id)
        end = End(
            node_id=self.node_id,
            outcome=outcome,
            failure=failure,
            answered=answered,
            now_ms=now_ms,
        )
        if dispatch.reply_to:
            effects.append(Send(dispatch.reply_to, end.result(held)))
        effects.append(Send("collector", end.outcome_of(held)))

    def check(self) -> None:
        """All invariants."""
        self.pool.check(self.held, self._config.depth)
        assert sum(pool.alive for pool in self.pool.versions.values()) <= self._config.instances_max
        for request_id in self.held:
            assert request_id in self._deadlines

    _TRANSITIONS: ClassVar[dict[type[Message], Callable[..., None]]] = {
        Dispatch: _on_dispatch,
        Answered: _on_answered,
        Streamed: _on_streamed,
        Withdraw: _on_withdraw,
        Prepared: _on_prepared,
        InstanceReady: _on_ready,
        InstanceFailed: _on_failed,
        InstanceExited: _on_exited,
        Returned: _on_returned,
        Measured: _on_measured,
        Provision: _on_provision,
        Forget: _on_forget,
        Roster: _on_roster,
        Drain: _on_drain,
        Tick: _on_tick,
    }
