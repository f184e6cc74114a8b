"""Counts what arrives and cannot be taken, and says so in the log once a minute at most.

A stranger can send rubbish as fast as the network carries it; neither the log nor the loop may
follow.
"""

from __future__ import annotations

import structlog

from pratai.clock import now_ms
from pratai.metrics import count, counted

_log = structlog.get_logger("pratai.transport")
#: Time between two lines about the same thing.
QUIET_MS = 60_000


class Complaints:
    """What was wrong with what arrived, by kind."""

    def __init__(self) -> None:
        #: {counter: when it was last told}. As many as there are kinds.
        self._told_at_ms: dict[str, int] = {}

    def add(self, counter: str, where: str, detail: str) -> None:
        """Count one; tell the first, and then one a minute with the sum."""
        count(counter)
        at_ms = now_ms()
        if at_ms - self._told_at_ms.get(counter, -QUIET_MS) >= QUIET_MS:
            self._told_at_ms[counter] = at_ms
            _log.warning(counter, where=where, detail=detail[:200], so_far=counted(counter))
