"""Making what was written searchable, for readers that must see it. Never on the way of a write.

Elasticsearch refreshes by itself each second. A reader that cannot wait asks for a refresh here;
those who ask at one time share one, and each index is refreshed a few times a second at most.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pratai import clock
from pratai.errors import StoreUnavailable

if TYPE_CHECKING:
    from pratai.store.elasticsearch.connection import Connection

#: Between the end of a refresh and the next one of the same indices.
GAP_US = 50_000


class Refresher:
    """Refreshes indices by name or alias."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: dict[str, asyncio.Task[None]] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._ended_us: dict[str, int] = {}
        #: Written to by this process and not refreshed since.
        self._dirty: set[str] = set()

    def wrote(self, target: str) -> None:
        """Something was written that a reader of this process may ask for."""
        self._dirty.add(target)

    async def show_own(self, target: str) -> None:
        """Return when everything this process wrote before is searchable."""
        if target in self._dirty:
            await self.refresh(target)
        elif (running := self._running.get(target)) is not None and not running.done():
            await asyncio.shield(running)

    async def refresh(self, target: str) -> None:
        """Return when everything written before this call is searchable."""
        waiting = self._waiting.get(target)
        if waiting is None:
            waiting = asyncio.ensure_future(self._run(target))
            self._waiting[target] = waiting
        await asyncio.shield(waiting)

    async def _run(self, target: str) -> None:
        running = self._running.get(target)
        if running is not None:
            await asyncio.wait({running})
        pause_us = self._ended_us.get(target, 0) + GAP_US - clock.monotonic_us()
        if pause_us > 0:
            await asyncio.sleep(pause_us / 1e6)
        # Who asks from here on may have written after this refresh began, and needs the next one.
        self._running[target] = self._waiting.pop(target)
        self._dirty.discard(target)
        try:
            body = await self._connection.ask(
                self._connection.es.indices.refresh(index=target, allow_no_indices=False)
            )
        except BaseException:
            self._dirty.add(target)
            raise
        finally:
            self._ended_us[target] = clock.monotonic_us()
        shards = body["_shards"]
        if shards["failed"]:
            raise StoreUnavailable(
                f"{shards['failed']} of {shards['total']} parts of {target} were not refreshed.",
                next_step="Look at `GET _cluster/health`.",
                retry_after_s=1,
            )
