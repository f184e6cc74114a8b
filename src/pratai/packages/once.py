"""Work that several ask for at one time and that is done once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

R = TypeVar("R")


class Once(Generic[R]):
    """Runs one task for each key; who asks meanwhile waits for the same one.

    Whoever stops waiting does not stop the task. Bounded by the number of its keys.
    """

    def __init__(self) -> None:
        #: {key: the task that goes on}. Emptied as tasks end.
        self._tasks: dict[str, asyncio.Task[R]] = {}

    def __repr__(self) -> str:
        """How much goes on."""
        return f"<Once [{len(self._tasks)} under way]>"

    async def run(self, key: str, work: Callable[[], Coroutine[Any, Any, R]]) -> R:
        """The result of the key's task, begun now unless it goes on already."""
        task = self._tasks.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(work())
            self._tasks[key] = task
            task.add_done_callback(lambda done: self._ended(key, done))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """End what goes on."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, key: str, task: asyncio.Task[R]) -> None:
        self._tasks.pop(key, None)
        if not task.cancelled():
            # Taken here, as all who waited for it may have gone.
            task.exception()
