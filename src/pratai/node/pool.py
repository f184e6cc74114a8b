"""Instances of a node, by version: which is idle, which is busy, which to give up first. Pure.

Eviction is greedy-dual (FaasCache, ASPLOS 2021): an instance's worth is the pool's clock at its
last use plus uses x cold cost / size, and the clock rises to the worth of what was evicted. Rarely
used, cheap to start and large goes first.
"""

from __future__ import annotations

from collections import deque

from pratai.model.invocation import StartKind
from pratai.model.node import InstanceState
from pratai.wire.messages import Dispatch

#: What an instance is taken to use before it was measured.
MEMORY_BYTES_GUESS = 16 << 20
#: Wait before an instance is started again only to be kept warm, after one failed; and its bound.
WARM_RETRY_MS = 1_000
WARM_RETRY_MS_MAX = 60_000


class Held:
    """A dispatch this node has: queued for an instance, or given to one."""

    __slots__ = (
        "cold_reason",
        "dispatch",
        "instance_id",
        "received_at_ms",
        "start_kind",
        "start_us",
        "started_at_ms",
    )

    def __init__(self, dispatch: Dispatch, received_at_ms: int) -> None:
        self.dispatch = dispatch
        self.received_at_ms = received_at_ms
        #: "" while queued.
        self.instance_id = ""
        #: When it was given to an instance; 0 while queued.
        self.started_at_ms = 0
        self.start_kind: StartKind = ""
        self.cold_reason = ""
        self.start_us = 0

    def begin(self, instance: Instance, now_ms: int, *, kept: bool) -> None:
        """It is given to an instance; `kept` = of a version whose instances are kept warm."""
        self.start_kind, self.cold_reason, self.start_us = "warm", "", 0
        if instance.uses == 0 and kept and self.received_at_ms == now_ms:
            self.start_kind = "provisioned"
        elif instance.uses == 0:
            self.start_kind, self.cold_reason = "cold", instance.why
            self.start_us = instance.start_us
        self.instance_id = instance.instance_id
        self.started_at_ms = now_ms
        instance.uses += 1
        if not instance.given:
            instance.head_since_ms = now_ms
        instance.given.append(self.dispatch.request_id)


class Instance:
    """One sandbox with one version initialised."""

    __slots__ = (
        "given",
        "head_since_ms",
        "instance_id",
        "memory_bytes",
        "recalled",
        "start_us",
        "state",
        "stop_reason",
        "uses",
        "version_id",
        "why",
        "worth",
    )

    def __init__(self, instance_id: str, version_id: str, why: str) -> None:
        self.instance_id = instance_id
        self.version_id = version_id
        self.state: InstanceState = "starting"
        #: Why it had to be started: the cold reason of the call it serves first.
        self.why = why
        #: Request ids given to it and not answered, oldest (the one that runs) first.
        self.given: deque[str] = deque()
        #: Since when the oldest of them is the oldest.
        self.head_since_ms = 0
        self.uses = 0
        self.start_us = 0
        self.memory_bytes = MEMORY_BYTES_GUESS
        self.worth = 0.0
        #: Why it is being stopped; "" while it is not.
        self.stop_reason = ""
        #: Whether it was asked for what it has not begun.
        self.recalled = False


class VersionPool:
    """Everything a node has of one version."""

    __slots__ = (
        "busy",
        "failed_starts",
        "idle",
        "instances",
        "keep_warm",
        "last_loss",
        "queue",
        "run_us",
        "start_us",
        "starting",
        "state",
        "version_id",
        "warm_after_ms",
    )

    def __init__(self, version_id: str) -> None:
        self.version_id = version_id
        #: absent, preparing, ready.
        self.state = "absent"
        #: Waiting for an instance, oldest first.
        self.queue: deque[Held] = deque()
        #: Idle instances, most recently used last.
        self.idle: list[Instance] = []
        #: Instances with events given to them.
        self.busy: dict[str, Instance] = {}
        #: All that are not stopped.
        self.instances: dict[str, Instance] = {}
        self.starting = 0
        #: Smoothed run and start times; 0 = not known yet.
        self.run_us = 0
        self.start_us = 0
        self.keep_warm = 0
        #: Why the last instance was lost, for the next cold reason.
        self.last_loss = ""
        #: Instances in a row that ended before they answered anything.
        self.failed_starts = 0
        #: No instance is started merely to be kept warm before this time.
        self.warm_after_ms = 0

    @property
    def alive(self) -> int:
        """Instances that take events now or soon; those being stopped do not count."""
        return self.starting + len(self.idle) + len(self.busy)

    def __repr__(self) -> str:
        return (
            f"[{self.version_id} {self.state}: {len(self.queue)} queued | "
            f"{self.starting} starting, {len(self.idle)} idle, {len(self.busy)} busy]"
        )

    def wait_again(self, held: Held) -> None:
        """What was given to an instance and had not begun goes back to the head of the queue."""
        held.instance_id = ""
        held.started_at_ms = 0
        self.queue.appendleft(held)

    def learn_run(self, run_us: int) -> None:
        """Fold a run time into the smoothed one."""
        self.failed_starts = 0
        self.run_us = run_us if not self.run_us else (7 * self.run_us + run_us) // 8

    def learn_failed_start(self, now_ms: int) -> None:
        """Put off the next start that no call asks for, twice as long each time."""
        wait_ms = min(WARM_RETRY_MS_MAX, WARM_RETRY_MS << min(10, self.failed_starts))
        self.failed_starts += 1
        self.warm_after_ms = now_ms + wait_ms

    def cold_reason(self) -> str:
        """Why a call that arrives now needs a new instance."""
        if self.busy:
            return f"all {len(self.busy)} instances were busy"
        return self.last_loss or "first call of this version on this node"

    def check(self, held: dict[str, Held], depth_max: int) -> None:
        """What waits is held and with no instance; no instance has more than it may."""
        for waiting in self.queue:
            assert held.get(waiting.dispatch.request_id) is waiting
            assert not waiting.instance_id
        assert len({id(waiting) for waiting in self.queue}) == len(self.queue)
        for instance in self.busy.values():
            assert len(instance.given) <= depth_max


class Pool:
    """All instances of a node."""

    def __init__(self) -> None:
        self.versions: dict[str, VersionPool] = {}
        self.instances: dict[str, Instance] = {}
        self._clock = 0.0

    def __repr__(self) -> str:
        return " ".join(repr(pool) for pool in self.versions.values())

    def of(self, version_id: str) -> VersionPool:
        """The pool of a version, made on first use."""
        pool = self.versions.get(version_id)
        if pool is None:
            pool = self.versions[version_id] = VersionPool(version_id)
        return pool

    def add(self, pool: VersionPool, instance_id: str) -> Instance:
        """Count an instance that is being started."""
        instance = Instance(instance_id, pool.version_id, pool.cold_reason())
        pool.instances[instance_id] = self.instances[instance_id] = instance
        pool.starting += 1
        return instance

    def make_idle(self, instance: Instance) -> None:
        """An instance has nothing to do."""
        pool = self.versions[instance.version_id]
        if instance.state == "starting":
            pool.starting -= 1
        pool.busy.pop(instance.instance_id, None)
        instance.state = "idle"
        cost = max(1, instance.start_us) / max(1, instance.memory_bytes)
        instance.worth = self._clock + instance.uses * cost
        pool.idle.append(instance)

    def make_busy(self, instance: Instance) -> None:
        """An instance was given an event. It is not in `idle` any more (the caller took it)."""
        pool = self.versions[instance.version_id]
        if instance.state == "starting":
            pool.starting -= 1
        instance.state = "busy"
        pool.busy[instance.instance_id] = instance

    def begin_stop(self, instance: Instance, reason: str) -> None:
        """An instance takes nothing more; it is gone when its exit is said."""
        pool = self.versions[instance.version_id]
        if instance.state == "starting":
            pool.starting -= 1
        elif instance.state == "idle":
            pool.idle.remove(instance)
        pool.busy.pop(instance.instance_id, None)
        instance.state = "draining"
        instance.stop_reason = reason
        pool.last_loss = reason

    def remove(self, instance: Instance) -> VersionPool:
        """An instance is gone."""
        pool = self.versions[instance.version_id]
        if instance.state != "draining":
            self.begin_stop(instance, instance.stop_reason)
        instance.state = "stopped"
        del pool.instances[instance.instance_id]
        del self.instances[instance.instance_id]
        return pool

    def measure(self, memory_bytes: dict[str, int]) -> int:
        """Note what instances use; the sum of what is still here."""
        used = 0
        for instance_id, size in memory_bytes.items():
            instance = self.instances.get(instance_id)
            if instance is not None:
                instance.memory_bytes = size
                used += size
        return used

    def least_valuable(self) -> Instance | None:
        """The idle instance to give up first, sparing what is to be kept warm."""
        best: Instance | None = None
        for pool in self.versions.values():
            if pool.alive <= pool.keep_warm:
                continue
            for instance in pool.idle:
                if best is None or instance.worth < best.worth:
                    best = instance
        if best is not None:
            self._clock = max(self._clock, best.worth)
        return best

    def drop_if_unused(self, pool: VersionPool) -> None:
        """Forget a version that has nothing here."""
        if not pool.instances and not pool.queue and not pool.keep_warm:
            self.versions.pop(pool.version_id, None)

    def check(self, held: dict[str, Held], depth_max: int) -> None:
        """Every instance is in exactly the places that its state says, and so is every dispatch."""
        for request_id, item in held.items():
            if item.instance_id:
                assert request_id in self.instances[item.instance_id].given, request_id
            else:
                assert item in self.versions[item.dispatch.version_id].queue, request_id
        for pool in self.versions.values():
            pool.check(held, depth_max)
            states = [instance.state for instance in pool.instances.values()]
            assert states.count("starting") == pool.starting, repr(pool)
            assert states.count("idle") == len(pool.idle), repr(pool)
            assert states.count("busy") == len(pool.busy), repr(pool)
            assert all(not instance.given for instance in pool.idle)
            assert all(instance.given for instance in pool.busy.values())
        indexed = {key for pool in self.versions.values() for key in pool.instances}
        assert indexed == set(self.instances)
