"""The fake clock and everything that is going to happen, in order. Nothing here draws chance."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

#: Where the clock starts; large, so that no time is mistaken for "not set".
START_MS = 1_000_000
#: Actions within one millisecond before the clock is said to stand still.
ACTIONS_A_MS_MAX = 50_000

Action = Callable[[], None]


class ClockStandsStill(RuntimeError):
    """Something asks to be woken at once, again and again."""


class Timeline:
    """Actions by time, and in the order of their asking within one time."""

    def __init__(self) -> None:
        self.now_ms = START_MS
        self._heap: list[tuple[int, int, Action]] = []
        self._asked = 0
        self._at_this_ms = 0

    def at(self, at_ms: int, action: Action) -> None:
        """Do this at a time, or now if that is past."""
        self._asked += 1
        heappush(self._heap, (max(at_ms, self.now_ms), self._asked, action))

    def after(self, delay_ms: int, action: Action) -> None:
        """Do this in a while."""
        self.at(self.now_ms + delay_ms, action)

    def run_until(self, end_ms: int) -> None:
        """Do all that is due up to a time, which it then is."""
        heap = self._heap
        while heap and heap[0][0] <= end_ms:
            at_ms, _, action = heappop(heap)
            if at_ms > self.now_ms:
                self.now_ms, self._at_this_ms = at_ms, 0
            self._at_this_ms += 1
            if self._at_this_ms > ACTIONS_A_MS_MAX:
                raise ClockStandsStill(f"{ACTIONS_A_MS_MAX} actions at {at_ms}")
            action()
        self.now_ms = max(self.now_ms, end_ms)
