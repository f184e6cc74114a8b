"""The contract of stores (`store/base.py`), over every store there is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from pratai.config import schema
from pratai.errors import Conflict, PrataiError, StoreUnavailable
from pratai.model.invocation import Failure, Invocation, LogRecord, Mark
from pratai.store.base import (
    Document,
    InvocationQuery,
    LeaseRecord,
    LogQuery,
    OutcomeRecord,
    Retention,
    RetryRecord,
    Store,
)
from pratai.store.elasticsearch import ElasticsearchStore
from pratai.store.memory import MemoryStore
from pratai.store.sqlite import SqliteStore

Scenario = Callable[[Store], Awaitable[None]]
KEEP_ALL = Retention(
    invocations_age_max_ms=10**12,
    dead_age_max_ms=10**12,
    logs_age_max_ms=10**12,
    bytes_max=10**12,
)


@pytest.fixture(params=["memory", "sqlite", "elasticsearch"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    config = schema.Store()
    if request.param == "memory":
        return lambda: MemoryStore(config)
    if request.param == "elasticsearch":
        settings = request.getfixturevalue("elasticsearch_settings")
        return lambda: ElasticsearchStore(settings, config)
    return lambda: SqliteStore(str(tmp_path / "pratai.db"), config)


def over_each_store(scenario: Scenario) -> Callable[[Callable[[], Store]], None]:
    async def within(store: Store) -> None:
        await store.open()
        try:
            await scenario(store)
            assert await store.verify() == []
        finally:
            await store.close()

    def test(make: Callable[[], Store]) -> None:
        asyncio.run(asyncio.wait_for(within(make()), 30))

    test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
    return test


def invocation(request_id: str, **fields: object) -> Invocation:
    values: dict[str, object] = {
        "namespace": "default",
        "request_id": request_id,
        "function": "resize",
        "version": "3",
        "mode": "async",
        "event": b'{"n": 1}',
        "accepted_at_ms": 1_000,
        "timeline": [Mark("accepted", 1_000)],
    }
    return Invocation(**(values | fields))


def outcome(request_id: str, **fields: object) -> OutcomeRecord:
    values: dict[str, object] = {
        "namespace": "default",
        "request_id": request_id,
        "attempt": 1,
        "outcome": "succeeded",
        "dead": False,
        "finished_at_ms": 2_000,
    }
    return OutcomeRecord(**(values | fields))


def log(text: str, **fields: object) -> LogRecord:
    values: dict[str, object] = {
        "namespace": "default",
        "function": "resize",
        "version": "3",
        "request_id": "r1",
        "instance_id": "i1",
        "at_ms": 1_000,
        "level": "INFO",
        "text": text,
    }
    return LogRecord(**(values | fields))


async def found(store: Store, **filters: object) -> list[str]:
    page = await store.invocations(InvocationQuery(namespace="default", **filters))
    return [item.request_id for item in page.items]


async def texts(store: Store, **filters: object) -> list[str]:
    return [record.text for record in await store.logs(LogQuery(namespace="default", **filters))]


# documents


@over_each_store
async def test_a_document_is_read_back_as_it_was_put(store: Store) -> None:
    document = Document(kind="function", namespace="default", id="resize", body=b"{}")
    revision = await store.put(document)
    assert await store.get("function", "default", "resize") == msgspec.structs.replace(
        document, revision=revision
    )
    assert revision > 0
    assert await store.get("function", "other", "resize") is None
    assert await store.get("alias", "default", "resize") is None


@over_each_store
async def test_a_document_is_created_once(store: Store) -> None:
    document = Document(kind="key", namespace="default", id="k", body=b"1")
    await store.put(document)
    with pytest.raises(Conflict):
        await store.put(document)


@over_each_store
async def test_of_two_changes_of_one_revision_the_second_is_refused(store: Store) -> None:
    document = Document(kind="key", namespace="default", id="k", body=b"1")
    first = await store.put(document)
    changed = msgspec.structs.replace(document, body=b"2", revision=first)
    answers = await asyncio.gather(store.put(changed), store.put(changed), return_exceptions=True)
    assert [type(answer) for answer in answers] in ([int, Conflict], [Conflict, int])
    second = next(answer for answer in answers if isinstance(answer, int))
    assert second > first


@over_each_store
async def test_a_document_is_removed_only_at_its_revision(store: Store) -> None:
    document = Document(kind="key", namespace="default", id="k", body=b"1")
    revision = await store.put(document)
    with pytest.raises(Conflict):
        await store.delete(msgspec.structs.replace(document, revision=revision + 1))
    assert await store.delete(msgspec.structs.replace(document, revision=revision))
    assert not await store.delete(document)
    assert await store.put(document) > revision, "a revision never comes back"
    assert await store.delete(document), "revision 0 removes any"


@over_each_store
async def test_replacing_a_document_that_is_gone_is_a_conflict(store: Store) -> None:
    with pytest.raises(Conflict):
        await store.put(Document(kind="key", namespace="default", id="k", body=b"", revision=7))


@over_each_store
async def test_documents_are_listed_in_order_and_page_by_page(store: Store) -> None:
    for namespace in ("b", "a"):
        for id_ in ("y/2", "x/1", "x/2", "x%"):
            await store.put(Document(kind="version", namespace=namespace, id=id_, body=b""))
    listed = await store.documents("version", "a", prefix="x/")
    assert [document.id for document in listed] == ["x/1", "x/2"]
    listed = await store.documents("version", "a", after="x/1", limit=1)
    assert [document.id for document in listed] == ["x/2"]
    names: list[str] = []
    while page := await store.documents("version", None, after=names[-1] if names else "", limit=3):
        names += [f"{document.namespace}/{document.id}" for document in page]
    assert names == [f"{space}/{id_}" for space in "ab" for id_ in ("x%", "x/1", "x/2", "y/2")]


# journal


@over_each_store
async def test_an_accepted_invocation_is_read_back_whole(store: Store) -> None:
    given = invocation(
        "r1",
        qualifier="live",
        trigger="timer",
        content_type="text/plain",
        event=b"\x00\xff",
        trace="00-1-2-01",
        timeout_ms=5,
        attempts_max=3,
        backoff_ms=7,
        expires_at_ms=9,
        concurrency_max=2,
        memory_mb=64,
        replay_of="r0",
        idempotency_key="k",
    )
    accepted = await store.accept(given)
    assert (accepted.request_id, accepted.created) == ("r1", True)
    assert await store.invocation("default", "r1") == given
    assert await store.event("default", "r1") == b"\x00\xff"
    assert await store.invocation("other", "r1") is None
    assert await store.event("default", "r2") is None


@over_each_store
async def test_the_same_key_and_event_mean_the_same_invocation(store: Store) -> None:
    await store.accept(invocation("r1", idempotency_key="k"))
    again = await store.accept(invocation("r2", idempotency_key="k"))
    assert (again.request_id, again.created) == ("r1", False)
    assert await store.invocation("default", "r2") is None
    for other in ({"namespace": "other"}, {"function": "other"}, {"idempotency_key": "other"}):
        fields = {"idempotency_key": "k"} | other
        assert (await store.accept(invocation(f"r-{other}", **fields))).created


@over_each_store
async def test_the_same_key_with_another_event_is_refused(store: Store) -> None:
    await store.accept(invocation("r1", idempotency_key="k"))
    with pytest.raises(Conflict) as refused:
        await store.accept(invocation("r2", idempotency_key="k", event=b"other"))
    assert refused.value.code == "idempotency_key_reused"
    assert refused.value.field == "Idempotency-Key"


@over_each_store
async def test_of_calls_with_one_key_at_one_time_one_is_created(store: Store) -> None:
    same = [store.accept(invocation(f"r{n}", idempotency_key="k")) for n in range(20)]
    other = store.accept(invocation("s", idempotency_key="k", event=b"other"))
    answers = await asyncio.gather(*same, other, return_exceptions=True)
    assert [answer.created for answer in answers[:20]].count(True) == 1
    assert len({answer.request_id for answer in answers[:20]}) == 1
    assert isinstance(answers[20], Conflict)


@over_each_store
async def test_the_same_request_accepted_twice_is_kept_once(store: Store) -> None:
    for key in ("", "k"):
        given = invocation(f"r{key}", idempotency_key=key)
        assert (await store.accept(given)).created
        answers = await asyncio.gather(*[store.accept(given) for _ in range(3)])
        assert [answer.created for answer in answers] == [False] * 3
        with pytest.raises(Conflict):
            await store.accept(msgspec.structs.replace(given, event=b"other"))


@over_each_store
async def test_a_lease_is_seen_soon_and_older_attempts_change_nothing(store: Store) -> None:
    await store.accept(invocation("r1"))
    lease = LeaseRecord(namespace="default", request_id="r1", attempt=2, node_id="n2", at_ms=1)
    store.record_lease(lease)
    await store.flush()
    store.record_lease(msgspec.structs.replace(lease, attempt=1, node_id="n1"))
    await store.flush()
    known = await store.invocation("default", "r1")
    assert known is not None
    assert (known.state, known.attempt, known.node_id) == ("leased", 2, "n2")


@over_each_store
async def test_a_retry_goes_back_to_the_queue(store: Store) -> None:
    await store.accept(invocation("r1"))
    failure = Failure(code="crashed", fault="function", error_message="boom")
    retry = RetryRecord(
        namespace="default",
        request_id="r1",
        attempt=2,
        available_at_ms=5_000,
        failure=failure,
        marks=[Mark("retried", 1_500, 2)],
    )
    await store.record_retry(retry)
    await store.record_retry(msgspec.structs.replace(retry, attempt=1, available_at_ms=1))
    known = await store.invocation("default", "r1")
    assert known is not None
    assert (known.state, known.attempt, known.available_at_ms) == ("queued", 2, 5_000)
    assert known.failure == failure
    assert known.timeline == [Mark("accepted", 1_000), Mark("retried", 1_500, 2)]


@over_each_store
async def test_a_lease_written_after_its_own_retry_changes_nothing(store: Store) -> None:
    await store.accept(invocation("r1"))
    store.record_lease(
        LeaseRecord(namespace="default", request_id="r1", attempt=1, node_id="n1", at_ms=1)
    )
    await store.record_retry(
        RetryRecord(
            namespace="default",
            request_id="r1",
            attempt=1,
            available_at_ms=2,
            failure=None,
            marks=[],
        )
    )
    await store.flush()
    known = await store.invocation("default", "r1")
    assert known is not None
    assert (known.state, known.attempt) == ("queued", 1)


@over_each_store
async def test_an_outcome_is_recorded_exactly_once(store: Store) -> None:
    await store.accept(invocation("r1"))
    store.record_lease(
        LeaseRecord(namespace="default", request_id="r1", attempt=1, node_id="n1", at_ms=1)
    )
    given = outcome(
        "r1",
        result=b"\x00ok",
        result_content_type="text/plain",
        start_kind="cold",
        cold_reason="first",
        node_id="n1",
        instance_id="i1",
        queue_us=1,
        start_us=2,
        run_us=3,
        marks=[Mark("ran", 1_900, 1)],
    )
    late = outcome("r1", outcome="failed", attempt=2, dead=True)
    assert await asyncio.gather(store.record_outcome(given), store.record_outcome(late)) == [
        True,
        False,
    ]
    assert not await store.record_outcome(late)
    assert not await store.record_outcome(outcome("unknown"))
    store.record_lease(
        LeaseRecord(namespace="default", request_id="r1", attempt=3, node_id="n3", at_ms=1)
    )
    await store.flush()
    known = await store.invocation("default", "r1")
    assert known == invocation(
        "r1",
        state="done",
        attempt=1,
        outcome="succeeded",
        result=b"\x00ok",
        result_content_type="text/plain",
        start_kind="cold",
        cold_reason="first",
        node_id="n1",
        instance_id="i1",
        queue_us=1,
        start_us=2,
        run_us=3,
        finished_at_ms=2_000,
        timeline=[Mark("accepted", 1_000), Mark("ran", 1_900, 1)],
    )


@over_each_store
async def test_pending_lists_what_is_not_done_without_events(store: Store) -> None:
    for n in range(5):
        await store.accept(invocation(f"r{n}", namespace=f"space{n % 2}"))
    assert await store.record_outcome(outcome("r3", namespace="space1"))
    first = await store.pending(limit=2)
    rest = await store.pending(after=first[-1].request_id)
    assert [item.request_id for item in first + rest] == ["r0", "r1", "r2", "r4"]
    assert {item.event for item in first + rest} == {None}


@over_each_store
async def test_the_record_of_a_sync_call_is_kept(store: Store) -> None:
    given = invocation(
        "r1", mode="sync", state="done", outcome="succeeded", result=b"1", finished_at_ms=5
    )
    store.record(given)
    store.record(given)
    await store.flush()
    assert await store.invocation("default", "r1") == given
    assert await found(store) == ["r1"]


# searching


@over_each_store
async def test_invocations_are_listed_newest_first_page_by_page(store: Store) -> None:
    for n in range(5):
        await store.accept(invocation(f"r{n}"))
    await store.accept(invocation("r9", namespace="other"))
    query = InvocationQuery(namespace="default", limit=2)
    pages = []
    while True:
        page = await store.invocations(query)
        pages.append([item.request_id for item in page.items])
        assert {(item.event, item.result) for item in page.items} == {(None, None)}
        if not page.next_cursor:
            break
        query = msgspec.structs.replace(query, cursor=page.next_cursor)
    assert pages == [["r4", "r3"], ["r2", "r1"], ["r0"]]


@over_each_store
async def test_filters_are_combined(store: Store) -> None:
    await store.accept(invocation("r1", accepted_at_ms=1_000))
    await store.accept(invocation("r2", accepted_at_ms=2_000, function="other"))
    await store.accept(invocation("r3", accepted_at_ms=3_000))
    await store.record_outcome(outcome("r2"))
    await store.record_outcome(outcome("r3", outcome="failed", dead=True))
    await store.flush()
    assert await found(store, function="resize") == ["r3", "r1"]
    assert await found(store, state="queued") == ["r1"]
    assert await found(store, outcome="succeeded") == ["r2"]
    assert await found(store, outcome="failed") == ["r3"]
    assert await found(store, dead=True) == ["r3"]
    assert await found(store, dead=False) == ["r2", "r1"]
    assert await found(store, since_ms=2_000) == ["r3", "r2"]
    assert await found(store, until_ms=2_000) == ["r2", "r1"]
    assert await found(store, function="resize", outcome="failed", search="n", dead=True) == ["r3"]
    assert await found(store, function="other", outcome="failed") == []


@over_each_store
async def test_every_word_must_occur_somewhere_in_event_result_or_failure(store: Store) -> None:
    await store.accept(invocation("r1", event=b'{"mail": "joe@example.com", "id": "A-1234"}'))
    await store.accept(invocation("r2", event=b'{"city": "Sao Paulo", "x": "caf\\u00e9"}'))
    await store.flush()
    assert await found(store, search="joe@example") == ["r1"]
    assert await found(store, search="JOE a-12") == ["r1"]
    assert await found(store, search="example@joe") == []
    assert await found(store, search="café") == ["r2"]
    await store.record_outcome(
        outcome(
            "r1",
            outcome="failed",
            result=b"partial",
            failure=Failure(
                code="function_error",
                fault="function",
                error_type="KeyError",
                error_message="no such São",
            ),
        )
    )
    await store.flush()
    assert await found(store, search="keyerror joe partial") == ["r1"]
    assert await found(store, search="sao") == ["r2", "r1"]
    assert await found(store, search="sao paulo joe") == []
    assert await found(store, search="  ") == ["r2", "r1"]


HOSTILE = [
    '"',
    "*",
    '""',
    '"a',
    "a OR b",
    "NEAR(a b)",
    "-a",
    "a:b",
    "^a",
    "(",
    ")",
    "a*b",
    "'",
    "\x00",
]
HOSTILE += [
    "\x00a\x00",
    "{a b}",
    "text:a",
    "a AND",
    "NOT",
    "\ud800",
    "%",
    "_",
    ";--",
    "é" * 5_000,
    "a " * 5_000,
]


@over_each_store
async def test_no_search_is_ever_an_error_or_a_command(store: Store) -> None:
    await store.accept(invocation("r1", event=b"alpha beta"))
    store.append_logs([log("alpha beta")])
    await store.flush()
    for search in HOSTILE:
        assert set(await found(store, search=search)) <= {"r1"}
        assert set(await texts(store, grep=search)) <= {"alpha beta"}
    for search in ('"', "*", "gamma OR alpha", "NOT gamma", "text:alpha"):
        assert await found(store, search=search) == []
        assert await texts(store, grep=search) == []
    assert await found(store, search='"alpha" "beta"') == ["r1"]


# logs


@over_each_store
async def test_logs_are_listed_in_order_of_arrival(store: Store) -> None:
    store.append_logs([log("one"), log("two", request_id="r2", at_ms=500)])
    store.append_logs([log("three", function="other", at_ms=2_000), log("x", namespace="other")])
    await store.flush()
    records = await store.logs(LogQuery(namespace="default"))
    assert [record.text for record in records] == ["one", "two", "three"]
    numbers = [record.sequence for record in records]
    assert numbers == sorted(set(numbers))
    assert records[0] == log("one", sequence=numbers[0])
    assert await texts(store, after=numbers[0]) == ["two", "three"]
    assert await texts(store, limit=2) == ["one", "two"]
    assert await texts(store, limit=2, tail=True) == ["two", "three"]
    assert await texts(store, function="resize", tail=True, limit=1) == ["two"]
    assert await texts(store, request_id="r2") == ["two"]
    assert await texts(store, since_ms=1_000) == ["one", "three"]


@over_each_store
async def test_logs_are_searched_by_words(store: Store) -> None:
    store.append_logs([log("Connection refused by db-7"), log("connected to db-7"), log("bye")])
    await store.flush()
    assert await texts(store, grep="connect db-7") == [
        "Connection refused by db-7",
        "connected to db-7",
    ]
    assert await texts(store, grep="refused") == ["Connection refused by db-7"]
    assert await texts(store, grep="db-8") == []


# upkeep


@over_each_store
async def test_purge_removes_finished_invocations_of_the_namespace_alone(store: Store) -> None:
    for n in range(450):
        await store.accept(invocation(f"r{n:03}", idempotency_key=f"k{n}"))
    await store.accept(invocation("queued"))
    await asyncio.gather(*[store.record_outcome(outcome(f"r{n:03}")) for n in range(450)])
    ids = [f"r{n:03}" for n in range(449)]
    assert await store.purge("other", ids) == 0
    assert await store.purge("default", [*ids, "queued", "unknown"]) == 449
    assert await found(store) == ["r449", "queued"]
    await store.flush()
    assert await found(store, search="n") == ["r449", "queued"]
    assert (await store.accept(invocation("new", idempotency_key="k1"))).created
    assert not (await store.accept(invocation("old", idempotency_key="k449"))).created


@over_each_store
async def test_sweeping_by_age_spares_the_unfinished_and_keeps_dead_letters_longer(
    store: Store,
) -> None:
    for name, ended in (("old", 1_000), ("dead", 1_000), ("deader", 100), ("young", 5_000)):
        await store.accept(invocation(name))
        is_dead = name.startswith("dead")
        await store.record_outcome(outcome(name, dead=is_dead, finished_at_ms=ended))
    await store.accept(invocation("queued", accepted_at_ms=1))
    store.append_logs([log("old", at_ms=1_000), log("young", at_ms=9_000)])
    await store.flush()
    swept = await store.sweep(
        10_000,
        Retention(
            invocations_age_max_ms=6_000,
            dead_age_max_ms=9_500,
            logs_age_max_ms=5_000,
            bytes_max=10**12,
        ),
    )
    assert (swept.invocations, swept.logs) == (2, 1)
    assert await found(store) == ["young", "queued", "dead"]
    assert await texts(store) == ["young"]
    assert await found(store, search="n") == ["young", "queued", "dead"]
    assert await texts(store, grep="old") == []


@over_each_store
async def test_sweeping_by_size_removes_the_oldest_finished_until_it_fits(store: Store) -> None:
    event = b"x" * 3_000
    for n in range(400):
        await store.accept(invocation(f"r{n:03}", event=event))
    kept = ["r000", "r001"]
    outcomes = [outcome(f"r{n:03}", finished_at_ms=1_000 + n) for n in range(2, 400)]
    await store.record_outcome(outcome("r001", dead=True, outcome="failed", finished_at_ms=1))
    for record in outcomes:
        await store.record_outcome(record)
    store.append_logs([log("late", at_ms=9_000)])
    await store.flush()
    before = store.stats().bytes_used
    bound = before * 6 // 10
    swept = await store.sweep(2_000, msgspec.structs.replace(KEEP_ALL, bytes_max=bound))
    left = await found(store, limit=1_000)
    assert store.stats().bytes_used <= bound
    assert 100 <= swept.invocations < 398
    assert left == [f"r{n:03}" for n in range(399, 1 + swept.invocations, -1)] + kept[::-1]
    assert await texts(store) == ["late"]
    everything = await store.sweep(2_000, msgspec.structs.replace(KEEP_ALL, bytes_max=1))
    assert everything.logs == 1
    assert await found(store) == kept[::-1]
    assert await store.event("default", "r000") == event


@over_each_store
async def test_a_bad_item_does_not_harm_those_written_with_it(store: Store) -> None:
    given = [invocation(f"r{n}", idempotency_key="k" if n % 3 == 0 else "") for n in range(30)]
    given.insert(7, invocation("r1"))
    given.insert(11, invocation("r4", event=b"other"))
    answers = await asyncio.gather(*[store.accept(item) for item in given], return_exceptions=True)
    created = [a for a in answers if not isinstance(a, PrataiError) and a.created]
    assert len(created) == 21
    assert len(await found(store, limit=100)) == 21
    assert sum(isinstance(answer, Conflict) for answer in answers) == 1


@over_each_store
async def test_a_closed_store_says_so(store: Store) -> None:
    await store.close()
    with pytest.raises(StoreUnavailable):
        await store.accept(invocation("r1"))
    with pytest.raises(StoreUnavailable):
        await store.get("function", "default", "resize")
    with pytest.raises(StoreUnavailable):
        store.record(invocation("r1", outcome="succeeded"))
    assert not store.stats().healthy
    await store.open()
    assert (await store.accept(invocation("r1"))).created
