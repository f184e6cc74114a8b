"""When best-effort writes are due, and how many rows of them: few large batches, far apart.

Every batch makes the writer's thread and the event loop contend for the interpreter's lock, so
that writing each record soon would cost the loop more than all its own work for a call.
"""

from __future__ import annotations

#: Rows that join one transaction. A batch is cut, so that durable writes need not wait for its end.
SLICE_ROWS = 256


class Pace:
    """Lets `batch_max` rows pass each `every_us`. Used by the writer's thread, except `stirred`."""

    def __init__(self, every_us: int, batch_max: int) -> None:
        self._every_us = every_us
        self._batch_max = batch_max
        self._left = batch_max
        #: Whether something was added since the writer took. Set by the event loop; cleared by the
        #: writer before it takes, so that nothing is left behind unknown.
        self.stirred = False
        #: When the batch at hand or the next one begins; None while there is nothing to write.
        self._due_us: int | None = None

    def due_us(self, now_us: int) -> int | None:
        """When the next rows may pass; None for not before something is added."""
        if self.stirred and self._due_us is None:
            self._due_us = now_us + self._every_us
        return self._due_us

    def begin(self, now_us: int, *, at_once: bool) -> int:
        """How many rows may be taken now. `at_once`: whether or not they are due."""
        due_us = self.due_us(now_us)
        if not at_once and (due_us is None or now_us < due_us):
            return 0
        self.stirred = False
        return SLICE_ROWS if at_once else min(SLICE_ROWS, self._left)

    def end(self, now_us: int, taken: int, *, is_empty: bool) -> None:
        """What came of a `begin` that was not 0."""
        self._left -= taken
        if is_empty:
            self._due_us = None
        elif self._left <= 0:
            self._due_us = now_us + self._every_us
        else:
            return
        self._left = self._batch_max
