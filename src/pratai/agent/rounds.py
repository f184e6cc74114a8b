"""Work that is done again and again: at a pace, at once when hurried, and never all of the time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from pratai.clock import monotonic_us
from pratai.errors import PrataiError
from pratai.metrics import count

_log = structlog.get_logger("pratai.agent")
#: The pause after a round is at least so many times as long as the round took.
REST = 20


class Rounds:
    """One kind of work. A round that fails is told and counted; the next one is tried."""

    def __init__(self, name: str, every_ms: int, work: Callable[[], Awaitable[None]]) -> None:
        self._name = name
        self._every_us = every_ms * 1_000
        self._work = work
        self._hurried = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        #: Whether the last round succeeded; False before the first.
        self.succeeded = False

    def start(self) -> None:
        """Begin with a round."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End, in the middle of a round if need be."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def hurry(self) -> None:
        """Begin the next round now."""
        self._hurried.set()

    async def _run(self) -> None:
        while True:
            self._hurried.clear()
            began_us = monotonic_us()
            await self.round()
            took_us = monotonic_us() - began_us
            pause_s = max(self._every_us, REST * took_us) / 1e6
            try:
                await asyncio.wait_for(self._hurried.wait(), pause_s)
            except TimeoutError:
                continue

    async def round(self) -> None:
        """One round, now."""
        succeeded = False
        try:
            await self._work()
        except PrataiError as error:
            count("agent_rounds_failed")
            _log.warning("agent_round_failed", round=self._name, error=error.detail)
        except Exception:  # noqa: BLE001  the boundary of one round: the next one is tried
            count("agent_failures")
            _log.exception("agent_round_failed", round=self._name)
        else:
            succeeded = True
        self.succeeded = succeeded
