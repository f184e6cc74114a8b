"""Packages and layers as files that can be sent: to the store, and to nodes.

A layer is packed once into `packed/<digest>.<sha256>`, kept while it is asked for, and removed by
the sweep an hour after.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

from pratai.config.schema import Packages as Limits
from pratai.packages import files, tarball
from pratai.packages.arrivals import Arrivals, Threads
from pratai.packages.once import Once
from pratai.packages.requirements import machine_kind
from pratai.packages.source import Export, no_layer

#: {digest: kind of machine} remembered; the oldest is forgotten beyond it.
MACHINES_MAX = 10_000


class Exports:
    """Gives out files. `machine_of`: the kind of machine of a layer that was not made here."""

    def __init__(
        self,
        data_dir: str,
        limits: Limits,
        *,
        arrivals: Arrivals,
        in_thread: Threads,
        machine_of: Callable[[str], Awaitable[str]] | None = None,
    ) -> None:
        self._saved_dir = os.path.join(data_dir, "packages")
        self._layers_dir = os.path.join(data_dir, "layers")
        self.packed_dir = os.path.join(data_dir, "packed")
        self._limits = limits
        self._arrivals = arrivals
        self._in_thread = in_thread
        self._machine_of = machine_of
        self._packing = Once[Export]()
        #: {digest: kind of machine}. At most `MACHINES_MAX`.
        self._machines: dict[str, str] = {}

    async def close(self) -> None:
        """End what is being packed."""
        await self._packing.close()

    async def package(self, digest: str) -> Export:
        """A package as a file. Raises `NotFound`, `PlatformError`."""
        path = os.path.join(self._saved_dir, digest)
        if not await self._in_thread(os.path.isfile, path):
            await self._arrivals.package(digest)
        size = await self._in_thread(os.path.getsize, path)
        return Export(digest=digest, path=path, bytes=size, sha256=digest)

    async def layer(self, digest: str) -> Export:
        """A layer, packed, as a file. Raises `NotFound`, `PlatformError`."""
        found = await self._in_thread(self._packed, digest)
        if found is None:
            found = await self._packing.run(digest, lambda: self._pack(digest))
        return Export(
            digest=digest,
            path=found.path,
            bytes=found.bytes,
            sha256=found.sha256,
            machine=await self.machine(digest),
        )

    async def machine(self, digest: str) -> str:
        """The kind of machine that a layer is for."""
        found = self._machines.get(digest, "")
        if not found and self._machine_of is not None:
            found = await self._machine_of(digest)
            if found:
                while len(self._machines) >= MACHINES_MAX:
                    del self._machines[next(iter(self._machines))]
                self._machines[digest] = found
        return found or machine_kind()

    async def damaged(self, export: Export) -> None:
        """A file was not what it should be: have it made or brought again at the next wish."""
        if export.path.startswith(self.packed_dir) or self._arrivals.source is not None:
            await self._in_thread(files.discard, export.path)

    async def _pack(self, digest: str) -> Export:
        if not await self._in_thread(os.path.isdir, os.path.join(self._layers_dir, digest)):
            if self._arrivals.source is None:
                raise no_layer(digest)
            return await self._bring(digest)
        return await self._in_thread(self._pack_tree, digest)

    async def _bring(self, digest: str) -> Export:
        """Take the packed form from the source; its tree is not needed to send it on."""
        assert self._arrivals.source is not None
        made = await self._in_thread(files.begin, self.packed_dir)
        try:
            with files.map_errors():
                await self._arrivals.source.get_layer(digest, made)
            sha256 = await self._in_thread(files.sha256_of, made)
            return await self._in_thread(self._keep, made, digest, sha256)
        finally:
            await self._in_thread(files.discard, made)

    def _pack_tree(self, digest: str) -> Export:
        made = files.begin(self.packed_dir)
        try:
            sha256 = tarball.pack(os.path.join(self._layers_dir, digest), made, self._limits)
            return self._keep(made, digest, sha256)
        finally:
            files.discard(made)

    def _keep(self, made: str, digest: str, sha256: str) -> Export:
        path = os.path.join(self.packed_dir, f"{digest}.{sha256}")
        files.keep(made, path)
        return Export(digest=digest, path=path, bytes=os.path.getsize(path), sha256=sha256)

    def _packed(self, digest: str) -> Export | None:
        """The packed form that is there; it counts as used now."""
        if not os.path.isdir(self.packed_dir):
            return None
        for entry in os.scandir(self.packed_dir):
            if entry.name.startswith(f"{digest}."):
                os.utime(entry.path)
                sha256 = entry.name.partition(".")[2]
                size = entry.stat().st_size
                return Export(digest=digest, path=entry.path, bytes=size, sha256=sha256)
        return None
