"""Packages and layers in the store, in parts, so that every gateway of a cluster has them.

    package-chunk, layer-chunk   NAME.NNNNN   a part of at most `CHUNK_BYTES`
    package-upload               NAME         somebody writes, or removes, the parts of this name
    package-manifest             DIGEST       written last: all parts are there

A package's name is its digest. A layer's name also has the checksum of its packed form, since two
gateways that resolve the same requirements make trees that differ in a byte here and there; the
manifest written first says which one counts. So a part never changes, and writing it again, by
whomever, does no harm.

Removing: the upload document is set to `removing` first, so that nobody counts on parts that go
away; the manifest goes before its parts, and only if nobody touched it meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Literal

import msgspec
import structlog
from msgspec.structs import replace

from pratai import clock
from pratai.config.schema import Packages as Limits
from pratai.errors import Conflict, PlatformError, StoreUnavailable
from pratai.metrics import count
from pratai.packages import files
from pratai.packages.resolver import LayerProgress, OnProgress, nobody
from pratai.packages.source import (
    Export,
    PackageDamaged,
    PackageUnavailable,
    no_layer,
    no_package,
)
from pratai.store.base import Document, Store

Kind = Literal["package", "layer"]

NAMESPACE = "_system"
MANIFEST, UPLOAD = "package-manifest", "package-upload"
CHUNK_BYTES = 1 << 20
#: Attempts at a write that the store refuses at this moment, and at a compare-and-set.
ATTEMPTS_MAX = 6
#: Times that an upload looks whether a removal of the same package has ended.
REMOVAL_LOOKS_MAX = 40
REMOVAL_LOOK_S = 0.25
#: A removal begun longer ago has died; whoever meets it goes on from there.
REMOVAL_AGE_MAX_MS = 600_000
#: Documents read in one page.
PAGE = 500

_BACKOFF_S = 0.1
_log = structlog.get_logger("pratai.packages")
_encode = msgspec.json.Encoder().encode


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """That a package or layer is whole in the store."""

    digest: str
    kind: Kind
    bytes: int
    chunks: int
    #: Of the package, or of the packed layer.
    sha256: str
    #: Kind of machine that a layer is for.
    machine: str = ""
    #: When a deployment last asked for it.
    used_at_ms: int = 0

    @property
    def name(self) -> str:
        """Names the parts."""
        return self.digest if self.kind == "package" else f"{self.digest}-{self.sha256[:16]}"


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """That parts are being written, or removed."""

    manifest: Manifest
    at_ms: int
    removing: bool = False


class Swept(msgspec.Struct, frozen=True, kw_only=True):
    """What a sweep removed, and what is whole in the store after it."""

    packages: int = 0
    layers: int = 0
    present: frozenset[str] = frozenset()


_decode_manifest = msgspec.json.Decoder(Manifest).decode
_decode_upload = msgspec.json.Decoder(Upload).decode


def is_shared(limits: Limits, store_name: str) -> bool:
    """Whether packages are kept in the store."""
    return limits.shared == "yes" or (limits.shared == "auto" and store_name == "elasticsearch")


class SharedPackages:
    """The packages and layers of a store."""

    def __init__(self, store: Store, limits: Limits) -> None:
        self._store = store
        self._limits = limits

    async def manifest(self, digest: str) -> Manifest | None:
        """What the store has of a digest; None when it is not whole there."""
        document = await self._get(MANIFEST, digest)
        return _decode_manifest(document.body) if document else None

    async def put(self, kind: Kind, export: Export, on_progress: OnProgress = nobody) -> Manifest:
        """Keep a file in the store; durable on return. What is there already is not sent again.

        Raises:
            StoreUnavailable: the store refuses writes. PackageUnavailable: it took too long.

        """
        wanted = Manifest(
            digest=export.digest,
            kind=kind,
            bytes=export.bytes,
            chunks=-(-export.bytes // CHUNK_BYTES),
            sha256=export.sha256,
            machine=export.machine,
        )
        async with self._in_time(f"{kind} {export.digest}"):
            found = await self._touch(export.digest)
            if found is None:
                upload = await self._begin(wanted)
                with files.map_errors():
                    await self._put_chunks(wanted, export.path, on_progress)
                found = await self._publish(wanted)
                await self._end(upload)
        on_progress(_progress(kind, found.chunks, found.chunks))
        return found

    async def get_package(self, digest: str, path: str) -> None:
        """Write a package to a file (`Source`)."""
        document = await self._get(MANIFEST, digest)
        if document is None:
            raise no_package(digest)
        await self._download(document, path)

    async def get_layer(self, digest: str, path: str) -> None:
        """Write a packed layer to a file (`Source`)."""
        document = await self._get(MANIFEST, digest)
        if document is None:
            raise no_layer(digest)
        await self._download(document, path)

    async def remove_unused(self, in_use: Collection[str], before_ms: int) -> Swept:
        """Remove what no version uses and nobody asked for since, and parts of dead uploads."""
        removed: dict[Kind, int] = {"package": 0, "layer": 0}
        present: set[str] = set()
        async for document in self._pages(MANIFEST):
            manifest = _decode_manifest(document.body)
            old = manifest.digest not in in_use and manifest.used_at_ms < before_ms
            if old and await self._remove(manifest, document):
                removed[manifest.kind] += 1
            else:
                present.add(manifest.digest)
        async for document in self._pages(UPLOAD):
            upload = _decode_upload(document.body)
            age_max_ms = before_ms
            if upload.removing:
                age_max_ms = clock.now_ms() - REMOVAL_AGE_MAX_MS
            if upload.at_ms < age_max_ms:
                await self._clean_up(upload, document)
        return Swept(
            packages=removed["package"], layers=removed["layer"], present=frozenset(present)
        )

    # writing

    async def _touch(self, digest: str) -> Manifest | None:
        """Say that a package is wanted, so that no sweep takes it; None when it is not there."""
        for _ in range(ATTEMPTS_MAX):
            document = await self._get(MANIFEST, digest)
            if document is None:
                return None
            manifest = replace(_decode_manifest(document.body), used_at_ms=clock.now_ms())
            try:
                await self._store.put(replace(document, body=_encode(manifest)))
            except Conflict:
                continue
            return manifest
        raise _busy(digest)

    async def _begin(self, wanted: Manifest) -> Document:
        """Announce an upload, after a removal of the same name has ended."""
        for _ in range(REMOVAL_LOOKS_MAX):
            document = await self._get(UPLOAD, wanted.name)
            if document is not None:
                there = _decode_upload(document.body)
                if there.removing and there.at_ms > clock.now_ms() - REMOVAL_AGE_MAX_MS:
                    await asyncio.sleep(REMOVAL_LOOK_S)
                    continue
            try:
                return await self._put_upload(wanted, document)
            except Conflict:
                await asyncio.sleep(0)
        raise _busy(wanted.digest)

    async def _put_upload(
        self, manifest: Manifest, before: Document | None, *, removing: bool = False
    ) -> Document:
        upload = Upload(manifest=manifest, at_ms=clock.now_ms(), removing=removing)
        document = Document(
            kind=UPLOAD,
            namespace=NAMESPACE,
            id=manifest.name,
            body=_encode(upload),
            revision=before.revision if before else 0,
        )
        return replace(document, revision=await self._store.put(document))

    async def _put_chunks(self, wanted: Manifest, path: str, tell: OnProgress) -> None:
        done = 0

        async def put(number: int) -> None:
            nonlocal done
            data = await asyncio.to_thread(files.read_at, path, number * CHUNK_BYTES, CHUNK_BYTES)
            await _tried(lambda: self._put_chunk(_chunk(wanted, number, data)))
            done += 1
            tell(_progress(wanted.kind, done, wanted.chunks))

        await _several(wanted.chunks, self._limits.shared_writes_max, put)

    async def _put_chunk(self, chunk: Document) -> None:
        """Write a part. One that is there already must be the same, or it is replaced."""
        try:
            await self._store.put(chunk)
        except Conflict:
            there = await self._get(chunk.kind, chunk.id)
            if there is None or there.body != chunk.body:
                revision = there.revision if there else 0
                await self._store.put(replace(chunk, revision=revision))

    async def _publish(self, wanted: Manifest) -> Manifest:
        """Say that all parts are there; who said it first is right."""
        manifest = replace(wanted, used_at_ms=clock.now_ms())
        document = Document(
            kind=MANIFEST, namespace=NAMESPACE, id=manifest.digest, body=_encode(manifest)
        )
        try:
            await self._store.put(document)
        except Conflict:
            found = await self._touch(wanted.digest)
            if found is None:
                raise _busy(wanted.digest) from None
            return found
        return manifest

    async def _end(self, upload: Document) -> None:
        with contextlib.suppress(Conflict):  # another upload of it goes on, and ends it
            await self._store.delete(upload)

    # reading

    async def _download(self, document: Document, path: str) -> None:
        manifest = _decode_manifest(document.body)

        async def get(number: int) -> None:
            found = await self._get(_chunk_kind(manifest), _chunk_id(manifest, number))
            if found is None or len(found.body) != _chunk_bytes(manifest, number):
                raise _damaged(manifest)
            await asyncio.to_thread(files.write_at, path, number * CHUNK_BYTES, found.body)

        try:
            async with self._in_time(f"{manifest.kind} {manifest.digest}"):
                await _several(
                    manifest.chunks,
                    self._limits.shared_writes_max,
                    lambda number: _tried(lambda: get(number)),
                )
                if await asyncio.to_thread(files.sha256_of, path) != manifest.sha256:
                    raise _damaged(manifest)
        except PackageDamaged:
            await self._discredit(document)
            raise

    async def _discredit(self, document: Document) -> None:
        """Take back that it is whole, so that whoever still has it writes it anew."""
        count("shared_packages_damaged")
        _log.error("shared_package_damaged", digest=document.id)
        with contextlib.suppress(Conflict):
            await self._store.delete(document)

    # removing

    async def _remove(self, manifest: Manifest, document: Document) -> bool:
        """Remove a package unless somebody wants it meanwhile."""
        before = await self._get(UPLOAD, manifest.name)
        try:
            upload = await self._put_upload(manifest, before, removing=True)
        except Conflict:
            return False
        try:
            await self._store.delete(document)
        except Conflict:
            await self._end(upload)
            return False
        await self._delete_chunks(manifest)
        await self._end(upload)
        return True

    async def _clean_up(self, upload: Upload, document: Document) -> None:
        """End an upload or removal that died."""
        manifest = await self.manifest(upload.manifest.digest)
        if manifest is None or manifest.name != upload.manifest.name:
            try:
                document = await self._put_upload(upload.manifest, document, removing=True)
            except Conflict:
                return
            await self._delete_chunks(upload.manifest)
        await self._end(document)

    async def _delete_chunks(self, manifest: Manifest) -> None:
        async def delete(number: int) -> None:
            await self._store.delete(_chunk(manifest, number, b""))

        await _several(manifest.chunks, self._limits.shared_writes_max, delete)

    # both

    async def _get(self, kind: str, name: str) -> Document | None:
        return await self._store.get(kind, NAMESPACE, name)

    async def _pages(self, kind: str) -> AsyncIterator[Document]:
        after = ""
        while True:
            page = await self._store.documents(kind, NAMESPACE, after=after, limit=PAGE)
            for document in page:
                yield document
            if len(page) < PAGE:
                return
            after = page[-1].id

    @contextlib.asynccontextmanager
    async def _in_time(self, what: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._limits.shared_timeout_ms / 1000):
                yield
        except TimeoutError:
            raise PackageUnavailable(
                f"Moving {what} to or from the store took longer than "
                f"{self._limits.shared_timeout_ms} ms.",
                next_step="See how the store is, or raise [packages] shared_timeout_ms.",
            ) from None


def _chunk(manifest: Manifest, number: int, data: bytes) -> Document:
    return Document(
        kind=_chunk_kind(manifest), namespace=NAMESPACE, id=_chunk_id(manifest, number), body=data
    )


def _chunk_kind(manifest: Manifest) -> str:
    return f"{manifest.kind}-chunk"


def _chunk_id(manifest: Manifest, number: int) -> str:
    return f"{manifest.name}.{number:05d}"


def _chunk_bytes(manifest: Manifest, number: int) -> int:
    return min(CHUNK_BYTES, manifest.bytes - number * CHUNK_BYTES)


def _progress(kind: Kind, done: int, total: int) -> LayerProgress:
    line = f"{kind}: {done} of {total} MiB in the store"
    return LayerProgress(line=line, phase="sharing", done=done, total=total)


def _damaged(manifest: Manifest) -> PackageDamaged:
    return PackageDamaged(
        f"What the store has of {manifest.kind} {manifest.digest} is damaged.",
        next_step="Deploy the function again.",
    )


def _busy(digest: str) -> PlatformError:
    return PackageUnavailable(
        f"{digest} is being written and removed in the store at this moment.",
        next_step="Deploy again in a moment.",
    )


async def _tried(work: Callable[[], Awaitable[None]]) -> None:
    """Do it again, a few times and more slowly, while the store is away or overtaken."""
    for attempt in range(ATTEMPTS_MAX - 1):
        try:
            return await work()
        except (StoreUnavailable, Conflict):
            await asyncio.sleep(_BACKOFF_S * 2**attempt)
    return await work()


async def _several(total: int, at_once: int, work: Callable[[int], Awaitable[None]]) -> None:
    """Do the work for each number below `total`, so many at one time; the first error ends all."""
    numbers = iter(range(total))

    async def some() -> None:
        for number in numbers:
            await work(number)

    tasks = [asyncio.ensure_future(some()) for _ in range(min(at_once, total))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
