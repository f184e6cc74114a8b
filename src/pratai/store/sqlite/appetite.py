"""How many successful sync calls are worth a record: all, until recording would slow calls.

The writer's thread and the event loop share the interpreter. While the loop has time to spare, a
record costs calls nothing. When the loop is at its limit every record takes time from a call, so
only so many a second are wanted; the others are counted. Failures are not asked about here.
"""

from __future__ import annotations

from collections.abc import Callable

#: How often it is looked whether the loop is at its limit.
WINDOW_US = 100_000
#: Share of the time that the loop's thread computes from which on it is at its limit.
BUSY = 0.8


class Appetite:
    """Says yes to at most `busy_rate_max` records a second while the loop is at its limit."""

    def __init__(self, busy_rate_max: int) -> None:
        self._each_window = max(1, busy_rate_max * WINDOW_US // 1_000_000)
        self._began_us = 0
        self._computed_us = 0
        self._is_busy = False
        self._left = 0

    def wants(self, now_us: int, computed_us: Callable[[], int]) -> bool:
        """Whether to make a record. `computed_us`: processor time of the loop's thread so far."""
        passed_us = now_us - self._began_us
        if passed_us >= WINDOW_US:
            computed = computed_us()
            self._is_busy = computed - self._computed_us > BUSY * passed_us
            self._began_us, self._computed_us = now_us, computed
            self._left = self._each_window
        if not self._is_busy:
            return True
        self._left -= 1
        return self._left >= 0
