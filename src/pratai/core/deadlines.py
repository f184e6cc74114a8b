"""Times at which something is due, for every core: one heap each, no timer per call.

Discarded entries stay in the heap until they surface, so discarding is O(1); the heap is rebuilt
when dead entries outnumber live ones, which bounds memory at twice what is live.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

#: Below this many entries a rebuild is not worth its cost.
COMPACT_MIN = 1_024


class Deadlines:
    """{key: at_ms} with the earliest at hand."""

    def __init__(self) -> None:
        #: {key: when it is due}. The truth; the heap may hold outdated entries.
        self._at_ms: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._at_ms)

    def __contains__(self, key: str) -> bool:
        return key in self._at_ms

    def add(self, key: str, at_ms: int) -> bool:
        """Set or move a deadline. True when it is now the earliest, so a `Wake` is needed."""
        self._at_ms[key] = at_ms
        heap = self._heap
        earliest = not heap or at_ms < heap[0][0]
        heappush(heap, (at_ms, key))
        if len(heap) > COMPACT_MIN and len(heap) > 2 * len(self._at_ms):
            self._heap = [(due_ms, name) for name, due_ms in self._at_ms.items()]
            heapify(self._heap)
        return earliest

    def discard(self, key: str) -> None:
        """Forget a deadline; unknown keys are fine."""
        self._at_ms.pop(key, None)

    def due(self, now_ms: int) -> list[str]:
        """Remove and return every key due by now, earliest first."""
        keys: list[str] = []
        heap = self._heap
        while heap and heap[0][0] <= now_ms:
            at_ms, key = heappop(heap)
            if self._at_ms.get(key) == at_ms:
                del self._at_ms[key]
                keys.append(key)
        return keys

    def next_ms(self) -> int | None:
        """When the earliest live entry is due; None when there is none."""
        heap = self._heap
        while heap and self._at_ms.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else None

    def check(self) -> None:
        """Every live deadline is in the heap."""
        assert set(self._at_ms.items()) <= {(key, at_ms) for at_ms, key in self._heap}
