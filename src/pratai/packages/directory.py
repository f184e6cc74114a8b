"""Where packages and layers lie, and the whole way of an upload: saved, checked, made ready.

    packages/<sha256>   the upload, byte for byte; the truth
    unpacked/<sha256>/  its files, read-only; can be made again at any time
    layers/<digest>/    dependencies (`layers.py`)
    sums/, packed/      of layers that came from elsewhere; layers ready to be sent (`exports.py`)

What is not here comes from the source, if there is one: on a gateway of a cluster the store, which
also gets every upload before its version is written; on a node the gateways.

Every file appears whole (written aside, synced, renamed), so a crash leaves nothing half. File work
runs in threads of its own, a bounded number.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import msgspec
import structlog

from pratai import clock
from pratai.config.schema import Packages as Limits
from pratai.errors import NotFound, PlatformError
from pratai.model.function import FunctionConfig
from pratai.model.validation import parse_config
from pratai.packages import archive, files, tree
from pratai.packages.arrivals import Arrivals
from pratai.packages.exports import Exports
from pratai.packages.handler import check_handler
from pratai.packages.inspection import inspect_code
from pratai.packages.layers import Layers
from pratai.packages.once import Once
from pratai.packages.requirements import layer_digest
from pratai.packages.resolver import OnProgress, nobody
from pratai.packages.shared import SharedPackages
from pratai.packages.source import PackageDamaged, Source, no_package

THREADS_MAX = 4
#: What was touched within this time is never removed: its version may not be recorded yet.
UNUSED_AGE_MIN_MS = 3_600_000
#: Packages and layers put into the store by one sweep because they were not there.
MENDED_MAX = 100

_DIGEST = re.compile(r"[0-9a-f]{64}")

_log = structlog.get_logger("pratai.packages")

P = ParamSpec("P")
R = TypeVar("R")


class SavedPackage(msgspec.Struct, frozen=True, kw_only=True):
    """A package that is on disk."""

    digest: str
    bytes: int
    kind: archive.Kind


class Inspected(msgspec.Struct, frozen=True, kw_only=True):
    """All that a version takes from its package."""

    digest: str
    package_bytes: int
    #: Digest of the dependency layer; "" for none.
    layer: str
    #: Complete: runtime and handler are set.
    config: FunctionConfig


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """What a sweep took away."""

    packages: int = 0
    layers: int = 0


class Packages:
    """The packages and layers of a data directory.

    `runtimes`: names of the runtimes there are, the usual one first; None = the Python that runs
    this. `interpreters` and `environment`: as of `Layers`. `shared`: the store keeps packages too.
    `source`: where else missing ones come from.
    """

    def __init__(
        self,
        data_dir: str,
        limits: Limits,
        *,
        runtimes: Sequence[str] | None = None,
        interpreters: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        shared: SharedPackages | None = None,
        source: Source | None = None,
    ) -> None:
        self._saved_dir = os.path.join(data_dir, "packages")
        self._unpacked_dir = os.path.join(data_dir, "unpacked")
        self._limits = limits
        own = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.runtimes = list(runtimes) if runtimes else [own]
        self.layers = Layers(
            os.path.join(data_dir, "layers"),
            limits,
            interpreters=interpreters,
            environment=environment,
        )
        self._threads = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="packages")
        self._shared = shared
        self._arrivals = Arrivals(
            data_dir, limits, source=shared or source, in_thread=self._in_thread
        )
        #: Packages and layers as files, for the store and for nodes.
        self.exports = Exports(
            data_dir,
            limits,
            arrivals=self._arrivals,
            in_thread=self._in_thread,
            machine_of=self._machine_of if shared else None,
        )
        self._unpacking = Once[str]()
        #: Digests whose directory was compared with the package by this process.
        self._verified: set[str] = set()

    async def close(self) -> None:
        """End layers being made and wait for file work that goes on."""
        await self.layers.close()
        await self._unpacking.close()
        await self.exports.close()
        await self._arrivals.close()
        await asyncio.to_thread(self._threads.shutdown, wait=True, cancel_futures=True)

    async def save(self, data: bytes) -> SavedPackage:
        """Check an upload's outside and keep it durably; the same bytes are kept once.

        Raises:
            InvalidField: it is not a package. PayloadTooLarge: it is above the limits.

        """
        return await self._in_thread(self._save, data)

    async def read(self, digest: str) -> bytes:
        """A package as it was uploaded.

        Raises:
            NotFound: there is none of this digest. PlatformError: it cannot be had now.

        """
        return await self._whole(self._read, digest)

    async def code_dir(self, digest: str) -> str:
        """The directory of a package's files, unpacked now if it is not there or not whole.

        Raises:
            NotFound: there is no such package. InvalidField: it cannot be unpacked.
            PlatformError: it cannot be had now, or is damaged.

        """
        path = os.path.join(self._unpacked_dir, digest)
        if digest in self._verified and _is_folder(path):
            return path
        path = await self._unpacking.run(digest, lambda: self._whole(self._unpack, digest))
        self._verified.add(digest)
        return path

    async def layer(self, digest: str) -> str:
        """The directory of a layer, brought now if it is not there; "" for no requirements.

        Raises:
            NotFound: there is no such layer. PlatformError: it cannot be had now.

        """
        return await self._arrivals.layer(digest) if digest else ""

    def layer_dir(self, digest: str) -> str:
        """Where a layer lies once it is there; "" for the layer of no requirements."""
        return self.layers.directory(digest)

    async def inspect_package(
        self,
        data: bytes,
        config_given: Mapping[str, object],
        previous: FunctionConfig | None = None,
        on_progress: OnProgress = nobody,
    ) -> Inspected:
        """Take an upload all the way: saved, checked, configured, its dependencies there.

        Raises:
            InvalidField: the package or its configuration is wrong.
            CallerError: its dependencies cannot be resolved.
            PlatformError: the disk or the place of packages fails.

        """
        parse_config(config_given, previous, runtimes=self.runtimes)
        digest = (await self.save(data)).digest
        return await self._inspect(digest, config_given, previous, on_progress, same=False)

    async def inspect_saved(
        self,
        digest: str,
        config_given: Mapping[str, object],
        previous: FunctionConfig | None = None,
        on_progress: OnProgress = nobody,
    ) -> Inspected:
        """The same where the package stays and only its configuration changes."""
        return await self._inspect(digest, config_given, previous, on_progress, same=True)

    async def remove_unused(self, in_use: Collection[str]) -> Removed:
        """Remove packages and layers whose digest is not in use, and what a crash left behind.

        What is young stays whatever `in_use` says, as a deployment may be on its way. Where the
        store keeps packages too, the same goes for it, and what is used, here and not there is put
        there.
        """
        used = frozenset(in_use)
        before_ms = clock.now_ms() - max(UNUSED_AGE_MIN_MS, 2 * self._limits.layer_timeout_ms)
        removed = await self._in_thread(self._remove_unused, used, before_ms)
        if self._shared is not None:
            swept = await self._shared.remove_unused(used, before_ms)
            await self._mend(used - swept.present)
        return removed

    async def remove(self, digest: str) -> None:
        """Remove a package or layer from this disk."""
        await self._in_thread(self._remove, digest)

    async def _inspect(
        self,
        digest: str,
        given: Mapping[str, object],
        previous: FunctionConfig | None,
        on_progress: OnProgress,
        *,
        same: bool,
    ) -> Inspected:
        code_dir = await self.code_dir(digest)
        data = await self.read(digest)
        listed = await self._in_thread(archive.listing, data, self._limits)
        found = await self._in_thread(
            lambda: inspect_code(
                code_dir,
                listed,
                given,
                previous=previous,
                runtimes=self.runtimes,
                same_package=same,
            )
        )
        runtime = found.config.runtime
        layer = await self._ensure_layer(found.requirements, runtime, on_progress)
        if found.handler_in_layer:
            roots = [code_dir, self.layer_dir(layer)]
            await self._in_thread(check_handler, roots, found.config.handler)
        await self._share(digest, layer, on_progress)
        return Inspected(digest=digest, package_bytes=len(data), layer=layer, config=found.config)

    async def _ensure_layer(
        self, requirements: Sequence[str], runtime: str, on_progress: OnProgress
    ) -> str:
        """The digest of a layer that is there, brought or made now."""
        if requirements and self._arrivals.source is not None:
            with contextlib.suppress(NotFound, PackageDamaged):  # then it is made below
                await self.layer(layer_digest(requirements, runtime))
        return await self.layers.ensure(requirements, runtime, on_progress)

    async def _share(self, digest: str, layer: str, on_progress: OnProgress) -> None:
        """Have the store keep them, where it is to."""
        if self._shared is not None:
            await self._shared.put("package", await self.exports.package(digest), on_progress)
            if layer:
                await self._shared.put("layer", await self.exports.layer(layer), on_progress)

    async def _mend(self, missing: frozenset[str]) -> None:
        """Put into the store what is used and here, a bounded number at a time."""
        assert self._shared is not None
        for digest in sorted(missing)[:MENDED_MAX]:
            try:
                if await self._in_thread(_is_file, os.path.join(self._saved_dir, digest)):
                    await self._in_thread(self._read, digest)
                    await self._shared.put("package", await self.exports.package(digest))
                elif digest != "" and await self._in_thread(_is_folder, self.layer_dir(digest)):
                    await self._shared.put("layer", await self.exports.layer(digest))
            except PackageDamaged as error:
                _log.error("package_damaged", digest=digest, error=error.detail)

    async def _machine_of(self, digest: str) -> str:
        assert self._shared is not None
        manifest = await self._shared.manifest(digest)
        return manifest.machine if manifest else ""

    async def _whole(self, work: Callable[[str], R], digest: str) -> R:
        """Work on a package's file, after bringing it when it is missing or damaged."""
        try:
            return await self._in_thread(work, digest)
        except (NotFound, PackageDamaged):
            if self._arrivals.source is None or not _DIGEST.fullmatch(digest):
                raise
        await self._arrivals.package(digest)
        return await self._in_thread(work, digest)

    async def _in_thread(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        loop = asyncio.get_running_loop()
        with files.map_errors():
            return await loop.run_in_executor(self._threads, lambda: work(*args, **kwargs))

    def _save(self, data: bytes) -> SavedPackage:
        kind = archive.listing(data, self._limits).kind
        digest = hashlib.sha256(data).hexdigest()
        path = os.path.join(self._saved_dir, digest)
        try:
            self._read(digest)
            os.utime(path)
        except (NotFound, PlatformError, FileNotFoundError):
            files.write_durably(path, data)
        return SavedPackage(digest=digest, bytes=len(data), kind=kind)

    def _read(self, digest: str) -> bytes:
        if not _DIGEST.fullmatch(digest):
            raise no_package(digest)
        path = os.path.join(self._saved_dir, digest)
        try:
            with open(path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            raise no_package(digest) from None
        if hashlib.sha256(data).hexdigest() != digest:
            raise PackageDamaged(
                f"The file of package {digest} has changed on disk.",
                next_step="Deploy the function again.",
            )
        return data

    def _unpack(self, digest: str) -> str:
        data = self._read(digest)
        listed = archive.listing(data, self._limits)
        final = os.path.join(self._unpacked_dir, digest)
        if os.path.isdir(final):
            if archive.matches(listed, final):
                return final
            tree.remove(final)
        made = tree.begin(self._unpacked_dir)
        try:
            archive.unpack(data, listed, made, self._limits)
            tree.publish(made, final)
        finally:
            tree.remove(made)
        return final

    def _remove(self, digest: str) -> None:
        self._verified.discard(digest)
        files.discard(os.path.join(self._saved_dir, digest))
        tree.remove(os.path.join(self._unpacked_dir, digest))
        tree.remove(os.path.join(self.layers.root_dir, digest))
        self._arrivals.forget(digest)

    def _remove_unused(self, in_use: frozenset[str], before_ms: int) -> Removed:
        packages = 0
        for name in _older(self._saved_dir, before_ms, in_use):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self._saved_dir, name))
            packages += bool(_DIGEST.fullmatch(name))
        for name in _older(self._unpacked_dir, before_ms, in_use):
            self._verified.discard(name)
            tree.remove(os.path.join(self._unpacked_dir, name))
        layers = 0
        for name in _older(self.layers.root_dir, before_ms, in_use):
            path = os.path.join(self.layers.root_dir, name)
            if os.path.isdir(path):
                tree.remove(path)
                layers += bool(_DIGEST.fullmatch(name))
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
        for name in _older(self._arrivals.sums_dir, before_ms, in_use):
            self._arrivals.forget(name)
        for name in _older(self.exports.packed_dir, before_ms, frozenset()):
            files.discard(os.path.join(self.exports.packed_dir, name))
        return Removed(packages=packages, layers=layers)


def _is_folder(path: str) -> bool:
    return os.path.isdir(path)


def _is_file(path: str) -> bool:
    return os.path.isfile(path)


def _older(folder: str, before_ms: int, in_use: frozenset[str]) -> list[str]:
    """Entries that nobody uses and that were not touched since."""
    if not os.path.isdir(folder):
        return []
    old: list[str] = []
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):
            if entry.name not in in_use and entry.stat().st_mtime * 1000 < before_ms:
                old.append(entry.name)
    return old
