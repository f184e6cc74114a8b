"""Lets the writer's thread run beside an event loop that never rests.

A thread that wants the interpreter's lock gets it when another holds it for longer than the switch
interval. A busy event loop lets go of it and takes it back many times in that interval, so that the
wish starts anew each time and is never fulfilled: beside a loop at its limit a batch took seconds.
So, while a durable write or a read is waited for and the loop is at its limit, the loop stops for a
moment in every millisecond. A loop with idle time is never stopped, nor one with best-effort writes
alone. A shorter switch interval was tried in its place: the wish still starts anew each time.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from pratai import clock

#: How often the loop looks whether it should stop.
EVERY_S = 0.001
#: For how long it stops at most; ends at once when the writer has answered a batch.
STOP_MAX_S = 0.000_3
#: Share of the time that the loop's thread computes from which on it is at its limit.
BUSY = 0.7


class Turns:
    """Shares the interpreter between the loop and the store's threads.

    `outstanding` tells whether they have work to do.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, outstanding: Callable[[], bool]) -> None:
        self._loop = loop
        self._outstanding = outstanding
        self._is_watching = False
        self._answered = threading.Lock()
        self._answered.acquire()
        self._looked_at_us = 0
        self._computed_us = 0

    def watch(self) -> None:
        """Called on the loop when work is given. Cheap, and mostly nothing."""
        if not self._is_watching:
            self._is_watching = True
            self._mark()
            self._loop.call_later(EVERY_S, self._look)

    def answered(self) -> None:
        """Called by the writer's thread: the loop has something to do again."""
        if self._answered.locked():
            self._answered.release()

    def _look(self) -> None:
        if not self._outstanding():
            self._is_watching = False
            return
        passed_us = clock.monotonic_us() - self._looked_at_us
        if clock.thread_us() - self._computed_us > BUSY * passed_us:
            self._answered.acquire(timeout=STOP_MAX_S)
        self._mark()
        self._loop.call_later(EVERY_S, self._look)

    def _mark(self) -> None:
        self._looked_at_us = clock.monotonic_us()
        self._computed_us = clock.thread_us()
