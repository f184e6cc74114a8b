"""Functions, versions and aliases in the store, and the cache that calls resolve from."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pratai.errors import Conflict, NotFound, StoreUnavailable
from pratai.gateway import lookup
from pratai.gateway.catalog import Catalog, Code
from pratai.model.function import FunctionConfig
from pratai.store.base import Document
from pratai.store.memory import MemoryStore

Run = Callable[[Callable[[MemoryStore, Catalog], Awaitable[None]]], None]


def code(text: str, **config: object) -> Code:
    return Code(
        digest=text,
        package_bytes=1,
        layer="",
        config=FunctionConfig(runtime="python3.11", handler="main:main", **config),  # type: ignore[arg-type]
    )


async def refreshed(catalog: Catalog) -> None:
    """The readings under way in the background are done."""
    under_way = list(catalog._refreshing.values())
    assert under_way
    await asyncio.gather(*under_way)


@pytest.fixture
def run() -> Run:
    """Runs a test's story over a fresh store and catalog."""

    def runs(story: Callable[[MemoryStore, Catalog], Awaitable[None]]) -> None:
        async def main() -> None:
            store = MemoryStore()
            await store.open()
            await story(store, Catalog(store))

        asyncio.run(main())

    return runs


def test_a_deployment_is_resolved_from_memory_at_once(run: Run) -> None:
    async def story(store: MemoryStore, catalog: Catalog) -> None:
        assert catalog.resolve_cached("default", "f", "", 0.0) is None
        await catalog.create_or_update("default", "f", code("a"))
        await catalog.create_or_update("default", "f", code("b"))

        for qualifier, digest in (("", "b"), ("$LATEST", "b"), ("1", "a"), ("2", "b")):
            version = catalog.resolve_cached("default", "f", qualifier, 0.0)
            assert version is not None
            assert version.digest == digest
        assert catalog.resolve_cached("other", "f", "", 0.0) is None

    run(story)


def test_another_catalog_reads_what_is_in_the_store(run: Run) -> None:
    async def story(store: MemoryStore, catalog: Catalog) -> None:
        await catalog.create_or_update("default", "f", code("a"))
        fresh = Catalog(store)

        assert (await fresh.resolve("default", "f", "", 0.0)).digest == "a"
        cached = fresh.resolve_cached("default", "f", "", 0.0)
        assert cached is not None

    run(story)


def test_only_a_difference_makes_a_version(run: Run) -> None:
    async def story(store: MemoryStore, catalog: Catalog) -> None:
        first = await catalog.create_or_update("default", "f", code("a"))
        same = await catalog.create_or_update("default", "f", code("a"))
        other = await catalog.create_or_update("default", "f", code("a", memory_mb=512))

        assert (first.created, first.changed, first.version.number) == (True, True, 1)
        assert (same.created, same.changed, same.version.number) == (False, False, 1)
        assert (other.created, other.changed, other.version.number) == (False, True, 2)

    run(story)


def test_unknown_names_come_with_near_ones(run: Run) -> None:
    async def story(store: MemoryStore, catalog: Catalog) -> None:
        await catalog.create_or_update("default", "resize-image", code("a"))
        await catalog.set_alias("default", "resize-image", "live", version="1", weights={})

        with pytest.raises(NotFound) as function:
            await catalog.resolve("default", "resize-imge", "", 0.0)
        with pytest.raises(NotFound) as alias:
            await catalog.resolve("default", "resize-image", "lve", 0.0)
        with pytest.raises(NotFound):
            await catalog.resolve("default", "resize-image", "7", 0.0)

        assert "Did you mean resize-image?" in function.value.next_step
        assert "Did you mean live?" in alias.value.next_step

    run(story)


def test_an_alias_shares_calls_among_versions(run: Run) -> None:
    async def story(store: MemoryStore, catalog: Catalog) -> None:
        for text in "ab":
            await catalog.create_or_update("default", "f", code(text))
        await catalog.set_alias("default", "f", "live", version="1", weights={2: 0.25})

        chances = {0.1: "b", 0.24: "b", 0.26: "a", 0.9: "a"}
        for chance, digest in chances.items():
            assert (await catalog.resolve("default", "f", "live", chance)).digest == digest

    run(story)


def test_a_rollback_moves_latest_and_the_next_version_has_a_new_number(run: Run) -> None:
    async def story(store: MemoryStore, catalog: Catalog) -> None:
        for text in "abc":
            await catalog.create_or_update("default", "f", code(text))

        assert (await catalog.rollback("default", "f")).latest == 2
        assert (await catalog.rollback("default", "f")).latest == 1
        with pytest.raises(Conflict):
            await catalog.rollback("default", "f")
        deployed = await catalog.create_or_update("default", "f", code("d"))
        assert deployed.version.number == 4

    run(story)


def test_deployments_at_one_time_each_get_a_number_and_the_highest_is_latest(run: Run) -> None:
    async def story(store: MemoryStore, catalog: Catalog) -> None:
        catalogs = [Catalog(store) for _ in range(4)]

        deployed = await asyncio.gather(
            *(
                one.create_or_update("default", "f", code(str(index)))
                for index, one in enumerate(catalogs)
            )
        )

        assert sorted(one.version.number for one in deployed) == [1, 2, 3, 4]
        assert (await catalog.get("default", "f")).latest == 4

    run(story)


def test_a_version_whose_deployment_died_midway_does_not_block_the_next(run: Run) -> None:
    async def story(store: MemoryStore, catalog: Catalog) -> None:
        await catalog.create_or_update("default", "f", code("a"))
        orphan = Document(kind="version", namespace="default", id="f/00000002", body=b"{}")
        await store.put(orphan)

        deployed = await catalog.create_or_update("default", "f", code("b"))

        assert deployed.version.number == 3
        assert (await catalog.resolve("default", "f", "", 0.0)).digest == "b"

    run(story)


def test_a_change_that_always_loses_is_a_conflict_in_the_end(run: Run) -> None:
    async def story(store: MemoryStore, catalog: Catalog) -> None:
        await catalog.create_or_update("default", "f", code("a"))
        tried = 0

        async def refuse(document: Document) -> int:
            nonlocal tried
            tried += 1
            raise Conflict("changed meanwhile")

        store.put = refuse  # type: ignore[method-assign]
        with pytest.raises(Conflict):
            await catalog.set_alias("default", "f", "live", version="1", weights={})
        assert tried == 8

    run(story)


def test_a_number_is_never_given_twice_not_even_after_deletion(run: Run) -> None:
    async def story(store: MemoryStore, catalog: Catalog) -> None:
        for text in "ab":
            await catalog.create_or_update("default", "f", code(text))
        gone = await catalog.delete("default", "f")
        assert gone == ["default/f/1", "default/f/2"]

        again = await catalog.create_or_update("default", "f", code("c"))

        assert (again.created, again.version.number) == (True, 3)
        with pytest.raises(NotFound):
            await catalog.resolve("default", "f", "1", 0.0)
        versions, below = await catalog.versions(again.function)
        assert ([version.number for version in versions], below) == ([3], None)

    run(story)


def test_calls_in_flight_still_find_the_version_of_a_deleted_function(run: Run) -> None:
    async def story(store: MemoryStore, catalog: Catalog) -> None:
        await catalog.create_or_update("default", "f", code("a"))
        await catalog.delete("default", "f")

        found = await Catalog(store).version_by_id("default/f/1")

        assert found is not None
        assert found.digest == "a"
        assert catalog.resolve_cached("default", "f", "", 0.0) is None
        assert [one.digest for one in await catalog.all_versions_in_use()] == ["a"]

    run(story)


def test_a_sweep_removes_versions_of_deleted_functions_alone(run: Run) -> None:
    async def story(store: MemoryStore, catalog: Catalog) -> None:
        await catalog.create_or_update("default", "f", code("a"))
        await catalog.create_or_update("default", "g", code("g"))
        await catalog.delete("default", "f")
        await catalog.create_or_update("default", "f", code("b"))

        assert await catalog.sweep(3_600_000) == 0
        assert await catalog.sweep(-1) == 1
        assert await catalog.sweep(-1) == 0

        assert {one.digest for one in await catalog.all_versions_in_use()} == {"b", "g"}
        assert await catalog.version_by_id("default/f/1") is None

    run(story)


def test_versions_page_downwards(run: Run) -> None:
    async def story(store: MemoryStore, catalog: Catalog) -> None:
        for index in range(5):
            deployed = await catalog.create_or_update("default", "f", code(str(index)))
        await catalog.create_or_update("default", "f-2", code("x"))

        below: int | None = None
        seen: list[list[int]] = []
        while True:
            page, below = await catalog.versions(deployed.function, below=below, limit=2)
            seen.append([version.number for version in page])
            if below is None:
                break

        assert seen == [[5, 4], [3, 2], [1]]

    run(story)


def test_a_shared_catalog_reads_an_old_entry_again_in_the_background(
    monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    now = 1_000_000
    monkeypatch.setattr(lookup, "now_ms", lambda: now)

    async def story(store: MemoryStore, writer: Catalog) -> None:
        nonlocal now
        shared = Catalog(store, shared=True)
        await writer.create_or_update("default", "f", code("a"))
        await shared.resolve("default", "f", "", 0.0)
        await writer.create_or_update("default", "f", code("b"))

        def digest() -> str:
            version = shared.resolve_cached("default", "f", "", 0.0)
            return version.digest if version else ""

        assert digest() == "a"
        now += lookup.AGE_MAX_MS + 1
        assert digest() == "a", "the call itself does not wait"
        await refreshed(shared)
        assert digest() == "b"

        await writer.delete("default", "f")
        now += lookup.AGE_MAX_MS + 1
        digest()
        await refreshed(shared)
        assert digest() == ""

    run(story)


def test_a_shared_catalog_goes_on_with_what_it_knows_while_the_store_is_away(
    monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    now = 1_000_000
    monkeypatch.setattr(lookup, "now_ms", lambda: now)

    async def story(store: MemoryStore, writer: Catalog) -> None:
        nonlocal now
        shared = Catalog(store, shared=True)
        await writer.create_or_update("default", "f", code("a"))
        await shared.resolve("default", "f", "", 0.0)

        async def away(*args: object, **kwargs: object) -> None:
            raise StoreUnavailable("gone")

        store.get = away  # type: ignore[method-assign, assignment]
        now += lookup.AGE_MAX_MS + 1
        assert shared.resolve_cached("default", "f", "", 0.0) is not None
        await refreshed(shared)
        assert shared.resolve_cached("default", "f", "", 0.0) is not None

    run(story)


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setattr(lookup, "FUNCTIONS_CACHED_MAX", 2)
    monkeypatch.setattr(lookup, "VERSIONS_CACHED_MAX", 2)

    async def story(store: MemoryStore, catalog: Catalog) -> None:
        for name in "abc":
            await catalog.create_or_update("default", name, code(name))

        assert repr(catalog) == "<Catalog [functions: 2 | versions: 2]>"
        assert (await catalog.resolve("default", "a", "", 0.0)).digest == "a"

    run(story)


def test_publishing_again_without_a_description_keeps_the_first(run: Run) -> None:
    async def story(store: MemoryStore, catalog: Catalog) -> None:
        await catalog.create_or_update("default", "f", code("a"))

        assert (await catalog.publish("default", "f", "good")).note == "good"
        assert (await catalog.publish("default", "f")).note == "good"
        version = await Catalog(store).version_by_id("default/f/1")
        assert version is not None
        assert version.note == "good"

    run(story)
