"""Times at which something is due, for every core: no timer per call.

Keys are kept in buckets of neighbouring times, which are the only thing that is ordered: a deadline
that is discarded, as nearly all are, costs one entry of a list and of a dict and is never compared
with another. Discarded entries stay in their bucket until it is looked at; all buckets are made
anew when dead entries outnumber live ones, which bounds memory at twice what is live.
"""

from __future__ import annotations

from heapq import heappop, heappush

#: Below this many entries a rebuild is not worth its cost.
COMPACT_MIN = 1_024
#: Times that differ only in so many low bits share a bucket: 64 ms.
BUCKET_BITS = 6


class Deadlines:
    """{key: at_ms} with the earliest at hand."""

    def __init__(self) -> None:
        #: {key: when it is due}. The truth; buckets may hold outdated entries.
        self._at_ms: dict[str, int] = {}
        #: {number of the bucket: its keys}.
        self._buckets: dict[int, list[str]] = {}
        #: A heap of the numbers of all buckets, each once.
        self._order: list[int] = []
        #: Keys in all buckets, dead ones included.
        self._entries = 0
        #: The earliest time that a `Wake` was needed for; None = to be found out.
        self._low_ms: int | None = None

    def __len__(self) -> int:
        return len(self._at_ms)

    def __contains__(self, key: str) -> bool:
        return key in self._at_ms

    def add(self, key: str, at_ms: int) -> bool:
        """Set or move a deadline. True when it is now the earliest, so a `Wake` is needed."""
        low_ms = self._low_ms
        if low_ms is None:
            low_ms = self.next_ms()
        self._at_ms[key] = at_ms
        self._put(key, at_ms)
        self._entries += 1
        if self._entries > COMPACT_MIN and self._entries > 2 * len(self._at_ms):
            self._rebuild()
        if low_ms is None or at_ms < low_ms:
            self._low_ms = at_ms
            return True
        return False

    def discard(self, key: str) -> None:
        """Forget a deadline; unknown keys are fine."""
        self._at_ms.pop(key, None)

    def due(self, now_ms: int) -> list[str]:
        """Remove and return every key due by now, earliest first."""
        found: list[tuple[int, str]] = []
        at_ms, order = self._at_ms, self._order
        while order and order[0] << BUCKET_BITS <= now_ms:
            for key in self._alive(order[0]):
                due_ms = at_ms.get(key)
                if due_ms is not None and due_ms <= now_ms:
                    del at_ms[key]
                    found.append((due_ms, key))
            if self._alive(order[0]):
                break
            self._shed()
        if self._low_ms is not None and self._low_ms <= now_ms:
            self._low_ms = None
        found.sort()
        return [key for _, key in found]

    def next_ms(self) -> int | None:
        """When the earliest live entry is due; None when there is none."""
        self._low_ms = None
        while self._order:
            alive = self._alive(self._order[0])
            if alive:
                self._low_ms = min(self._at_ms[key] for key in alive)
                break
            self._shed()
        return self._low_ms

    def _put(self, key: str, at_ms: int) -> None:
        number = at_ms >> BUCKET_BITS
        bucket = self._buckets.get(number)
        if bucket is None:
            self._buckets[number] = [key]
            heappush(self._order, number)
        else:
            bucket.append(key)

    def _alive(self, number: int) -> list[str]:
        """The keys of a bucket, from which the dead are removed."""
        at_ms, bucket = self._at_ms, self._buckets[number]
        alive = [key for key in bucket if at_ms.get(key, -1) >> BUCKET_BITS == number]
        self._entries -= len(bucket) - len(alive)
        self._buckets[number] = alive
        return alive

    def _shed(self) -> None:
        """Remove the first bucket, which is empty."""
        del self._buckets[heappop(self._order)]

    def _rebuild(self) -> None:
        self._buckets.clear()
        self._order.clear()
        for key, at_ms in self._at_ms.items():
            self._put(key, at_ms)
        self._entries = len(self._at_ms)

    def check(self) -> None:
        """Every live deadline is in its bucket, and every bucket in the order once."""
        assert sorted(self._order) == sorted(self._buckets)
        assert self._entries == sum(len(bucket) for bucket in self._buckets.values())
        held = {(key, number) for number, bucket in self._buckets.items() for key in bucket}
        assert {(key, at_ms >> BUCKET_BITS) for key, at_ms in self._at_ms.items()} <= held
