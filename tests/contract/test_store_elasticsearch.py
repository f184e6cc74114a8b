"""What only the Elasticsearch store promises: bulks, lost answers, series of indices, migration."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests import elasticsearch_cluster

from pratai import clock, ids
from pratai.config import schema
from pratai.errors import ConfigError, InvalidField, PlatformError, StoreUnavailable
from pratai.model.invocation import Invocation, LogRecord
from pratai.store.base import (
    Document,
    InvocationQuery,
    LeaseRecord,
    LogQuery,
    OutcomeRecord,
    Retention,
    RetryRecord,
)
from pratai.store.elasticsearch import ElasticsearchStore, buffers, journal, names, rows, upkeep
from pratai.store.elasticsearch.buffers import Buffers
from pratai.store.elasticsearch.connection import Connection

KEEP_ALL = Retention(
    invocations_age_max_ms=10**12,
    dead_age_max_ms=10**12,
    logs_age_max_ms=10**12,
    bytes_max=10**12,
)
DAY_MS = 86_400_000


def invocation(request_id: str, **fields: object) -> Invocation:
    values: dict[str, object] = {
        "namespace": "default",
        "request_id": request_id,
        "function": "f",
        "version": "1",
        "mode": "async",
        "event": b"{}",
    }
    return Invocation(**(values | fields))


def outcome(request_id: str, **fields: object) -> OutcomeRecord:
    values: dict[str, object] = {
        "namespace": "default",
        "request_id": request_id,
        "attempt": 1,
        "outcome": "succeeded",
        "dead": False,
        "finished_at_ms": 1_000,
    }
    return OutcomeRecord(**(values | fields))


def log(text: str, **fields: object) -> LogRecord:
    values: dict[str, object] = {
        "namespace": "default",
        "function": "f",
        "version": "1",
        "request_id": "r",
        "instance_id": "i",
        "at_ms": 1,
        "level": "INFO",
        "text": text,
    }
    return LogRecord(**(values | fields))


def request_id_at(time_ms: int) -> str:
    """A request id as it would be made at a time."""
    head = f"{time_ms:012x}"
    return f"{head[:8]}-{head[8:]}{ids.request_id()[13:]}"


def with_stores(
    config: schema.Elasticsearch,
    scenario: Callable[..., Awaitable[None]],
    count: int = 1,
    **settings: object,
) -> None:
    async def within() -> None:
        stores = [ElasticsearchStore(config, schema.Store(**settings)) for _ in range(count)]
        await asyncio.gather(*[store.open() for store in stores])
        try:
            await scenario(*stores)
        finally:
            await asyncio.gather(*[store.close() for store in stores])

    asyncio.run(asyncio.wait_for(within(), 60))


def lose_answers(store: ElasticsearchStore) -> None:
    """Every bulk is carried out, its answer lost, and made again, as when its node dies then."""
    assert store._parts is not None
    connection = store._parts.connection
    bulk = connection.es.bulk

    async def twice(**arguments: Any) -> Any:
        await bulk(**arguments)
        return await bulk(**arguments)

    connection.es.bulk = twice  # type: ignore[method-assign]


class HeldBulks:
    """Holds every bulk up before it is sent, until let go."""

    def __init__(self, store: ElasticsearchStore) -> None:
        assert store._parts is not None
        self.free = asyncio.Event()
        self.is_held = asyncio.Event()
        es = store._parts.connection.es
        bulk = es.bulk

        async def held(**arguments: Any) -> Any:
            self.is_held.set()
            await self.free.wait()
            return await bulk(**arguments)

        es.bulk = held  # type: ignore[method-assign]


# bulks


def test_what_arrives_while_a_bulk_is_under_way_shares_the_next_one(
    elasticsearch_settings: schema.Elasticsearch,
) -> None:
    async def scenario(store: ElasticsearchStore) -> None:
        held = HeldBulks(store)
        first = asyncio.ensure_future(store.accept(invocation("first")))
        await held.is_held.wait()
        rest = [asyncio.ensure_future(store.accept(invocation(f"r{n}"))) for n in range(50)]
        await asyncio.sleep(0)
        assert store.stats().waiting == 51
        held.free.set()
        await asyncio.gather(first, *rest)
        stats = store.stats()
        assert (stats.commits, stats.writes, stats.waiting) == (2, 51, 0)

    with_stores(elasticsearch_settings, scenario)


def test_a_batch_of_one_is_a_bulk_for_each_write(
    elasticsearch_settings: schema.Elasticsearch,
) -> None:
    async def scenario(store: ElasticsearchStore) -> None:
        await asyncio.gather(*[store.accept(invocation(f"r{n}")) for n in range(9)])
        assert (store.stats().commits, store.stats().writes) == (9, 9)

    with_stores(elasticsearch_settings, scenario, batch_max=1)


def test_a_bulk_is_bounded_in_bytes(elasticsearch_settings: schema.Elasticsearch) -> None:
    config = msgspec.structs.replace(elasticsearch_settings, bulk_bytes_max=65_536, bulks_max=1)

    async def scenario(store: ElasticsearchStore) -> None:
        big = [store.accept(invocation(f"r{n}", event=b"x" * 30_000)) for n in range(6)]
        await asyncio.gather(*big, store.accept(invocation("huge", event=b"y" * 900_000)))
        assert store.stats().commits == 4
        assert await store.event("default", "huge") == b"y" * 900_000

    with_stores(config, scenario)


def test_writes_beyond_the_bound_are_refused_with_a_time_to_ask_again(
    elasticsearch_settings: schema.Elasticsearch,
) -> None:
    async def scenario(store: ElasticsearchStore) -> None:
        held = HeldBulks(store)
        given = [asyncio.ensure_future(store.accept(invocation(f"r{n}"))) for n in range(2)]
        await held.is_held.wait()
        with pytest.raises(StoreUnavailable) as refused:
            await store.accept(invocation("third"))
        assert refused.value.retry_after_s == 1
        held.free.set()
        await asyncio.gather(*given)
        assert (await store.accept(invocation("third"))).created

    with_stores(elasticsearch_settings, scenario, waiting_max=2)


def test_a_value_that_cannot_be_stored_fails_alone(
    elasticsearch_settings: schema.Elasticsearch,
) -> None:
    async def scenario(store: ElasticsearchStore) -> None:
        answers = await asyncio.gather(
            *[store.accept(invocation(f"r{n}")) for n in range(5)],
            store.accept(invocation("bad1", function="\ud800")),
            store.accept(invocation("bad2", accepted_at_ms=(1 << 64) - 1)),
            store.accept(invocation("bad3", accepted_at_ms=1 << 70)),
            return_exceptions=True,
        )
        assert [type(answer) for answer in answers[5:]] == [InvalidField] * 3
        assert all(answer.created for answer in answers[:5])
        store.append_logs([log("good"), log("bad \ud800")])
        await store.flush()
        assert [r.text for r in await store.logs(LogQuery(namespace="default"))] == ["good"]
        assert store.stats().dropped == 1
        assert store.stats().healthy

    with_stores(elasticsearch_settings, scenario)


def test_writes_made_again_after_a_lost_answer_are_made_once_and_known_as_our_own(
    elasticsearch_settings: schema.Elasticsearch,
) -> None:
    async def scenario(store: ElasticsearchStore) -> None:
        lose_answers(store)
        assert (await store.accept(invocation("r1"))).created
        assert (await store.accept(invocation("r2", idempotency_key="k"))).created
        assert not (await store.accept(invocation("r3", idempotency_key="k"))).created
        retry = RetryRecord(
            namespace="default",
            request_id="r1",
            attempt=1,
            available_at_ms=5,
            failure=None,
            marks=[],
        )
        await store.record_retry(retry)
        assert await store.record_outcome(outcome("r1", result=b"1"))
        assert not await store.record_outcome(outcome("r1", result=b"2"))
        document = Document(kind="key", namespace="default", id="k", body=b"1")
        first = await store.put(document)
        second = await store.put(msgspec.structs.replace(document, body=b"2", revision=first))
        assert second > first
        assert await store.delete(msgspec.structs.replace(document, revision=second))
        store.append_logs([log("once")])
        await store.flush()
        assert [r.text for r in await store.logs(LogQuery(namespace="default"))] == ["once"]
        known = await store.invocation("default", "r1")
        assert known is not None
        assert known.result == b"1"
        assert await store.verify() == []

    with_stores(elasticsearch_settings, scenario)


# payloads


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"plain",
        "é\u0301\u2028 \U0001f600".encode(),
        b"\x00\xff" * 300_000,
        b'{"a": "caf\\u00e9"}',
        b"nul \x00 in text",
        ("ß" * 70_000).encode(),
        b"\xed\xa0\x80",
        bytes(range(256)) * 4_096,
    ],
    ids=range(9),
)
def test_bytes_come_back_as_they_were(
    elasticsearch_settings: schema.Elasticsearch, payload: bytes
) -> None:
    async def scenario(store: ElasticsearchStore) -> None:
        await store.put(Document(kind="chunk", namespace="default", id="1", body=payload))
        document = await store.get("chunk", "default", "1")
        listed = await store.documents("chunk", "default")
        assert document is not None
        assert [document.body, listed[0].body] == [payload, payload]
        await store.accept(invocation("r1", event=payload))
        await store.record_outcome(outcome("r1", result=payload))
        known = await store.invocation("default", "r1")
        assert known is not None
        assert (known.event, known.result) == (payload, payload)
        assert rows.unpack(rows.pack(payload)) == payload

    with_stores(elasticsearch_settings, scenario)


def test_a_short_beginning_finds_among_very_many_words(
    elasticsearch_settings: schema.Elasticsearch,
) -> None:
    async def scenario(store: ElasticsearchStore) -> None:
        words = [" ".join(f"a{n:05}-{m}" for m in range(40)) for n in range(200)]
        await asyncio.gather(
            *[store.accept(invocation(f"r{n:03}", event=t.encode())) for n, t in enumerate(words)]
        )
        for search, count in (("a", 200), ("a0019", 10), ("a00199-3", 1), ("a00199-40", 0)):
            page = await store.invocations(
                InvocationQuery(namespace="default", search=search, limit=500)
            )
            assert len(page.items) == count, search

    with_stores(elasticsearch_settings, scenario)


def test_no_value_that_is_asked_for_is_an_error_of_ours(
    elasticsearch_settings: schema.Elasticsearch,
) -> None:
    async def scenario(store: ElasticsearchStore) -> None:
        await store.accept(invocation("r1"))
        store.append_logs([log("x")])
        for number in (1 << 80, -(1 << 80), -1):
            query = InvocationQuery(namespace="default", since_ms=number, until_ms=number)
            assert (await store.invocations(query)).items == []
            await store.logs(LogQuery(namespace="default", since_ms=number, after=number))
        for text in ("\x00", "/../", "?refresh", "%2F", "\n", "é", "*"):
            assert await store.get(text, text, text) is None
            assert await store.invocation("default", text) is None
            assert await store.documents("k", None, after=text, prefix=text) == []
            query = InvocationQuery(namespace="default", cursor=text, function=text)
            assert (await store.invocations(query)).items == []
        with pytest.raises(InvalidField):
            await store.get("k", "default", "\ud800")
        assert await store.documents("k", None, prefix="\ud800") == []
        assert store.stats().healthy

    with_stores(elasticsearch_settings, scenario)


def test_the_id_of_a_document_may_be_long(elasticsearch_settings: schema.Elasticsearch) -> None:
    async def scenario(store: ElasticsearchStore) -> None:
        for end in "ab":
            await store.put(Document(kind="k", namespace="a/b", id="x" * 2_000 + end, body=b""))
        await store.put(Document(kind="k", namespace="a", id="b/" + "x" * 100, body=b""))
        listed = await store.documents("k", None)
        assert [(one.namespace, one.id[-1]) for one in listed] == [
            ("a", "x"),
            ("a/b", "a"),
            ("a/b", "b"),
        ]

    with_stores(elasticsearch_settings, scenario)


# idempotency keys


def test_a_key_whose_maker_died_is_taken_over_and_a_late_maker_is_refused(
    elasticsearch_settings: schema.Elasticsearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "CLAIM_MS", 50)

    async def scenario(store: ElasticsearchStore, other: ElasticsearchStore) -> None:
        assert store._parts is not None
        late, create = store._parts.journal, store._parts.journal._create
        goes_on = asyncio.Event()

        async def wait_and_create(*arguments: Any) -> Any:
            await goes_on.wait()
            return await create(*arguments)

        late._create = wait_and_create  # type: ignore[method-assign]
        slow = asyncio.ensure_future(store.accept(invocation("slow", idempotency_key="k")))
        accepted = await other.accept(invocation("quick", idempotency_key="k"))
        while not accepted.created:
            accepted = await other.accept(invocation("quick", idempotency_key="k"))
        goes_on.set()
        answer = await slow
        assert (answer.request_id, answer.created) == ("quick", False)
        assert await store.invocation("default", "slow") is None
        assert [item.request_id for item in await other.pending()] == ["quick"]
        page = await other.invocations(InvocationQuery(namespace="default"))
        assert [item.request_id for item in page.items] == ["quick"]
        assert await other.verify() == []

    with_stores(elasticsearch_settings, scenario, count=2)


def test_a_key_without_an_invocation_is_removed_by_a_sweep(
    elasticsearch_settings: schema.Elasticsearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "CLAIM_AGE_MAX_MS", -1_000)
    monkeypatch.setattr(upkeep, "OWNERLESS_AGE_MAX_MS", -1_000)

    async def scenario(store: ElasticsearchStore) -> None:
        assert store._parts is not None
        part = store._parts.journal

        async def die(*_: Any) -> Any:
            raise StoreUnavailable("died here")

        create = part._create
        part._create = die  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailable):
            await store.accept(invocation("r1", idempotency_key="k"))
        part._create = create  # type: ignore[method-assign]
        await store.accept(invocation("r2", idempotency_key="kept"))
        assert await store.verify() == ["1 idempotency keys belong to no invocation."]
        await store.sweep(clock.now_ms(), KEEP_ALL)
        assert await store.verify() == []
        assert not (await store.accept(invocation("r3", idempotency_key="kept"))).created
        assert (await store.accept(invocation("r4", idempotency_key="k"))).created

    with_stores(elasticsearch_settings, scenario)


def test_calls_with_one_key_in_several_processes_create_one(
    elasticsearch_settings: schema.Elasticsearch,
) -> None:
    async def scenario(*stores: ElasticsearchStore) -> None:
        calls = [
            store.accept(invocation(f"r{n}-{m}", idempotency_key="k"))
            for n, store in enumerate(stores)
            for m in range(5)
        ]
        answers = await asyncio.gather(*calls)
        assert [answer.created for answer in answers].count(True) == 1
        assert len({answer.request_id for answer in answers}) == 1
        assert len(await stores[0].pending()) == 1

    with_stores(elasticsearch_settings, scenario, count=3)


# logs


def test_numbers_of_logs_are_unique_also_where_processes_draw_the_same_part(
    elasticsearch_settings: schema.Elasticsearch,
) -> None:
    async def scenario(*stores: ElasticsearchStore) -> None:
        ahead_ms = clock.now_ms() + 1_000 - 1_704_067_200_000
        for n, store in enumerate(stores):
            assert store._parts is not None
            numbers = store._parts.courier._sequence
            numbers._process, numbers._at_ms = 3, ahead_ms
            store.append_logs([log(f"{n}-{m}") for m in range(20)])
        await asyncio.gather(*[store.flush() for store in stores])
        records = await stores[0].logs(LogQuery(namespace="default"))
        wanted = sorted(f"{n}-{m}" for n in range(2) for m in range(20))
        assert sorted(record.text for record in records) == wanted
        assert len({record.sequence for record in records}) == 40
        assert all(record.sequence < 1 << 53 for record in records)

    with_stores(elasticsearch_settings, scenario, count=2)


def test_a_follower_misses_nothing_of_several_processes(
    elasticsearch_settings: schema.Elasticsearch,
) -> None:
    async def scenario(*stores: ElasticsearchStore) -> None:
        async def write(n: int) -> None:
            for m in range(30):
                stores[n].append_logs([log(f"{n}-{m}")])
                assert stores[n]._parts is not None
                await stores[n]._parts.courier.flush()  # type: ignore[union-attr]

        writing = asyncio.gather(write(0), write(1))
        seen: list[str] = []
        after = 0
        while not writing.done() or len(seen) < 60:
            page = await stores[2].logs(LogQuery(namespace="default", after=after, limit=10))
            seen += [record.text for record in page]
            after = page[-1].sequence if page else after
        await writing
        assert sorted(seen) == sorted(f"{n}-{m}" for n in range(2) for m in range(30))

    with_stores(elasticsearch_settings, scenario, count=3)


# series


def test_an_index_is_followed_by_another_and_dropped_when_nothing_in_it_has_to_stay(
    elasticsearch_fresh: schema.Elasticsearch,
) -> None:
    config = msgspec.structs.replace(elasticsearch_fresh, index_docs_max=2)

    def indices(series: str) -> list[str]:
        found = elasticsearch_cluster.ask(config.urls, "GET", f"/{config.index_prefix}-*/_alias")
        return sorted(name for name in found if name.startswith(f"{config.index_prefix}-{series}-"))

    async def scenario(store: ElasticsearchStore, uninformed: ElasticsearchStore) -> None:
        begun_ms = clock.now_ms()
        first = [request_id_at(begun_ms + n) for n in range(3)]
        for id_ in first:
            await store.accept(invocation(id_))
        await store.flush()
        await store.sweep(begun_ms, KEEP_ALL)
        assert len(indices("invocations")) == 2
        second_ms = names.beginning_of(
            f"{config.index_prefix}-invocations", indices("invocations")[1]
        )
        assert second_ms is not None
        assert begun_ms + 60_000 <= second_ms <= begun_ms + 120_000
        second = [request_id_at(second_ms + n) for n in range(3)]
        for n, id_ in enumerate(second):
            await store.accept(invocation(id_, idempotency_key=f"k{n}"))
        strayed = request_id_at(second_ms + 5)
        await uninformed.accept(invocation(strayed))
        for id_ in [*first, *second, strayed]:
            assert await store.event("default", id_) == b"{}"
        record = outcome(strayed, finished_at_ms=second_ms)
        assert await store.record_outcome(record)
        assert not await store.record_outcome(record)
        await store.flush()
        await store.sweep(second_ms + 10, KEEP_ALL)
        assert len(indices("invocations")) == 3
        later_ms = second_ms + DAY_MS
        for id_ in [*first, *second[1:]]:
            await store.record_outcome(outcome(id_, finished_at_ms=second_ms))
        ages = msgspec.structs.replace(KEEP_ALL, invocations_age_max_ms=1_000)
        swept = await store.sweep(later_ms, ages)
        assert swept.invocations == 6
        assert [item.request_id for item in await store.pending()] == [second[0]]
        assert len(indices("invocations")) == 3, "an unfinished invocation keeps its index"
        assert (await store.accept(invocation("anew", idempotency_key="k1"))).created
        assert not (await store.accept(invocation("again", idempotency_key="k0"))).created
        await store.record_outcome(outcome(second[0], finished_at_ms=second_ms))
        assert (await store.sweep(later_ms, ages)).invocations == 1
        assert len(indices("invocations")) == 2
        assert (await uninformed.accept(invocation("even", idempotency_key="k0"))).created
        assert await uninformed.event("default", second[0]) is None
        assert not await uninformed.record_outcome(outcome(second[0]))
        assert await store.verify() == []

    with_stores(config, scenario, count=2)


def test_logs_go_with_their_index(elasticsearch_fresh: schema.Elasticsearch) -> None:
    config = msgspec.structs.replace(elasticsearch_fresh, index_docs_max=1)

    async def scenario(store: ElasticsearchStore) -> None:
        assert store._parts is not None
        now_ms = clock.now_ms()
        numbers = store._parts.courier._sequence
        store.append_logs([log("old", at_ms=now_ms), log("older", at_ms=now_ms - 9_000)])
        await store.flush()
        for step in (1, 2):
            await store.sweep(now_ms + step * DAY_MS, KEEP_ALL)
            numbers._at_ms = now_ms + step * DAY_MS + 200_000 - 1_704_067_200_000
            store.append_logs([log(f"new{step}", at_ms=now_ms + step * DAY_MS)])
            await store.flush()
        assert len(store._parts.indices.of(store._parts.indices.names.logs)) == 3
        ages = msgspec.structs.replace(KEEP_ALL, logs_age_max_ms=DAY_MS)
        assert (await store.sweep(now_ms + 2 * DAY_MS + 1, ages)).logs == 3
        begins = [one[1] for one in store._parts.indices.of(store._parts.indices.names.logs)]
        assert begins[0] == 0
        assert len(begins) == 3
        query = LogQuery(namespace="default")
        assert [record.text for record in await store.logs(query)] == ["new2"]

    with_stores(config, scenario)


def test_beginnings_and_times_are_read_from_names() -> None:
    assert names.time_of(request_id_at(1_234_567_890_123)) == 1_234_567_890_123
    for other in ("r1", "", "x" * 36, "019a8f6e-0000-4000-8000-000000000000"):
        assert names.time_of(other) == 0
    begins = [0, 1_000, 2_000]
    wanted = {0: 0, 999: 0, 1_000: 1_000, 1_999: 1_000, 9_999: 2_000}
    for time_ms, begin in wanted.items():
        assert names.index_at("s", begins, time_ms) == names.index_name("s", begin)
    assert names.beginning_of("s", names.index_name("s", 77)) == 77
    assert names.beginning_of("s", "s-other") is None
    assert names.index_at("s", [1_000], 5) == names.index_name("s", 1_000)


# migration


def test_several_processes_may_open_at_once_and_again(
    elasticsearch_fresh: schema.Elasticsearch,
) -> None:
    async def scenario(*stores: ElasticsearchStore) -> None:
        await stores[0].accept(invocation("r1"))
        assert await stores[1].event("default", "r1") == b"{}"

    with_stores(elasticsearch_fresh, scenario, count=4)
    with_stores(elasticsearch_fresh, scenario, count=2)


def test_indices_of_a_newer_version_are_refused(elasticsearch_fresh: schema.Elasticsearch) -> None:
    async def nothing(store: ElasticsearchStore) -> None:
        await store.flush()

    urls, name = elasticsearch_fresh.urls, f"{elasticsearch_fresh.index_prefix}-logs"
    with_stores(elasticsearch_fresh, nothing)
    found = elasticsearch_cluster.ask(urls, "GET", f"/_index_template/{name}")
    template = found["index_templates"][0]["index_template"]
    for unwritable in (
        "created_date_millis",
        "modified_date_millis",
        "created_date",
        "modified_date",
    ):
        template.pop(unwritable, None)
    elasticsearch_cluster.ask(urls, "PUT", f"/_index_template/{name}", template | {"version": 999})
    with pytest.raises(PlatformError, match="newer Pratai") as refused:
        with_stores(elasticsearch_fresh, nothing)
    assert refused.value.next_step


def test_indices_of_an_older_version_get_what_is_new(
    elasticsearch_fresh: schema.Elasticsearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pratai.store.elasticsearch import indices

    current = indices.mapping_of

    def without_failures(name: str, known: names.Names) -> dict[str, Any]:
        wanted = current(name, known)
        wanted["mappings"]["properties"].pop("failure", None)
        return wanted

    async def before(store: ElasticsearchStore) -> None:
        with pytest.raises(InvalidField):
            await store.accept(invocation("r1"))

    async def after(store: ElasticsearchStore) -> None:
        assert (await store.accept(invocation("r1"))).created

    with monkeypatch.context() as older:
        older.setattr(indices, "mapping_of", without_failures)
        with_stores(elasticsearch_fresh, before)
    monkeypatch.setattr(indices, "SCHEMA", indices.SCHEMA + 1)
    with_stores(elasticsearch_fresh, after)


# trouble


def test_a_cluster_that_is_not_there_is_told_at_once() -> None:
    async def nothing(store: ElasticsearchStore) -> None:
        await store.flush()

    with pytest.raises(StoreUnavailable) as refused:
        with_stores(schema.Elasticsearch(urls="http://127.0.0.1:9,http://127.0.0.1:19"), nothing)
    assert "elasticsearch.urls" in refused.value.next_step


def test_a_store_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError) as refused:
        ElasticsearchStore(schema.Elasticsearch(), schema.Store())
    assert "pratai[elasticsearch]" in refused.value.next_step


def test_secrets_come_from_files_and_bad_settings_are_named(tmp_path: Path) -> None:
    from pratai.store.elasticsearch.connection import _options

    secret = tmp_path / "secret"
    secret.write_text("swordfish\n")
    by_user = schema.Elasticsearch(username="pratai", password_file=str(secret))
    assert _options(by_user)["basic_auth"] == ("pratai", "swordfish")
    by_key = schema.Elasticsearch(urls="https://a, http://b:1/x", api_key_file=str(secret))
    options = _options(by_key)
    assert options["api_key"] == "swordfish"
    assert options["hosts"] == ["https://a:9200", "http://b:1/x"]
    assert options["verify_certs"] is True
    for bad in ({"urls": " , "}, {"urls": "localhost"}, {"api_key_file": str(tmp_path / "none")}):
        with pytest.raises(ConfigError) as refused:
            Connection(schema.Elasticsearch(**bad))
        assert refused.value.field == f"elasticsearch.{next(iter(bad))}"


def test_an_invocation_recorded_or_leased_while_nothing_is_taken_is_kept_for_later(
    elasticsearch_settings: schema.Elasticsearch,
) -> None:
    async def scenario(store: ElasticsearchStore) -> None:
        assert store._parts is not None
        await store.accept(invocation("r1"))
        store._parts.writer.trouble = StoreUnavailable("out of order", retry_after_s=1)
        store.record(invocation("r2", outcome="failed"))
        store.record_lease(
            LeaseRecord(namespace="default", request_id="r1", attempt=1, node_id="n", at_ms=1)
        )
        store.append_logs([log("x")])
        with pytest.raises(StoreUnavailable):
            await store.flush()
        assert not store.stats().healthy
        await store._parts.probe()
        assert store.stats().healthy
        await store.flush()
        assert await store.invocation("default", "r2") is not None
        known = await store.invocation("default", "r1")
        assert known is not None
        assert known.state == "leased"
        assert store.stats().dropped == 0

    with_stores(elasticsearch_settings, scenario)


# buffers


def idle() -> int:
    return 0


def test_a_full_buffer_gives_up_successes_and_keeps_failures() -> None:
    kept = Buffers(schema.Store(record_buffer_max=3))
    for n in range(2 + 2 * buffers.SAMPLE):
        if kept.wants_success(0, idle):
            kept.add_record(invocation(f"s{n}", outcome="succeeded"))
    assert kept.dropped == 2 * buffers.SAMPLE - 1, "the last place is filled by a sample"
    for n in range(4):
        kept.add_record(invocation(f"f{n}", outcome="failed"))
    kept.add_record(invocation("s9", outcome="succeeded"))
    records, _ = kept.take_records(10)
    assert [record.request_id for record in records] == ["f1", "f2", "f3"]
    assert kept.dropped == 2 * buffers.SAMPLE - 1 + 3 + 1 + 1
    assert len(kept) == 0


def test_buffers_are_bounded_in_bytes() -> None:
    kept = Buffers(schema.Store())
    half = b"x" * (buffers.BYTES_MAX // 2)
    for n in range(3):
        kept.add_record(invocation(f"s{n}", outcome="succeeded", event=half))
    kept.add_record(invocation("f1", outcome="failed", event=half))
    kept.add_logs([log("x")])
    assert kept.dropped == 3
    records, logs = kept.take_records(10)
    assert [record.request_id for record in records] == ["f1", "s1"]
    assert logs == []
    kept.add_logs([log("x")])
    assert len(kept) == 1


def test_neither_logs_nor_successes_keep_the_other_waiting() -> None:
    kept = Buffers(schema.Store())
    for n in range(20):
        kept.add_record(invocation(f"s{n}", outcome="succeeded"))
        kept.add_logs([log("x")])
    kept.add_record(invocation("f", outcome="failed"))
    records, logs = kept.take_records(11)
    assert records[0].request_id == "f"
    assert (len(records), len(logs)) == (6, 5)


def test_leases_beyond_the_bound_are_dropped_and_an_outcome_takes_its_lease_along() -> None:
    kept = Buffers(schema.Store(record_buffer_max=2))
    for n in range(3):
        kept.add_lease(
            LeaseRecord(namespace="a", request_id=f"r{n}", attempt=1, node_id="n", at_ms=1)
        )
    assert kept.dropped == 1
    kept.drop_lease("a", "r0")
    assert [record.request_id for record in kept.take_leases(10)] == ["r1"]


def test_beside_a_busy_loop_only_so_many_successes_are_wanted() -> None:
    kept = Buffers(schema.Store(record_busy_rate_max=50))
    assert kept.wants_success(buffers.WINDOW_US, lambda: 0)
    busy = [kept.wants_success(2 * buffers.WINDOW_US, lambda: buffers.WINDOW_US) for _ in range(9)]
    assert busy == [True] * 5 + [False] * 4
    assert kept.dropped == 4


def test_steps_of_a_sweep_take_no_more_than_must_go() -> None:
    hits = [{"_source": {"bytes": 100}} for _ in range(10)]
    assert len(upkeep._first(hits, 250)) == 3
    assert len(upkeep._first(hits, 10_000)) == 10
