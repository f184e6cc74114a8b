"""What happens now and then: retention, canonical lines, packages nobody needs any more."""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from pratai.clock import now_ms
from pratai.config.schema import Config
from pratai.errors import PrataiError
from pratai.gateway.catalog import Catalog
from pratai.log import CanonicalLog
from pratai.metrics import count
from pratai.packages.directory import Packages
from pratai.store.base import Retention, Store

_log = structlog.get_logger("pratai.upkeep")
#: Time between writes of canonical lines.
CANONICAL_S = 0.2
#: Deleted functions' versions stay readable this long, for what still runs.
DELETED_AGE_MAX_MS = 86_400_000
#: Every how many sweeps packages are cleaned.
PACKAGES_EVERY = 10


class Parts(Protocol):
    """What upkeep needs of a process."""

    config: Config
    store: Store
    catalog: Catalog
    canonical: CanonicalLog


class Upkeep:
    """Runs the periodic work of one process. `sweeps`: whether the store is this one's to sweep.
    `packages`: those that it keeps on disk, if any.
    """

    def __init__(self, parts: Parts, packages: Packages | None, *, sweeps: bool = True) -> None:
        self._parts = parts
        self._packages = packages
        self._sweeps = sweeps
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._write_lines()), loop.create_task(self._sweep())]

    async def stop(self) -> None:
        """End, waiting for what runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _write_lines(self) -> None:
        while True:
            await asyncio.sleep(CANONICAL_S)
            if self._parts.canonical.waiting:
                await asyncio.to_thread(self._parts.canonical.flush)

    async def _sweep(self) -> None:
        store_config = self._parts.config.store
        retention = Retention(
            invocations_age_max_ms=store_config.invocations_age_max_ms,
            dead_age_max_ms=store_config.dead_age_max_ms,
            logs_age_max_ms=store_config.logs_age_max_ms,
            bytes_max=store_config.bytes_max,
        )
        rounds = 0
        while True:
            await asyncio.sleep(store_config.sweep_ms / 1_000)
            rounds += 1
            try:
                if self._sweeps:
                    swept = await self._parts.store.sweep(now_ms(), retention)
                    count("invocations_swept", swept.invocations)
                    count("log_records_swept", swept.logs)
                    await self._parts.catalog.sweep(DELETED_AGE_MAX_MS)
                if self._packages is not None and rounds % PACKAGES_EVERY == 0:
                    await self._clean(self._packages)
            except PrataiError as error:
                _log.warning("sweep_failed", error=error.detail)

    async def _clean(self, packages: Packages) -> None:
        versions = await self._parts.catalog.all_versions_in_use()
        await packages.remove_unused(
            {digest for version in versions for digest in (version.digest, version.layer)}
        )
