"""Three real Elasticsearch nodes: one killed and another, all of them stopped, a disk that is full.

`PRATAI_OUTAGE_S` sets how long all of them are stopped.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

import pytest
from tests import elasticsearch_cluster
from tests.elasticsearch_cluster import ElasticsearchCluster

from pratai import ids
from pratai.config import schema
from pratai.errors import StoreUnavailable
from pratai.model.invocation import Invocation
from pratai.store.base import Document, InvocationQuery, OutcomeRecord
from pratai.store.elasticsearch import ElasticsearchStore

WRITERS = 16
#: Twice the request's own bound, and something for a busy machine.
ANSWER_S_MAX = 25.0
RECOVERY_S_MAX = 90.0
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def cluster() -> Iterator[ElasticsearchCluster]:
    started = elasticsearch_cluster.cluster(nodes=3)
    yield started
    elasticsearch_cluster.discard(started)


@pytest.fixture
def prefix(cluster: ElasticsearchCluster) -> Iterator[str]:
    name = f"test-{os.urandom(4).hex()}"
    yield name
    elasticsearch_cluster.remove(cluster.urls[0], name)


def settings(cluster: ElasticsearchCluster, prefix: str) -> schema.Elasticsearch:
    return schema.Elasticsearch(urls=",".join(cluster.urls), index_prefix=prefix, replicas=1)


def invocation(n: int, **fields: object) -> Invocation:
    values: dict[str, object] = {
        "namespace": "default",
        "request_id": ids.request_id(),
        "function": "f",
        "version": "1",
        "mode": "async",
        "event": f'{{"number": {n}}}'.encode(),
    }
    return Invocation(**(values | fields))


def with_stores(
    config: schema.Elasticsearch,
    scenario: Callable[[list[ElasticsearchStore]], Awaitable[None]],
    count: int = 1,
) -> None:
    async def within() -> None:
        stores = [ElasticsearchStore(config, schema.Store()) for _ in range(count)]
        await asyncio.gather(*[store.open() for store in stores])
        try:
            await scenario(stores)
        finally:
            await asyncio.gather(*[store.close() for store in stores])

    asyncio.run(within())


async def eventually(fact: Callable[[], Awaitable[object]], limit_s: float) -> None:
    """Until it is true; an unavailable store is not yet."""
    limit = time.monotonic() + limit_s
    while True:
        try:
            if await fact():
                return
            reason = "it stays false"
        except StoreUnavailable as error:
            reason = error.detail
        assert time.monotonic() < limit, reason
        await asyncio.sleep(0.2)


class Load:
    """Writers that accept on and on, and say again what was not acknowledged, as clients do."""

    def __init__(self, stores: list[ElasticsearchStore]) -> None:
        self.stores = stores
        self.goes_on = True
        self.count = 0
        #: {number of the event: request id}.
        self.acknowledged: dict[int, str] = {}
        self.refused = 0
        self.longest_s = 0.0

    async def run(self) -> None:
        await asyncio.gather(
            *[self._write(self.stores[n % len(self.stores)]) for n in range(WRITERS)]
        )

    async def _write(self, store: ElasticsearchStore) -> None:
        while self.goes_on:
            self.count += 1
            await self._accept(store, self.count)

    async def _accept(self, store: ElasticsearchStore, n: int) -> None:
        given = invocation(n, idempotency_key=f"key-{n}" if n % 2 else "")
        while True:
            begun = time.monotonic()
            try:
                accepted = await store.accept(given)
            except StoreUnavailable:
                self.refused += 1
                await asyncio.sleep(0.1)
                if given.idempotency_key:
                    # The client's own repetition: the platform gives it another request id.
                    given = invocation(n, idempotency_key=given.idempotency_key)
                continue
            self.longest_s = max(self.longest_s, time.monotonic() - begun)
            self.acknowledged[n] = accepted.request_id
            return

    async def wait_for_more(self, count: int) -> None:
        wanted = len(self.acknowledged) + count

        async def is_reached() -> bool:
            return len(self.acknowledged) >= wanted

        await eventually(is_reached, RECOVERY_S_MAX)


def test_one_node_killed_and_then_another_lose_nothing_and_double_nothing(
    cluster: ElasticsearchCluster, prefix: str
) -> None:
    async def scenario(stores: list[ElasticsearchStore]) -> None:
        load = Load(stores)
        writing = asyncio.ensure_future(load.run())
        await load.wait_for_more(300)
        for node in (1, 2):
            await asyncio.to_thread(cluster.kill, node)
            await load.wait_for_more(300)
            await asyncio.to_thread(cluster.start_node, node)
            await asyncio.to_thread(cluster.wait_green, 3)
            await load.wait_for_more(100)
        load.goes_on = False
        await writing
        kept = await stores[0].pending(limit=1_000_000)
        by_id = {item.request_id for item in kept}
        missing = [n for n, id_ in load.acknowledged.items() if id_ not in by_id]
        assert missing == []
        some = list(load.acknowledged.items())[::50]
        events = [await stores[1].event("default", id_) for _, id_ in some]
        assert events == [f'{{"number": {n}}}'.encode() for n, _ in some]
        keys = Counter(item.idempotency_key for item in kept if item.idempotency_key)
        assert [key for key, count in keys.items() if count > 1] == []
        assert len(kept) == load.count == len(load.acknowledged)
        assert load.longest_s < ANSWER_S_MAX
        assert await stores[0].verify() == []

    with_stores(settings(cluster, prefix), scenario, count=2)


def test_an_outcome_is_recorded_once_whatever_node_dies(
    cluster: ElasticsearchCluster, prefix: str
) -> None:
    async def scenario(stores: list[ElasticsearchStore]) -> None:
        given = [invocation(n) for n in range(600)]
        await asyncio.gather(*[stores[0].accept(item) for item in given])
        changed: Counter[str] = Counter()

        async def finish(store: ElasticsearchStore, item: Invocation) -> None:
            record = OutcomeRecord(
                namespace="default",
                request_id=item.request_id,
                attempt=1,
                outcome="succeeded",
                dead=False,
                finished_at_ms=1,
                result=item.event or b"",
            )
            while True:
                try:
                    changed[item.request_id] += await store.record_outcome(record)
                    return
                except StoreUnavailable:
                    await asyncio.sleep(0.1)

        async def finish_all(store: ElasticsearchStore) -> None:
            for at in range(0, len(given), 20):
                await asyncio.gather(*[finish(store, item) for item in given[at : at + 20]])

        finishing = asyncio.gather(*[finish_all(store) for store in stores])
        await asyncio.to_thread(cluster.kill, 3)
        await finishing
        await asyncio.to_thread(cluster.start_node, 3)
        await asyncio.to_thread(cluster.wait_green, 3)
        assert await stores[0].pending() == []
        assert max(changed.values()) == 1
        for item in given[::100]:
            known = await stores[1].invocation("default", item.request_id)
            assert known is not None
            assert (known.outcome, known.result) == ("succeeded", item.event)

    with_stores(settings(cluster, prefix), scenario, count=2)


def test_all_nodes_stopped_for_a_while_give_no_wrong_answer_and_recover_by_themselves(
    cluster: ElasticsearchCluster, prefix: str
) -> None:
    outage_s = float(os.environ.get("PRATAI_OUTAGE_S", "4"))

    async def scenario(stores: list[ElasticsearchStore]) -> None:
        store = stores[0]
        before = invocation(1)
        await store.accept(before)
        document = Document(kind="function", namespace="default", id="f", body=b"{}")
        await store.put(document)
        await asyncio.to_thread(cluster.stop)
        end = time.monotonic() + outage_s
        attempts = 0
        while time.monotonic() < end:
            begun = time.monotonic()
            with pytest.raises(StoreUnavailable) as refused:
                await store.accept(invocation(2))
            assert refused.value.retry_after_s
            for ask in (
                store.get("function", "default", "f"),
                store.invocation("default", before.request_id),
                store.invocations(InvocationQuery(namespace="default")),
                store.pending(),
                store.documents("function", None),
            ):
                with pytest.raises(StoreUnavailable):
                    await ask
            assert time.monotonic() - begun < ANSWER_S_MAX
            store.record(invocation(3, state="done", outcome="failed", request_id="recorded"))
            attempts += 1
            await asyncio.sleep(0.2)
        assert attempts > 1
        assert not store.stats().healthy
        starting = asyncio.ensure_future(asyncio.to_thread(cluster.start))
        await answers_stay_right(store, before, starting)
        await starting
        await eventually(lambda: store.accept(invocation(4)), RECOVERY_S_MAX)
        assert store.stats().healthy
        assert await store.get("function", "default", "f") is not None
        assert before.request_id in {item.request_id for item in await store.pending()}
        await eventually(lambda: store.invocation("default", "recorded"), RECOVERY_S_MAX)
        await store.flush()
        assert await store.verify() == []

    async def answers_stay_right(
        store: ElasticsearchStore, before: Invocation, starting: asyncio.Future[object]
    ) -> None:
        """While the nodes come back, a read is refused or right."""
        while not starting.done():
            try:
                assert await store.event("default", before.request_id) == before.event
                assert await store.get("function", "default", "f") is not None
                assert await store.pending() != []
            except StoreUnavailable:
                await asyncio.sleep(0.1)

    with_stores(settings(cluster, prefix), scenario)


def test_a_full_disk_refuses_writes_until_the_block_is_lifted(
    cluster: ElasticsearchCluster, prefix: str
) -> None:
    def block(value: object) -> None:
        body = {"index.blocks.read_only_allow_delete": value}
        elasticsearch_cluster.ask(cluster.urls[0], "PUT", f"/{prefix}-*/_settings", body)

    async def scenario(stores: list[ElasticsearchStore]) -> None:
        store = stores[0]
        before = invocation(1)
        await store.accept(before)
        await asyncio.to_thread(block, True)
        for _ in range(3):
            begun = time.monotonic()
            with pytest.raises(StoreUnavailable) as refused:
                await store.accept(invocation(2))
            assert time.monotonic() - begun < ANSWER_S_MAX
            assert "takes no writes" in refused.value.detail
            assert refused.value.retry_after_s
        assert not store.stats().healthy
        store.record(invocation(3, state="done", outcome="failed", request_id="recorded"))
        assert await store.event("default", before.request_id) == before.event, "reading goes on"
        await asyncio.to_thread(block, None)

        async def is_healthy() -> bool:
            return store.stats().healthy

        await eventually(is_healthy, RECOVERY_S_MAX)
        assert (await store.accept(invocation(4))).created
        await eventually(lambda: store.invocation("default", "recorded"), RECOVERY_S_MAX)

    with_stores(settings(cluster, prefix), scenario)
