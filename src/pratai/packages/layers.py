"""Dependencies of functions as layers: one directory for each set of requirements, made once.

A layer is named by the digest of its requirements, runtime and kind of machine, so the same set
again costs nothing, whichever function asks. It is resolved by uv into a directory of its own and
renamed into place when whole. Several who want the same layer share one run, within this process by
its task and across processes by a lock file.

Only wheels are installed unless `[packages] source_builds` says otherwise: building from source
runs the dependency's own code here, outside any sandbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import sys
from collections.abc import AsyncIterator, Collection, Mapping
from typing import IO

from pratai.config.index import resolver_environment
from pratai.config.schema import Packages as Limits
from pratai.errors import CallerError, InvalidField, PlatformError
from pratai.packages import tree
from pratai.packages.requirements import layer_digest
from pratai.packages.resolver import LayerProgress, OnProgress, Resolver, nobody

#: Resolver runs at one time; further ones wait.
RUNS_MAX = 2
_LOCK_POLL_S = 0.1


class Layers:
    """Makes and keeps layers under `root_dir`.

    `interpreters`: {runtime: its interpreter}; those of this process's Python and of `PATH` are
    found without. `environment`: what the resolver starts with; None = that of this process.
    """

    def __init__(
        self,
        root_dir: str,
        limits: Limits,
        *,
        interpreters: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.root_dir = root_dir
        self._limits = limits
        self._interpreters = dict(interpreters or {})
        self._resolver = Resolver(limits, resolver_environment(environment))
        #: {digest: the run that makes it and those who watch}. Emptied as runs end.
        self._runs: dict[str, tuple[asyncio.Task[None], list[OnProgress]]] = {}
        self._free = asyncio.Semaphore(RUNS_MAX)

    def directory(self, digest: str) -> str:
        """Where a layer lies; "" for the layer of no requirements."""
        return os.path.join(self.root_dir, digest) if digest else ""

    async def ensure(
        self,
        requirements: Collection[str],
        runtime: str,
        on_progress: OnProgress = nobody,
    ) -> str:
        """The digest of the layer that has these requirements, made now if it is not there.

        Raises:
            CallerError: `dependencies_failed`: they cannot be resolved; the detail has why.
            PlatformError: `dependencies_unreachable`: where packages come from does not answer.

        """
        if not requirements:
            return ""
        digest = layer_digest(requirements, runtime)
        final = self.directory(digest)
        if touch(final):
            on_progress(LayerProgress(line="already there", phase="ready"))
            return digest
        interpreter = self.interpreter(runtime)
        run = self._runs.get(digest)
        if run is None:
            watchers: list[OnProgress] = []
            task = asyncio.create_task(
                self._make(digest, sorted(set(requirements)), interpreter, watchers)
            )
            run = self._runs[digest] = (task, watchers)
            task.add_done_callback(lambda done: self._ended(digest, done))
        task, watchers = run
        watchers.append(on_progress)
        try:
            await asyncio.shield(task)
        finally:
            watchers.remove(on_progress)
        return digest

    def interpreter(self, runtime: str) -> str:
        """The Python program of a runtime.

        Raises:
            InvalidField: this machine has no such Python.

        """
        own = f"python{sys.version_info.major}.{sys.version_info.minor}"
        found = self._interpreters.get(runtime) or (
            sys.executable if runtime == own else shutil.which(runtime)
        )
        if not found or not runtime.startswith("python"):
            raise InvalidField(
                f"Dependencies cannot be resolved for the runtime {runtime}: it is not a Python "
                "of this machine.",
                next_step=f"Use {own}, or install {runtime} on the machine of the gateway.",
                field="runtime",
                value=runtime,
                allowed=sorted({own, *self._interpreters}),
            )
        return found

    async def close(self) -> None:
        """End the runs that are going on; nothing of them stays."""
        tasks = [task for task, _ in self._runs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, digest: str, task: asyncio.Task[None]) -> None:
        self._runs.pop(digest, None)
        if not task.cancelled():
            # Taken here, as all who waited for it may have gone.
            task.exception()

    async def _make(
        self,
        digest: str,
        requirements: list[str],
        interpreter: str,
        watchers: list[OnProgress],
    ) -> None:
        def tell(progress: LayerProgress) -> None:
            for watcher in list(watchers):
                watcher(progress)

        limit_ms = self._limits.layer_timeout_ms
        try:
            async with (
                self._free,
                asyncio.timeout(limit_ms / 1000),
                self._locked(digest, tell),
            ):
                await self._make_locked(digest, requirements, interpreter, tell)
        except TimeoutError:
            raise CallerError(
                f"Resolving dependencies took longer than {limit_ms} ms.",
                code="dependencies_failed",
                next_step="Ask for fewer or smaller packages, or raise [packages] "
                "layer_timeout_ms.",
                field="requirements",
            ) from None
        except OSError as error:
            raise PlatformError(
                f"The layer cannot be written: {error}.",
                next_step="See that the data directory is writable and has room.",
            ) from error

    @contextlib.asynccontextmanager
    async def _locked(self, digest: str, tell: OnProgress) -> AsyncIterator[None]:
        """Hold the layer's lock file against other processes of this data directory."""
        path = os.path.join(self.root_dir, f".{digest}.lock")
        with _create(path) as file:
            told = False
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not told:
                        tell(LayerProgress(line="another process makes it", phase="waiting"))
                    told = True
                    await asyncio.sleep(_LOCK_POLL_S)
            try:
                yield
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)

    async def _make_locked(
        self, digest: str, requirements: list[str], interpreter: str, tell: OnProgress
    ) -> None:
        final = self.directory(digest)
        if touch(final):
            tell(LayerProgress(line="made by another process", phase="ready"))
            return
        work = await asyncio.to_thread(tree.begin, self.root_dir)
        try:
            target = os.path.join(work, "layer")
            wanted = os.path.join(work, "requirements.txt")
            await asyncio.to_thread(_write_lines, wanted, requirements)
            await self._resolver.run(wanted, target, interpreter, tell)
            await asyncio.to_thread(finish, target, final)
            tell(LayerProgress(line="ready", phase="ready"))
        finally:
            await asyncio.shield(asyncio.to_thread(tree.remove, work))


def touch(layer: str) -> bool:
    """Whether a layer is there; if so it counts as used now."""
    try:
        os.utime(layer)
    except FileNotFoundError:
        return False
    return True


def _create(path: str) -> IO[bytes]:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return open(path, "wb")


def _write_lines(path: str, lines: list[str]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def finish(target: str, final: str) -> None:
    """Make a layer durable, read-only and visible, in that order."""
    os.makedirs(target, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        # The resolver's own, of no use once it has ended.
        os.unlink(os.path.join(target, ".lock"))
    tree.seal(target)
    os.sync()
    tree.publish(target, final)
