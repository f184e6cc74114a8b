"""Packages and layers in a store that several gateways share, over every store there is."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pratai import clock
from pratai.config import schema
from pratai.config.schema import Packages as Limits
from pratai.errors import NotFound, PlatformError, StoreUnavailable
from pratai.packages.directory import Packages
from pratai.packages.requirements import layer_digest, machine_kind
from pratai.packages.resolver import LayerProgress
from pratai.packages.shared import (
    CHUNK_BYTES,
    MANIFEST,
    NAMESPACE,
    UPLOAD,
    SharedPackages,
    is_shared,
)
from pratai.packages.source import Export, PackageDamaged
from pratai.store.base import Document, Store
from pratai.store.elasticsearch import ElasticsearchStore
from pratai.store.memory import MemoryStore
from pratai.store.sqlite import SqliteStore

RUNTIME = f"python{sys.version_info.major}.{sys.version_info.minor}"
CODE = b"def main(payload):\n    return payload\n"
SIX = b'# /// script\n# dependencies = ["six==1.17.0"]\n# ///\nimport six\n' + CODE
MANY = random.Random(7).randbytes(5 * CHUNK_BYTES + 321)
LATER_MS = 10**9

#: The HTTP client of Elasticsearch's library says so of any body above 1 MiB.
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")

Scenario = Callable[[Store, Path], Awaitable[None]]


@pytest.fixture(params=["memory", "sqlite", "elasticsearch"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    config = schema.Store()
    if request.param == "memory":
        return MemoryStore(config)
    if request.param == "elasticsearch":
        return ElasticsearchStore(request.getfixturevalue("elasticsearch_settings"), config)
    return SqliteStore(str(tmp_path / "pratai.db"), config)


def over_each_store(scenario: Scenario) -> Callable[[Store, Path], None]:
    async def within(store: Store, tmp_path: Path) -> None:
        await store.open()
        try:
            await scenario(store, tmp_path)
        finally:
            await store.close()

    def test(store: Store, tmp_path: Path) -> None:
        asyncio.run(asyncio.wait_for(within(store, tmp_path), 60))

    test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
    return test


class Watched:
    """A store whose document calls a test can watch and hinder."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.puts: list[str] = []
        self.before_put: Callable[[Document], None] = lambda _: None
        self.open_puts = self.open_puts_max = 0

    async def put(self, document: Document) -> int:
        self.before_put(document)
        self.puts.append(f"{document.kind}/{document.id}")
        self.open_puts += 1
        self.open_puts_max = max(self.open_puts_max, self.open_puts)
        try:
            await asyncio.sleep(0)
            return await self._store.put(document)
        finally:
            self.open_puts -= 1

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


def file_of(folder: Path, data: bytes, name: str = "upload") -> Export:
    path = folder / name
    path.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    return Export(digest=digest, path=str(path), bytes=len(data), sha256=digest)


async def download(shared: SharedPackages, digest: str, folder: Path) -> bytes:
    path = folder / "download"
    path.write_bytes(b"")
    await shared.get_package(digest, str(path))
    return path.read_bytes()


async def ids_of(store: Store, kind: str) -> list[str]:
    return [one.id for one in await store.documents(kind, NAMESPACE, limit=100)]


@asynccontextmanager
async def gateway(store: Store, data_dir: Path) -> AsyncIterator[Packages]:
    packages = Packages(str(data_dir), Limits(), shared=SharedPackages(store, Limits()))
    try:
        yield packages
    finally:
        await packages.close()


# The store's side


@over_each_store
async def test_a_package_of_many_parts_comes_back_byte_for_byte(
    store: Store, tmp_path: Path
) -> None:
    shared, export = SharedPackages(store, Limits()), file_of(tmp_path, MANY)

    manifest = await shared.put("package", export)

    assert (6, len(MANY), export.digest) == (manifest.chunks, manifest.bytes, manifest.sha256)
    assert [f"{export.digest}.{number:05d}" for number in range(6)] == await ids_of(
        store, "package-chunk"
    )
    assert await download(shared, export.digest, tmp_path) == MANY
    assert await ids_of(store, UPLOAD) == []


@over_each_store
async def test_a_package_of_exactly_one_part_has_one(store: Store, tmp_path: Path) -> None:
    shared, export = SharedPackages(store, Limits()), file_of(tmp_path, MANY[:CHUNK_BYTES])

    assert (await shared.put("package", export)).chunks == 1
    assert await download(shared, export.digest, tmp_path) == MANY[:CHUNK_BYTES]


@over_each_store
async def test_the_manifest_is_written_after_every_part(store: Store, tmp_path: Path) -> None:
    watched = Watched(store)
    export = file_of(tmp_path, MANY)

    await SharedPackages(watched, Limits()).put("package", export)  # type: ignore[arg-type]

    assert watched.puts[0] == f"{UPLOAD}/{export.digest}"
    assert watched.puts[-1] == f"{MANIFEST}/{export.digest}"
    assert len(watched.puts) == 8


@over_each_store
async def test_no_more_parts_are_under_way_than_allowed(store: Store, tmp_path: Path) -> None:
    watched = Watched(store)
    limits = Limits(shared_writes_max=2)

    await SharedPackages(watched, limits).put("package", file_of(tmp_path, MANY))  # type: ignore[arg-type]

    assert 0 < watched.open_puts_max <= 2


@over_each_store
async def test_the_same_package_again_is_not_sent_again(store: Store, tmp_path: Path) -> None:
    watched = Watched(store)
    shared = SharedPackages(watched, Limits())  # type: ignore[arg-type]
    first = await shared.put("package", file_of(tmp_path, MANY))
    watched.puts.clear()

    again = await shared.put("package", file_of(tmp_path, MANY))

    assert watched.puts == [f"{MANIFEST}/{first.digest}"]
    assert again.used_at_ms >= first.used_at_ms


@over_each_store
async def test_gateways_may_upload_one_package_at_one_time(store: Store, tmp_path: Path) -> None:
    export = file_of(tmp_path, MANY)
    gateways = [SharedPackages(store, Limits()) for _ in range(4)]

    manifests = await asyncio.gather(*(one.put("package", export) for one in gateways))

    assert {manifest.sha256 for manifest in manifests} == {export.digest}
    assert await download(gateways[0], export.digest, tmp_path) == MANY
    assert await ids_of(store, UPLOAD) == []


@over_each_store
async def test_an_upload_that_dies_leaves_no_package_and_can_be_done_again(
    store: Store, tmp_path: Path
) -> None:
    watched = Watched(store)

    def die_at_third(document: Document) -> None:
        if document.id.endswith(".00003"):
            raise PlatformError("the disk is on fire")

    watched.before_put = die_at_third
    export = file_of(tmp_path, MANY)
    with pytest.raises(PlatformError, match="on fire"):
        await SharedPackages(watched, Limits()).put("package", export)  # type: ignore[arg-type]
    shared = SharedPackages(store, Limits())
    with pytest.raises(NotFound):
        await download(shared, export.digest, tmp_path)

    await shared.put("package", export)

    assert await download(shared, export.digest, tmp_path) == MANY


@over_each_store
async def test_a_store_that_is_away_for_a_moment_does_not_end_an_upload(
    store: Store, tmp_path: Path
) -> None:
    watched, refused = Watched(store), []

    def refuse_twice(document: Document) -> None:
        if document.id.endswith(".00002") and len(refused) < 2:
            refused.append(document.id)
            raise StoreUnavailable("too many requests")

    watched.before_put = refuse_twice
    export = file_of(tmp_path, MANY)
    shared = SharedPackages(watched, Limits())  # type: ignore[arg-type]

    await shared.put("package", export)

    assert len(refused) == 2
    assert await download(shared, export.digest, tmp_path) == MANY


@pytest.mark.parametrize("change", ["lost", "shorter", "other"])
def test_a_damaged_part_is_noticed_and_mended_by_the_next_upload(
    change: str, store: Store, tmp_path: Path
) -> None:
    async def scenario(store: Store, tmp_path: Path) -> None:
        shared, export = SharedPackages(store, Limits()), file_of(tmp_path, MANY)
        await shared.put("package", export)
        part = await store.get("package-chunk", NAMESPACE, f"{export.digest}.00002")
        assert part is not None
        if change == "lost":
            await store.delete(part)
        else:
            body = part.body[:-1] if change == "shorter" else part.body[:-1] + b"\0"
            body = body if body != part.body else part.body[:-1] + b"\1"
            await store.put(Document(**{**_fields(part), "body": body}))

        with pytest.raises(PackageDamaged):
            await download(shared, export.digest, tmp_path)
        await shared.put("package", export)

        assert await download(shared, export.digest, tmp_path) == MANY

    over_each_store(scenario)(store, tmp_path)


def _fields(document: Document) -> dict[str, object]:
    return {name: getattr(document, name) for name in document.__struct_fields__}


@over_each_store
async def test_what_no_version_uses_is_removed_once_it_is_old(store: Store, tmp_path: Path) -> None:
    shared = SharedPackages(store, Limits())
    used = await shared.put("package", file_of(tmp_path, b"used"))
    unused = await shared.put("package", file_of(tmp_path, MANY))

    young = await shared.remove_unused({used.digest}, clock.now_ms() - LATER_MS)
    assert (young.packages, young.present) == (0, {used.digest, unused.digest})
    old = await shared.remove_unused({used.digest}, clock.now_ms() + LATER_MS)

    assert (old.packages, old.present) == (1, {used.digest})
    assert await ids_of(store, "package-chunk") == [f"{used.digest}.00000"]
    assert await ids_of(store, UPLOAD) == []


@over_each_store
async def test_a_package_that_is_wanted_again_during_its_removal_stays(
    store: Store, tmp_path: Path
) -> None:
    watched, export = Watched(store), file_of(tmp_path, MANY)
    shared = SharedPackages(store, Limits())
    await shared.put("package", export)
    wanted: list[asyncio.Task[object]] = []

    def deploy(document: Document) -> None:
        if document.kind == UPLOAD and not wanted:
            wanted.append(asyncio.ensure_future(shared.put("package", export)))

    watched.before_put = deploy

    await SharedPackages(watched, Limits()).remove_unused(  # type: ignore[arg-type]
        set(), clock.now_ms() + LATER_MS
    )
    await wanted[0]

    assert await download(shared, export.digest, tmp_path) == MANY


@over_each_store
async def test_parts_of_an_upload_that_died_are_removed_once_they_are_old(
    store: Store, tmp_path: Path
) -> None:
    watched = Watched(store)

    def die_at_last(document: Document) -> None:
        if document.kind == MANIFEST:
            raise PlatformError("the machine went away")

    watched.before_put = die_at_last
    with pytest.raises(PlatformError):
        await SharedPackages(watched, Limits()).put("package", file_of(tmp_path, MANY))  # type: ignore[arg-type]
    shared = SharedPackages(store, Limits())

    await shared.remove_unused(set(), clock.now_ms() - LATER_MS)
    assert len(await ids_of(store, "package-chunk")) == 6
    await shared.remove_unused(set(), clock.now_ms() + LATER_MS)

    assert await ids_of(store, "package-chunk") == []
    assert await ids_of(store, UPLOAD) == []


@over_each_store
async def test_an_upload_waits_for_a_removal_of_the_same_package(
    store: Store, tmp_path: Path
) -> None:
    watched, export = Watched(store), file_of(tmp_path, MANY)
    shared = SharedPackages(store, Limits())
    await shared.put("package", export)
    manifest_gone = asyncio.Event()
    real_delete = store.delete

    async def delete(document: Document) -> bool:
        done = await real_delete(document)
        if document.kind == MANIFEST:
            manifest_gone.set()
        return done

    watched.delete = delete  # type: ignore[attr-defined]
    removal = asyncio.ensure_future(
        SharedPackages(watched, Limits()).remove_unused(set(), clock.now_ms() + LATER_MS)  # type: ignore[arg-type]
    )
    await manifest_gone.wait()
    await shared.put("package", export)
    await removal

    assert await download(shared, export.digest, tmp_path) == MANY


@over_each_store
async def test_layers_of_one_digest_that_differ_do_not_meet(store: Store, tmp_path: Path) -> None:
    """Two gateways resolve the same requirements at one time; a byte is different."""
    shared, digest = SharedPackages(store, Limits()), "d" * 64
    one, two = file_of(tmp_path, MANY, "one"), file_of(tmp_path, MANY[::-1], "two")
    layers = [
        Export(digest=digest, path=each.path, bytes=each.bytes, sha256=each.sha256, machine="m")
        for each in (one, two)
    ]

    manifests = await asyncio.gather(*(shared.put("layer", layer) for layer in layers))

    assert manifests[0].sha256 == manifests[1].sha256
    path = tmp_path / "got"
    path.write_bytes(b"")
    await shared.get_layer(digest, str(path))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == manifests[0].sha256
    assert manifests[0].machine == "m"


def test_packages_are_shared_where_the_store_is_of_a_cluster_unless_told_otherwise() -> None:
    assert is_shared(Limits(), "elasticsearch")
    assert not is_shared(Limits(), "sqlite")
    assert is_shared(Limits(shared="yes"), "sqlite")
    assert not is_shared(Limits(shared="no"), "elasticsearch")


# Gateways


@over_each_store
async def test_a_package_outlives_the_disk_of_its_gateway(store: Store, tmp_path: Path) -> None:
    async with gateway(store, tmp_path / "a") as first:
        inspected = await first.inspect_package(CODE, {})
    shutil.rmtree(tmp_path / "a")

    async with gateway(store, tmp_path / "b") as second:
        dirs = await asyncio.gather(*(second.code_dir(inspected.digest) for _ in range(5)))
        assert await second.read(inspected.digest) == CODE

    assert (Path(dirs[0]) / "main.py").read_bytes() == CODE


@over_each_store
async def test_a_deployment_is_done_only_once_the_store_has_it(
    store: Store, tmp_path: Path
) -> None:
    watched = Watched(store)

    def refuse(document: Document) -> None:
        if document.kind == MANIFEST:
            raise PlatformError("no room")

    watched.before_put = refuse
    async with gateway(watched, tmp_path / "a") as packages:  # type: ignore[arg-type]
        with pytest.raises(PlatformError, match="no room"):
            await packages.inspect_package(CODE, {})
        watched.before_put = lambda _: None
        told: list[LayerProgress] = []
        inspected = await packages.inspect_package(CODE, {}, None, told.append)

    assert f"{MANIFEST}/{inspected.digest}" in watched.puts
    assert [one.line for one in told if one.phase == "sharing"][-1] == (
        "package: 1 of 1 MiB in the store"
    )


@over_each_store
async def test_a_package_that_is_damaged_here_is_taken_from_the_store(
    store: Store, tmp_path: Path
) -> None:
    async with gateway(store, tmp_path / "a") as packages:
        digest = (await packages.inspect_package(CODE, {})).digest
        path = tmp_path / "a" / "packages" / digest
        path.chmod(0o644)
        path.write_bytes(b"something else")

        assert await packages.read(digest) == CODE
        assert path.read_bytes() == CODE


@over_each_store
async def test_a_package_that_is_nowhere_is_not_found(store: Store, tmp_path: Path) -> None:
    async with gateway(store, tmp_path / "a") as packages:
        for digest in ("0" * 64, "../../etc/passwd"):
            with pytest.raises(NotFound):
                await packages.read(digest)
        with pytest.raises(NotFound):
            await packages.layer("0" * 64)


@over_each_store
async def test_a_sweep_puts_into_the_store_what_is_used_and_missing_there(
    store: Store, tmp_path: Path
) -> None:
    alone = Packages(str(tmp_path / "a"), Limits())
    digest = (await alone.inspect_package(CODE, {})).digest
    await alone.close()
    shared = SharedPackages(store, Limits())

    async with gateway(store, tmp_path / "a") as packages:
        assert await shared.manifest(digest) is None
        await packages.remove_unused({digest, ""})

    assert await shared.manifest(digest) is not None


@over_each_store
async def test_a_layer_is_made_by_one_gateway_and_used_by_all(store: Store, tmp_path: Path) -> None:
    async with gateway(store, tmp_path / "a") as first:
        inspected = await first.inspect_package(SIX, {})
        made = Path(first.layer_dir(inspected.layer))
        content = (made / "six.py").read_bytes()
        compiled = next((made / "__pycache__").glob("six.*.pyc"))
        source_time = int((made / "six.py").stat().st_mtime)
    assert inspected.layer == layer_digest(["six==1.17.0"], RUNTIME)
    manifest = await SharedPackages(store, Limits()).manifest(inspected.layer)
    assert manifest is not None
    assert manifest.machine == machine_kind()

    async with gateway(store, tmp_path / "b") as second:
        told: list[LayerProgress] = []
        again = await second.inspect_package(SIX, {}, None, told.append)
        layer = Path(await second.layer(again.layer))

    assert again.layer == inspected.layer
    assert not any(one.phase == "resolving" for one in told), "it was taken from the store"
    assert (layer / "six.py").read_bytes() == content
    assert int((layer / "six.py").stat().st_mtime) == source_time, "compiled code stays valid"
    assert (layer / "__pycache__" / compiled.name).read_bytes() == compiled.read_bytes()
    assert (layer / "six.py").stat().st_mode & 0o777 == 0o444
    assert os.stat(layer).st_mode & 0o777 == 0o555


@over_each_store
async def test_a_layer_that_is_damaged_is_brought_again_by_the_next_process(
    store: Store, tmp_path: Path
) -> None:
    async with gateway(store, tmp_path / "a") as first:
        digest = (await first.inspect_package(SIX, {})).layer
    async with gateway(store, tmp_path / "b") as second:
        layer = Path(await second.layer(digest))
    content = (layer / "six.py").read_bytes()
    os.chmod(layer / "six.py", 0o644)
    (layer / "six.py").write_bytes(b"\0" * len(content))

    async with gateway(store, tmp_path / "b") as second:
        await second.layer(digest)

    assert (layer / "six.py").read_bytes() == content
