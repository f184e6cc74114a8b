"""Events that were accepted and never arrived here: their gateway died, or its message was lost.

The journal is looked through now and then, from where the last look ended: request ids sort by
time, so each look reads what was accepted since. What is a moment old and unknown to the scheduler
is read once more by itself, since a search may lag, and then queued like any other.
"""

from __future__ import annotations

import asyncio

import structlog

from pratai import ids
from pratai.clock import now_ms
from pratai.collector.service import CollectorService
from pratai.config import schema
from pratai.errors import StoreUnavailable
from pratai.metrics import count
from pratai.model.invocation import Invocation
from pratai.scheduler.recovery import recovered
from pratai.scheduler.service import SchedulerService
from pratai.store.base import Store
from pratai.wire.messages import Outcome

_log = structlog.get_logger("pratai.scheduler")
#: An event younger than this may be on its way.
AGE_MIN_MS = 5_000
#: How far before the last look the next one begins: clocks of gateways differ.
OVERLAP_MS = 60_000
PAGE = 1_000


class Stragglers:
    """Looks for events that nobody sent on."""

    def __init__(
        self,
        config: schema.Scheduler,
        store: Store,
        scheduler: SchedulerService,
        collector: CollectorService,
    ) -> None:
        self._config = config
        self._collector = collector
        self._store = store
        self._scheduler = scheduler
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; everything older was read by `recover`."""
        self._looking = asyncio.get_running_loop().create_task(self._look_on())

    def stop(self) -> None:
        """End."""
        if self._looking is not None:
            self._looking.cancel()

    async def _look_on(self) -> None:
        since_ms = now_ms() - OVERLAP_MS
        while True:
            await asyncio.sleep(self._config.journal_look_ms / 1_000)
            at_ms = now_ms()
            try:
                await self.look(since_ms, at_ms)
                since_ms = at_ms - OVERLAP_MS
            except StoreUnavailable as error:
                _log.warning("store_unavailable", error=error.detail)

    async def look(self, since_ms: int, now_ms: int) -> int:
        """Queue what was accepted since then and is unknown here; how many."""
        found, after = 0, ids.before(since_ms)
        while True:
            page = await self._store.pending(after=after, limit=PAGE)
            for invocation in page:
                if invocation.accepted_at_ms > now_ms - AGE_MIN_MS:
                    continue
                if not self._is_known(invocation.request_id):
                    found += await self._queue(invocation)
            if len(page) < PAGE:
                return found
            after = page[-1].request_id

    async def _queue(self, stale: Invocation) -> bool:
        invocation = await self._store.invocation(stale.namespace, stale.request_id)
        if invocation is None or invocation.state == "done":
            return False
        if self._is_known(invocation.request_id):  # it came meanwhile
            return False
        message = recovered(invocation, self._config.recoveries_max)
        if isinstance(message, Outcome):
            return False
        count("stragglers_found")
        _log.warning("straggler_found", request_id=invocation.request_id)
        self._scheduler.receive(message)
        return True

    def _is_known(self, request_id: str) -> bool:
        return self._scheduler.core.knows(request_id) or request_id in self._collector.unrecorded
