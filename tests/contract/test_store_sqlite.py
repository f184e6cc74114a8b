"""What only the SQLite store promises: grouped commits, bounds, trouble with the disk, kill -9."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path

import pytest
import uvloop

from pratai.config import schema
from pratai.errors import InvalidField, PlatformError, StoreUnavailable
from pratai.model.invocation import Invocation, LogRecord
from pratai.store.base import (
    Document,
    InvocationQuery,
    LeaseRecord,
    LogQuery,
    OutcomeRecord,
    Retention,
)
from pratai.store.sqlite import SqliteStore, statements
from pratai.store.sqlite.buffers import (
    BYTES_MAX,
    LEASES_EVERY_US,
    RECORDS_EVERY_US,
    SAMPLE,
    Buffers,
)
from pratai.store.sqlite.writes import LEASE, LOG, RECORD

CHILD = """
import asyncio, sys
from pratai import ids
from pratai.config import schema
from pratai.model.invocation import Invocation
from pratai.store.sqlite import SqliteStore

async def main():
    store = SqliteStore(sys.argv[1], schema.Store())
    await store.open()
    async def accept_on_and_on():
        while True:
            request_id = ids.request_id()
            await store.accept(Invocation(
                namespace="default", request_id=request_id, function="f", version="1",
                event=request_id.encode(), mode="async",
            ))
            print(request_id, flush=True)
    await asyncio.gather(*[accept_on_and_on() for _ in range(16)])

asyncio.run(main())
"""


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


def record(request_id: str, outcome: str = "succeeded", **fields: object) -> Invocation:
    return invocation(request_id, mode="sync", state="done", outcome=outcome, **fields)


def outcome(request_id: str) -> OutcomeRecord:
    return OutcomeRecord(
        namespace="default", request_id=request_id, attempt=1, outcome="succeeded", dead=False
    )


def log(text: str) -> LogRecord:
    return LogRecord(
        namespace="default",
        function="f",
        version="1",
        request_id="r",
        instance_id="i",
        at_ms=1,
        level="INFO",
        text=text,
    )


def with_store(
    path: Path,
    scenario: Callable[[SqliteStore], Awaitable[None]],
    run: Callable[[Coroutine[None, None, None]], None] = asyncio.run,
    **settings: object,
) -> None:
    async def within() -> None:
        store = SqliteStore(str(path), schema.Store(**settings))
        await store.open()
        try:
            await scenario(store)
        finally:
            await store.close()

    run(asyncio.wait_for(within(), 60))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "pratai.db"


class HeldDisk:
    """Holds the writer's thread up inside its next commit until let go."""

    def __init__(self, store: SqliteStore) -> None:
        self._free = threading.Event()
        self.is_held = threading.Event()
        assert store._writing is not None
        writes = store._writing._writes
        self._apply = writes.apply
        writes.apply = self._wait_and_apply  # type: ignore[method-assign]

    def _wait_and_apply(self, kind: int, items: object) -> object:
        self.is_held.set()
        assert self._free.wait(20)
        return self._apply(kind, items)  # type: ignore[arg-type]

    def let_go(self) -> None:
        self._free.set()


async def held(store: SqliteStore) -> tuple[HeldDisk, asyncio.Future[object]]:
    disk = HeldDisk(store)
    first = asyncio.ensure_future(store.accept(invocation("first")))
    assert await asyncio.to_thread(disk.is_held.wait, 20)
    return disk, first


# grouping


def test_what_arrives_during_a_commit_shares_the_next_one(path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        disk, first = await held(store)
        rest = [asyncio.ensure_future(store.accept(invocation(f"r{n}"))) for n in range(200)]
        await asyncio.sleep(0)
        assert store.stats().waiting == 201
        disk.let_go()
        await asyncio.gather(first, *rest)
        stats = store.stats()
        assert (stats.commits, stats.writes, stats.waiting) == (2, 201, 0)

    with_store(path, scenario)


def test_a_batch_of_one_commits_for_each_write(path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        await asyncio.gather(*[store.accept(invocation(f"r{n}")) for n in range(50)])
        assert (store.stats().commits, store.stats().writes) == (50, 50)

    with_store(path, scenario, batch_max=1)


def test_writes_beyond_the_bound_are_refused_with_a_time_to_ask_again(path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        disk, first = await held(store)
        second = asyncio.ensure_future(store.accept(invocation("second")))
        await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable) as refused:
            await store.accept(invocation("third"))
        assert refused.value.retry_after_s == 1
        disk.let_go()
        await asyncio.gather(first, second)
        assert (await store.accept(invocation("third"))).created

    with_store(path, scenario, waiting_max=2)


def test_a_value_that_cannot_be_stored_fails_alone(path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        disk, first = await held(store)
        rest = [store.accept(invocation(f"r{n}")) for n in range(10)]
        bad = [
            store.accept(invocation("bad1", function="\ud800")),
            store.accept(invocation("bad2", accepted_at_ms=1 << 70)),
        ]
        gathered = asyncio.gather(
            *rest, *bad, store.record_outcome(outcome("r3")), return_exceptions=True
        )
        store.append_logs([log("good"), log("bad \ud800")])
        await asyncio.sleep(0)
        disk.let_go()
        answers = await gathered
        await first
        assert all(answer.created for answer in answers[:10])
        assert [type(answer) for answer in answers[10:12]] == [InvalidField, InvalidField]
        assert answers[12] is True
        await store.flush()
        assert [r.text for r in await store.logs(LogQuery(namespace="default"))] == ["good"]
        assert store.stats().dropped == 1
        assert store.stats().healthy
        assert await store.verify() == []

    with_store(path, scenario)


def test_a_large_batch_with_repetitions_answers_each_for_itself(path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        count = 2 * statements.ROWS_MAX + 3
        await asyncio.gather(*[store.accept(invocation(f"r{n}")) for n in range(count)])
        assert await store.record_outcome(outcome("r5"))
        disk, first = await held(store)
        given = [*range(count), 1, count - 1, count + 1]
        answers = asyncio.gather(*[store.record_outcome(outcome(f"r{n}")) for n in given])
        for request_id in ("r7", "s1", "s2", "s1"):
            store.record(record(request_id, event=request_id.encode()))
        await asyncio.sleep(0)
        disk.let_go()
        await first
        assert await answers == [n != 5 for n in range(count)] + [False] * 3
        await store.flush()
        assert [item.request_id for item in await store.pending()] == ["first"]
        assert await store.event("default", "s2") == b"s2"
        assert await store.event("default", "r7") == b"{}", "what was journalled stays"
        assert await store.verify() == []

    with_store(path, scenario)


def test_a_lease_whose_outcome_comes_first_is_never_written(path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        await store.accept(invocation("r1"))
        store.record_lease(
            LeaseRecord(namespace="default", request_id="r1", attempt=7, node_id="n", at_ms=1)
        )
        assert await store.record_outcome(outcome("r1"))
        await store.flush()
        known = await store.invocation("default", "r1")
        assert known is not None
        assert (known.attempt, store.stats().writes) == (1, 2)

    with_store(path, scenario)


def test_a_loop_that_never_rests_does_not_starve_the_writer_or_the_readers(path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        async def never_rest() -> None:
            while True:
                count = 0
                for n in range(2_000):
                    count += n
                await asyncio.sleep(0)

        busy = asyncio.ensure_future(never_rest())
        for n in range(300):
            await store.accept(invocation(f"r{n}"))
            assert await store.event("default", f"r{n}") == b"{}"
        busy.cancel()

    with_store(path, scenario, uvloop.run)


# best effort


def test_what_was_recorded_is_read_right_after(path: Path) -> None:
    """Records and logs wait for their batch; a reader does not."""

    async def scenario(store: SqliteStore) -> None:
        store.record(record("r1"))
        found = await store.invocation("default", "r1")
        assert found is not None
        assert found.outcome == "succeeded"
        store.record(record("r2", "failed"))
        page = await store.invocations(InvocationQuery(namespace="default"))
        assert [item.request_id for item in page.items] == ["r2", "r1"]
        store.append_logs([log("said")])
        assert [item.text for item in await store.logs(LogQuery(namespace="default"))] == ["said"]

    with_store(path, scenario)


def test_a_full_buffer_gives_up_successes_and_keeps_failures() -> None:
    buffers = Buffers(3, batch_max=100, successes=True)
    for n in range(2 + 2 * SAMPLE):
        if buffers.wants_success():
            buffers.add_record(record(f"s{n}"))
    assert buffers.dropped == 2 * SAMPLE - 1, "the last place is filled by a sample"
    for n in range(4):
        buffers.add_record(record(f"f{n}", "failed"))
    buffers.add_record(record("s9"))
    taken = buffers.take(0, at_once=True)
    assert [(kind, item.request_id) for kind, item, _ in taken] == [
        (RECORD, "f1"),
        (RECORD, "f2"),
        (RECORD, "f3"),
    ]
    assert buffers.dropped == 2 * SAMPLE - 1 + 3 + 1 + 1
    assert len(buffers) == 0


def test_of_successes_beyond_half_the_buffer_one_in_a_few_is_kept() -> None:
    buffers = Buffers(20, batch_max=100, successes=True)
    for n in range(10 + 5 * SAMPLE):
        if buffers.wants_success():
            buffers.add_record(record(f"r{n}"))
    kept = [int(item.request_id[1:]) for _, item, _ in buffers.take(0, at_once=True)]
    assert kept == [*range(10), *range(9 + SAMPLE, 10 + 5 * SAMPLE, SAMPLE)]
    assert buffers.dropped == 5 * (SAMPLE - 1)


def test_buffers_are_bounded_in_bytes() -> None:
    buffers = Buffers(1_000, batch_max=100, successes=True)
    half = b"x" * (BYTES_MAX // 2)
    for n in range(3):
        buffers.add_record(record(f"s{n}", event=half))
    buffers.add_record(record("f1", "failed", event=half))
    buffers.add_logs([log("x")])
    assert buffers.dropped == 3
    assert [item.request_id for _, item, _ in buffers.take(0, at_once=True)] == ["f1", "s1"]
    buffers.add_logs([log("x")])
    assert [kind for kind, _, _ in buffers.take(0, at_once=True)] == [LOG]


def test_leases_and_logs_beyond_the_bound_are_dropped_and_counted() -> None:
    buffers = Buffers(2, batch_max=100, successes=True)
    for n in range(3):
        buffers.add_lease(
            LeaseRecord(namespace="a", request_id=f"r{n}", attempt=1, node_id="n", at_ms=1)
        )
    buffers.add_logs([log("1"), log("2"), log("3"), log("4")])
    assert buffers.dropped == 3
    buffers.drop_lease("a", "r0")
    assert [kind for kind, _, _ in buffers.take(0, at_once=True)] == [LEASE, LOG, LOG]


def test_records_leave_at_their_pace_and_leases_sooner() -> None:
    buffers = Buffers(1_000, batch_max=10, successes=True)
    assert buffers.add_record(record("r0"))
    assert not buffers.add_record(record("r1")), "the writer is told once"
    for n in range(2, 15):
        buffers.add_record(record(f"r{n}"))
    assert buffers.add_lease(
        LeaseRecord(namespace="a", request_id="r", attempt=1, node_id="n", at_ms=1)
    )
    assert buffers.due_us(0) == LEASES_EVERY_US
    assert buffers.take(LEASES_EVERY_US - 1) == []
    assert [kind for kind, _, _ in buffers.take(LEASES_EVERY_US)] == [LEASE]
    assert buffers.due_us(LEASES_EVERY_US) == RECORDS_EVERY_US
    assert len(buffers.take(RECORDS_EVERY_US)) == 10
    assert buffers.take(RECORDS_EVERY_US + 1) == []
    assert buffers.due_us(RECORDS_EVERY_US + 1) == 2 * RECORDS_EVERY_US
    assert len(buffers.take(2 * RECORDS_EVERY_US)) == 5
    assert buffers.due_us(2 * RECORDS_EVERY_US) is None
    assert buffers.add_record(record("later")), "the writer knows of nothing and is told again"


def test_neither_logs_nor_successes_keep_the_other_waiting() -> None:
    buffers = Buffers(1_000, batch_max=10, successes=True)
    for n in range(20):
        buffers.add_record(record(f"s{n}"))
        buffers.add_logs([log("x")])
    buffers.add_record(record("f", "failed"))
    assert buffers.take(0) == []
    kinds = [kind for kind, _, _ in buffers.take(RECORDS_EVERY_US)]
    assert (kinds[0], kinds.count(RECORD), kinds.count(LOG)) == (RECORD, 5, 5)


def test_best_effort_writes_never_make_the_loop_stop(path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        assert store._writing is not None
        turns = store._writing._turns
        store.record(record("r1"))
        store.append_logs([log("x")])
        store.record_lease(
            LeaseRecord(namespace="a", request_id="r", attempt=1, node_id="n", at_ms=1)
        )
        assert not turns._is_watching
        await store.accept(invocation("r2"))
        assert turns._is_watching

    with_store(path, scenario)


def test_successes_are_not_recorded_where_only_failures_are_wanted(path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        store.record(record("r1"))
        store.record(record("r2", "timed_out"))
        await store.flush()
        page = await store.invocations(InvocationQuery(namespace="default"))
        assert [item.request_id for item in page.items] == ["r2"]
        assert store.stats().dropped == 0

    with_store(path, scenario, record_sync="failures")


# the file


def test_everything_is_there_after_reopening(path: Path) -> None:
    async def before(store: SqliteStore) -> None:
        for n in range(4):
            await store.accept(invocation(f"r{n}", idempotency_key=f"k{n}"))
        await store.record_outcome(outcome("r1"))
        await store.put(Document(kind="key", namespace="default", id="k", body=b"1"))
        store.record(record("sync", event=b"needle"))
        store.append_logs([log("first")])

    async def after(store: SqliteStore) -> None:
        assert [item.request_id for item in await store.pending()] == ["r0", "r2", "r3"]
        assert not (await store.accept(invocation("new", idempotency_key="k3"))).created
        document = await store.get("key", "default", "k")
        assert document is not None
        assert await store.delete(document)
        await store.flush()
        page = await store.invocations(InvocationQuery(namespace="default", search="needle"))
        assert [item.request_id for item in page.items] == ["sync"]
        assert await store.verify() == []

    async def at_last(store: SqliteStore) -> None:
        revision = await store.put(Document(kind="key", namespace="default", id="k", body=b"1"))
        assert revision > 1, "a revision never comes back"

    with_store(path, before)
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["pratai.db", "pratai.db.lock"]
    assert path.stat().st_mode & 0o077 == 0
    with_store(path, after)
    with_store(path, at_last)


def test_a_sequence_is_not_given_again_after_its_log_was_swept(path: Path) -> None:
    async def written(store: SqliteStore) -> int:
        store.append_logs([log("x")])
        await store.flush()
        return (await store.logs(LogQuery(namespace="default")))[-1].sequence

    numbers: list[int] = []

    async def scenario(store: SqliteStore) -> None:
        numbers.append(await written(store))
        await store.sweep(
            1_000,
            Retention(
                invocations_age_max_ms=1, dead_age_max_ms=1, logs_age_max_ms=1, bytes_max=10**9
            ),
        )
        assert await store.logs(LogQuery(namespace="default")) == []

    with_store(path, scenario)
    with_store(path, scenario)
    assert numbers == [1, 2]


def test_migrations_are_numbered_without_gaps_and_applied_once(path: Path) -> None:
    async def nothing(store: SqliteStore) -> None:
        await store.flush()

    def schema_of() -> tuple[object, ...]:
        connection = sqlite3.connect(path)
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
        vacuum = connection.execute("PRAGMA auto_vacuum").fetchone()[0]
        connection.close()
        return version, tables, vacuum

    with_store(path, nothing)
    first = schema_of()
    with_store(path, nothing)
    assert schema_of() == first
    assert first[0] == len(statements.migrations())
    assert first[2] == 2, "pages can be given back in steps"


def test_a_database_of_a_newer_version_is_refused(path: Path) -> None:
    async def nothing(store: SqliteStore) -> None:
        await store.flush()

    with_store(path, nothing)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    for _ in range(2):
        with pytest.raises(PlatformError, match="newer Pratai") as refused:
            with_store(path, nothing)
        assert refused.value.next_step


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    async def nothing(store: SqliteStore) -> None:
        await store.flush()

    path.parent.mkdir()
    path.write_bytes(b"hello" * 1_000)
    with pytest.raises(PlatformError, match="not a database"):
        with_store(path, nothing)


def test_a_database_in_use_is_refused_by_the_process_that_holds_it(path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        second = SqliteStore(str(path), schema.Store())
        with pytest.raises(PlatformError) as refused:
            await second.open()
        assert str(os.getpid()) in refused.value.detail
        assert "--data-dir" in refused.value.next_step
        assert (await store.accept(invocation("r1"))).created

    with_store(path, scenario)


def test_every_statement_says_what_it_is_for() -> None:
    text = (Path(statements.__file__).parent / "queries.sql").read_text()
    lines = text.splitlines()
    named = [at for at, line in enumerate(lines) if line.startswith("-- name: ")]
    assert len(named) == len(statements.load()) > 50
    for at in named:
        assert lines[at + 1].startswith("-- "), lines[at]
    assert all(statements.load().values())


@pytest.mark.parametrize(
    ("names", "index"),
    [
        (["where_cursor"], "invocation_by_request"),
        (["where_function", "where_state"], "invocation_by_function"),
        (["where_outcome", "where_unsuccessful"], "invocation_unsuccessful"),
        (["where_dead"], "invocation_dead"),
    ],
)
def test_listings_use_their_index_and_sort_nothing(
    path: Path, names: list[str], index: str
) -> None:
    async def nothing(store: SqliteStore) -> None:
        await store.flush()

    with_store(path, nothing)
    sql = statements.load()
    query = sql["invocations"].replace("/* where */", " ".join(sql[name] for name in names))
    connection = sqlite3.connect(path)
    values = dict.fromkeys(("namespace", "cursor", "function", "state", "outcome"), "x")
    plan = connection.execute(f"EXPLAIN QUERY PLAN {query}", values | {"limit": 1}).fetchall()
    connection.close()
    assert [row[3].split(" (")[0] for row in plan] == [f"SEARCH invocation USING INDEX {index}"]


# trouble


def test_a_full_disk_refuses_writes_until_there_is_room(path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        assert store._writing is not None
        connection = store._writing._connection
        await store.accept(invocation("before"))
        await store.flush()
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
        big = [store.accept(invocation(f"r{n}", event=b"x" * 100_000)) for n in range(3)]
        answers = await asyncio.gather(*big, return_exceptions=True)
        assert {type(answer) for answer in answers} == {StoreUnavailable}
        assert "disk is full" in str(answers[0])
        assert not store.stats().healthy
        assert await store.event("default", "before") == b"{}", "reading goes on"
        connection.execute("PRAGMA max_page_count = 1000000")
        assert (await store.accept(invocation("r1"))).created
        assert store.stats().healthy
        assert await store.verify() == []

    with_store(path, scenario)


def test_a_store_that_nobody_uses_becomes_healthy_by_itself(path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        assert store._writing is not None
        writer = store._writing
        connection = writer._connection
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreUnavailable):
            await store.accept(invocation("r1", event=b"x" * 1_000_000))
        connection.execute("PRAGMA max_page_count = 1000000")
        was_well = threading.Event()
        is_well = writer._is_well
        writer._is_well = lambda: (is_well(), was_well.set())  # type: ignore[method-assign]
        assert await asyncio.to_thread(was_well.wait, 20)
        assert store.stats().healthy

    with_store(path, scenario)


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT])
def test_after_an_error_of_the_disk_the_file_is_opened_anew(path: Path, code: int) -> None:
    async def scenario(store: SqliteStore) -> None:
        assert store._writing is not None
        writes = store._writing._writes
        await store.accept(invocation("before"))

        def fail(kind: int, items: object) -> object:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = code
            raise error

        writes.apply = fail  # type: ignore[method-assign,assignment]
        with pytest.raises(StoreUnavailable):
            await store.accept(invocation("r1"))
        assert (await store.accept(invocation("r1"))).created
        assert [item.request_id for item in await store.pending()] == ["before", "r1"]
        assert await store.verify() == []

    with_store(path, scenario)


def test_every_acknowledged_invocation_survives_kill_9(path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    acknowledged = [child.stdout.readline().strip() for _ in range(2_000)]
    child.send_signal(signal.SIGKILL)
    acknowledged += [line.strip() for line in child.stdout if line.endswith("\n")]
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()

    async def scenario(store: SqliteStore) -> None:
        assert await store.verify() == []
        kept = {item.request_id for item in await store.pending(limit=1_000_000)}
        assert len(acknowledged) >= 2_000
        assert set(acknowledged) <= kept
        last = acknowledged[-1]
        assert await store.event("default", last) == last.encode()
        await store.flush()
        page = await store.invocations(InvocationQuery(namespace="default", search=last))
        assert [item.request_id for item in page.items] == [last]

    with_store(path, scenario)
