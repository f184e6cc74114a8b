"""Queues of invocations, one for each function, served fairly. Pure.

Functions that have work and room take turns (round robin), so a flood of one never starves
another. Within a function sync calls go first, since a caller waits; but after `SYNC_RUN_MAX` of
them in a row a waiting async event has its turn. Cancelled entries stay in their line until they
surface; a line is rebuilt when the dead outnumber the living. Most functions never wait: lines are
made when something does, since with many functions memory is what a call costs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice

from pratai.wire.messages import Invoke

#: Sync calls served in a row while async events of the same function wait.
SYNC_RUN_MAX = 4
#: Dead entries that a deque may hold before a rebuild is considered.
DEAD_MAX = 64
#: Entries taken out of a line that it still holds, at least, before they are removed together.
TAKEN_MIN = 16


class Line:
    """First in, first out, in a plain list: a deque holds room for dozens, and with many functions
    most lines have one entry.
    """

    __slots__ = ("_begin", "_entries")

    def __init__(self) -> None:
        self._entries: list[Invoke] = []
        #: Where the line begins; before it is what was taken out.
        self._begin = 0

    def __len__(self) -> int:
        return len(self._entries) - self._begin

    def __iter__(self) -> Iterator[Invoke]:
        return islice(self._entries, self._begin, None)

    def append(self, invoke: Invoke) -> None:
        """Come last."""
        self._entries.append(invoke)

    def popleft(self) -> Invoke:
        """Take out the first."""
        invoke = self._entries[self._begin]
        self._begin += 1
        if self._begin >= TAKEN_MIN and 2 * self._begin >= len(self._entries):
            del self._entries[: self._begin]
            self._begin = 0
        return invoke

    def keep(self, alive: list[Invoke]) -> None:
        """Have these instead."""
        self._entries, self._begin = alive, 0


class FunctionQueue:
    """What waits and runs of one function."""

    __slots__ = (
        "async_count",
        "backlog",
        "concurrency_max",
        "full_said",
        "in_ring",
        "key",
        "run_us",
        "running",
        "sync_count",
        "sync_run",
        "waiting",
    )

    def __init__(self, key: str) -> None:
        #: `namespace/function`.
        self.key = key
        #: Sync calls, oldest first; may hold cancelled ones. None = there never was one.
        self.waiting: Line | None = None
        #: Async events, oldest first; may hold cancelled ones. None = there never was one.
        self.backlog: Line | None = None
        #: Entries of both that truly wait.
        self.sync_count = self.async_count = 0
        #: Leases open for this function.
        self.running = 0
        #: As the newest invocation said; 0 = no limit of its own.
        self.concurrency_max = 0
        #: Whether the ring holds this queue.
        self.in_ring = False
        #: Sync calls served in a row.
        self.sync_run = 0
        #: Smoothed run time, for honest `Retry-After`s.
        self.run_us = 0
        #: Whether gateways were told that the backlog is full.
        self.full_said = False

    @property
    def has_room(self) -> bool:
        """Whether one more may run."""
        return self.concurrency_max == 0 or self.running < self.concurrency_max


class Queues:
    """All queues, and whose turn it is."""

    def __init__(self) -> None:
        self._queues: dict[str, FunctionQueue] = {}
        #: Queues with entries and room, in order of their turn.
        self._ring: deque[FunctionQueue] = deque()
        #: {request_id: invoke} of all that waits. The truth; lines may hold more.
        self._queued: dict[str, Invoke] = {}

    def __len__(self) -> int:
        return len(self._queued)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._queued

    def get(self, request_id: str) -> Invoke | None:
        """What waits under this id, if anything."""
        return self._queued.get(request_id)

    def of(self, key: str) -> FunctionQueue:
        """The queue of a function, made on first use."""
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = FunctionQueue(key)
        return queue

    @property
    def functions(self) -> int:
        """Functions of which anything is kept."""
        return len(self._queues)

    def sync_count(self, key: str) -> int:
        """Sync calls waiting for a function."""
        queue = self._queues.get(key)
        return queue.sync_count if queue is not None else 0

    def async_count(self, key: str | None = None) -> int:
        """Async events waiting for a function, or for all."""
        if key is None:
            return sum(queue.async_count for queue in self._queues.values())
        queue = self._queues.get(key)
        return queue.async_count if queue is not None else 0

    def push(self, queue: FunctionQueue, invoke: Invoke) -> None:
        """Queue an invocation; it must not be queued already."""
        assert invoke.request_id not in self._queued
        self._queued[invoke.request_id] = invoke
        if invoke.journalled and not invoke.reply_to:
            queue.async_count += 1
            if queue.backlog is None:
                queue.backlog = Line()
            queue.backlog.append(invoke)
        else:
            queue.sync_count += 1
            if queue.waiting is None:
                queue.waiting = Line()
            queue.waiting.append(invoke)
        self.offer(queue)

    def remove(self, request_id: str) -> Invoke | None:
        """Take a waiting invocation out of its turn; None when it does not wait."""
        invoke = self._queued.pop(request_id, None)
        if invoke is None:
            return None
        queue = self.of(f"{invoke.namespace}/{invoke.function}")
        _uncount(queue, invoke)
        live_twice = 2 * (queue.sync_count + queue.async_count)
        for line in (queue.waiting, queue.backlog):
            if line and len(line) > DEAD_MAX and len(line) > live_twice:
                line.keep([entry for entry in line if self._is_live(entry)])
        if not self._queued:
            self._leave_ring()
        self.drop_if_unused(queue)
        return invoke

    def pop(self, *, sync_only: bool = False) -> tuple[FunctionQueue, Invoke] | None:
        """The next invocation to run: the next function's oldest, counted as running. None when
        nothing may run.
        """
        ring = self._ring
        while ring:
            queue = ring.popleft()
            queue.in_ring = False
            if not queue.has_room:
                continue
            invoke = self._pop_of(queue, sync_only=sync_only)
            if invoke is None:
                self.drop_if_unused(queue)
                continue
            queue.running += 1
            self.offer(queue)
            if not self._queued:
                self._leave_ring()
            return queue, invoke
        return None

    def offer(self, queue: FunctionQueue) -> None:
        """Give a queue a place in the ring if it has entries and none yet."""
        if not queue.in_ring and (queue.sync_count or queue.async_count):
            queue.in_ring = True
            self._ring.append(queue)

    def drop_if_unused(self, queue: FunctionQueue) -> None:
        """Forget a function that neither waits nor runs, so that memory follows the load."""
        if queue.running or queue.in_ring or queue.full_said:
            return
        if not queue.sync_count and not queue.async_count:
            self._queues.pop(queue.key, None)

    def _pop_of(self, queue: FunctionQueue, *, sync_only: bool) -> Invoke | None:
        order: tuple[Line | None, ...] = (queue.waiting, queue.backlog)
        if sync_only:
            order = (queue.waiting,)
        elif queue.sync_run >= SYNC_RUN_MAX and queue.backlog:
            order = (queue.backlog, queue.waiting)
        for entries in order:
            while entries:
                invoke = entries.popleft()
                live = self._queued.pop(invoke.request_id, None)
                if live is not invoke:
                    if live is not None:  # queued again since; that one has its own place
                        self._queued[invoke.request_id] = live
                    continue
                _uncount(queue, invoke)
                queue.sync_run = queue.sync_run + 1 if entries is queue.waiting else 0
                return invoke
        return None

    def _leave_ring(self) -> None:
        """Nothing waits: no queue needs a turn, whatever dead entries it has."""
        while self._ring:
            queue = self._ring.popleft()
            queue.in_ring = False
            queue.waiting = queue.backlog = None
            self.drop_if_unused(queue)

    def _is_live(self, invoke: Invoke) -> bool:
        return self._queued.get(invoke.request_id) is invoke

    def check(self) -> None:
        """Counts agree with what waits; everything that waits is in a line of a queue that is in
        the ring unless its function has no room.
        """
        live = 0
        for queue in self._queues.values():
            both = (*(queue.waiting or ()), *(queue.backlog or ()))
            entries = [entry for entry in both if self._is_live(entry)]
            live += len(entries)
            counted = queue.sync_count + queue.async_count
            assert counted == len(entries), f"{queue.key}: counted {counted}, has {len(entries)}"
            assert queue.running >= 0
            waits = queue.sync_count > 0 and queue.has_room
            assert queue.in_ring or not waits, f"{queue.key} waits without a turn"
        assert live == len(self._queued)
        assert len(self._ring) == sum(queue.in_ring for queue in self._queues.values())


def _uncount(queue: FunctionQueue, invoke: Invoke) -> None:
    if invoke.journalled and not invoke.reply_to:
        queue.async_count -= 1
    else:
        queue.sync_count -= 1
