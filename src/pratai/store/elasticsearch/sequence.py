"""Numbers of log records: unique over all processes, in order of time, below 2^53.

    milliseconds since 2024 (41 bits) | process (4 bits) | count within the millisecond (8 bits)

The process's part is drawn by chance. Where two processes drew the same one and meet in a
millisecond, creating the second record fails, since a record's id is its number; that process then
draws again. So uniqueness never rests on chance.
"""

from __future__ import annotations

from pratai import clock, ids

EPOCH_MS = 1_704_067_200_000
_COUNT_BITS, _PROCESS_BITS = 8, 4
_LOW_BITS = _COUNT_BITS + _PROCESS_BITS


class Sequence:
    """Gives rising numbers."""

    def __init__(self) -> None:
        self._at_ms = 0
        self._count = 0
        self._process = 0
        self.draw()

    def draw(self) -> None:
        """Take another process part, by chance."""
        self._process = int(ids.chance() * (1 << _PROCESS_BITS))

    def next(self) -> int:
        """The next number. Never lower than the one before, also when the clock goes back."""
        now_ms = clock.now_ms() - EPOCH_MS
        if now_ms > self._at_ms:
            self._at_ms, self._count = now_ms, 0
        elif self._count + 1 < 1 << _COUNT_BITS:
            self._count += 1
        else:
            self._at_ms, self._count = self._at_ms + 1, 0
        return (self._at_ms << _LOW_BITS) | (self._process << _COUNT_BITS) | self._count


def at_ms(sequence: int) -> int:
    """When a number was given."""
    return (sequence >> _LOW_BITS) + EPOCH_MS


def first_of(time_ms: int) -> int:
    """The lowest number of a millisecond."""
    return max(0, time_ms - EPOCH_MS) << _LOW_BITS
