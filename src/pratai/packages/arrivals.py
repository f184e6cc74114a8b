"""Packages and layers that come from elsewhere: taken in, compared, given their place.

One run for each digest, whoever asks. What came is used only once it is whole on this disk. A layer
leaves its checksums in `sums/<digest>`, so that a later process can tell whether it still is.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import msgspec

from pratai.config.schema import Packages as Limits
from pratai.packages import files, layers, tarball, tree
from pratai.packages.once import Once
from pratai.packages.source import PackageDamaged, Source, no_layer, no_package

R = TypeVar("R")

_Sums = dict[str, tuple[int, int]]
_decode_sums = msgspec.msgpack.Decoder(_Sums).decode


class Threads(Protocol):
    """Runs blocking work off the loop."""

    async def __call__(self, work: Callable[..., R], *args: Any) -> R:
        """The work's result."""
        ...


class Arrivals:
    """Brings what is missing from a source; without one, nothing is ever there."""

    def __init__(
        self,
        data_dir: str,
        limits: Limits,
        *,
        source: Source | None,
        in_thread: Threads,
    ) -> None:
        self._saved_dir = os.path.join(data_dir, "packages")
        self._layers_dir = os.path.join(data_dir, "layers")
        self.sums_dir = os.path.join(data_dir, "sums")
        self._limits = limits
        self.source = source
        self._in_thread = in_thread
        self._packages = Once[None]()
        self._layers = Once[None]()
        #: Digests of layers that were compared with their checksums by this process.
        self._verified: set[str] = set()

    async def close(self) -> None:
        """End what is on its way."""
        await self._packages.close()
        await self._layers.close()

    async def package(self, digest: str) -> None:
        """Have a package in its place, in place of a damaged one if need be.

        Raises:
            NotFound: it is nowhere. PlatformError: it cannot be had now, or is damaged.

        """
        if self.source is None:
            raise no_package(digest)
        await self._packages.run(digest, lambda: self._bring_package(digest))

    async def layer(self, digest: str) -> str:
        """The directory of a layer that is there, or is brought now; as `package` raises."""
        path = os.path.join(self._layers_dir, digest)
        if digest not in self._verified or not await asyncio.to_thread(os.path.isdir, path):
            await self._layers.run(digest, lambda: self._have_layer(digest, path))
        return path

    def forget(self, digest: str) -> None:
        """Remove what was kept of a layer beside its directory. Blocking."""
        self._verified.discard(digest)
        files.discard(os.path.join(self.sums_dir, digest))

    async def _bring_package(self, digest: str) -> None:
        assert self.source is not None
        made = await self._in_thread(files.begin, self._saved_dir)
        try:
            with files.map_errors():
                await self.source.get_package(digest, made)
            await self._in_thread(self._keep_package, made, digest)
        finally:
            await asyncio.shield(asyncio.to_thread(files.discard, made))

    def _keep_package(self, made: str, digest: str) -> None:
        if files.sha256_of(made) != digest:
            raise PackageDamaged(
                f"What came as package {digest} is another file.",
                next_step="Deploy the function again.",
            )
        files.keep(made, os.path.join(self._saved_dir, digest))

    async def _have_layer(self, digest: str, path: str) -> None:
        if not await self._in_thread(self._is_whole, digest, path):
            if self.source is None:
                raise no_layer(digest)
            made = await self._in_thread(files.begin, self._layers_dir)
            try:
                with files.map_errors():
                    await self.source.get_layer(digest, made)
                await self._in_thread(self._keep_layer, made, digest, path)
            finally:
                await asyncio.shield(asyncio.to_thread(files.discard, made))
        self._verified.add(digest)

    def _is_whole(self, digest: str, path: str) -> bool:
        """Whether a layer is there and is what came; one that was made here is taken as it is."""
        if not layers.touch(path):
            return False
        sums = os.path.join(self.sums_dir, digest)
        try:
            with open(sums, "rb") as file:
                expected = _decode_sums(file.read())
        except FileNotFoundError:
            return True
        except msgspec.DecodeError:
            expected = {}
        if expected == tarball.sums_of(path):
            os.utime(sums)
            return True
        if self.source is not None:
            tree.remove(path)
            files.discard(sums)
        return self.source is None

    def _keep_layer(self, made: str, digest: str, path: str) -> None:
        work = tree.begin(self._layers_dir)
        try:
            target = os.path.join(work, "layer")
            os.mkdir(target)
            sums = tarball.unpack(made, target, self._limits)
            encoded = msgspec.msgpack.encode(sums)
            files.write_durably(os.path.join(self.sums_dir, digest), encoded)
            layers.finish(target, path)
        finally:
            tree.remove(work)
