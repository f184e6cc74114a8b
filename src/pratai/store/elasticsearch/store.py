"""The contract of `store/base.py` on an Elasticsearch cluster. This file hands over; see its parts.

    documents.py   documents            journal.py   accepting, leases, retries, outcomes, keys
    searches.py    listings, search     writer.py    bulks of durable writes
    courier.py     best-effort writes   upkeep.py    rolling over, sweeping, checking
    indices.py     which indices there are            refresh.py   making writes searchable

Any number of processes may share one installation; none of them is special.
"""

from __future__ import annotations

import asyncio
import importlib.util
from typing import TYPE_CHECKING

import structlog

from pratai import clock
from pratai.config import schema
from pratai.errors import ConfigError, StoreUnavailable
from pratai.model.invocation import Invocation, LogRecord
from pratai.store.base import (
    Accepted,
    Document,
    InvocationPage,
    InvocationQuery,
    LeaseRecord,
    LogQuery,
    OutcomeRecord,
    Retention,
    RetryRecord,
    StoreStats,
    Swept,
)
from pratai.store.elasticsearch.buffers import Buffers
from pratai.store.elasticsearch.courier import Courier
from pratai.store.elasticsearch.documents import Documents
from pratai.store.elasticsearch.indices import LIST_EVERY_MS, Indices
from pratai.store.elasticsearch.journal import Journal
from pratai.store.elasticsearch.refresh import Refresher
from pratai.store.elasticsearch.searches import Searches
from pratai.store.elasticsearch.upkeep import Upkeep
from pratai.store.elasticsearch.writer import Writer, make_write

if TYPE_CHECKING:
    from pratai.store.elasticsearch.connection import Connection

#: How long a read waits for what is buffered.
CATCH_UP_S = 0.5
#: How long closing waits for what is buffered.
CLOSE_S = 5.0
#: How often the store looks after itself: tries a write where writes are refused.
LOOK_S = 0.5
#: How often what is kept is measured.
MEASURE_EVERY_US = 60_000_000
#: The document that a process writes to find out whether writes are taken.
PROBE_ID = "~probe"

_log = structlog.get_logger("pratai.store")


class ElasticsearchStore:
    """Everything durable in the indices `PREFIX-*` of a cluster. One event loop."""

    def __init__(self, config: schema.Elasticsearch, store: schema.Store) -> None:
        if importlib.util.find_spec("elasticsearch") is None:
            raise ConfigError(
                "The Elasticsearch store needs a library that is not installed.",
                next_step="pip install 'pratai[elasticsearch]'",
                field="store.name",
                value="elasticsearch",
            )
        self._config = config
        self._store = store
        self._buffers = Buffers(store)
        self._parts: _Parts | None = None
        self._looking: asyncio.Task[None] | None = None

    # life

    async def open(self) -> None:
        """Reach the cluster, make or migrate the indices; nothing when open already."""
        if self._parts is not None:
            return
        from pratai.store.elasticsearch.connection import Connection

        connection = Connection(self._config)
        try:
            parts = _Parts(connection, self._config, self._store, self._buffers)
            await parts.indices.prepare()
            await parts.upkeep.measure()
        except BaseException:
            await connection.close()
            raise
        self._parts = parts
        self._looking = asyncio.ensure_future(self._look_after(parts))

    async def close(self) -> None:
        """Write what is buffered, as far as that is soon done, and let go."""
        parts, self._parts = self._parts, None
        if parts is None:
            return
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})
        try:
            async with asyncio.timeout(CLOSE_S):
                await parts.courier.flush()
                await parts.writer.settle()
        except (StoreUnavailable, TimeoutError) as error:
            _log.warning("records_lost_at_close", count=len(self._buffers), reason=str(error))
        parts.courier.stop()
        await parts.writer.stop()
        await parts.connection.close()

    async def _look_after(self, parts: _Parts) -> None:
        """Keep the list of indices fresh, find out whether writes are taken again, measure."""
        measured_us = clock.monotonic_us()
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                if parts.writer.trouble is not None:
                    await parts.probe()
                if parts.indices.age_ms > LIST_EVERY_MS:
                    await parts.indices.read()
                if clock.monotonic_us() - measured_us > MEASURE_EVERY_US:
                    measured_us = clock.monotonic_us()
                    await parts.upkeep.measure()
            except Exception as error:  # noqa: BLE001  the boundary of looking after: go on with it
                _log.warning("store_not_looked_after", reason=str(error))

    # documents

    async def get(self, kind: str, namespace: str, id: str) -> Document | None:  # noqa: A002
        """One document, as last put."""
        return await self._open.documents.get(kind, namespace, id)

    async def put(self, document: Document) -> int:
        """Create or replace; the new revision."""
        return await self._open.documents.put(document)

    async def delete(self, document: Document) -> bool:
        """Remove."""
        return await self._open.documents.delete(document)

    async def documents(
        self,
        kind: str,
        namespace: str | None,
        *,
        prefix: str = "",
        after: str = "",
        limit: int = 100,
    ) -> list[Document]:
        """Documents of a kind in order of (namespace, id), as of now."""
        return await self._open.documents.listed(
            kind, namespace, prefix=prefix, after=after, limit=max(limit, 1)
        )

    # journal

    async def accept(self, invocation: Invocation) -> Accepted:
        """Keep an accepted invocation; in the translogs of all copies on return."""
        return await self._open.journal.accept(invocation)

    def record_lease(self, record: LeaseRecord) -> None:
        """Note an attempt, in a batch of the next 25 ms."""
        parts = self._open
        self._buffers.add_lease(record)
        parts.courier.stir_leases()

    async def record_retry(self, record: RetryRecord) -> None:
        """Back to `queued`; durable on return."""
        await self._open.journal.record_retry(record)

    async def record_outcome(self, record: OutcomeRecord) -> bool:
        """`done`; durable on return."""
        parts = self._open
        self._buffers.drop_lease(record.namespace, record.request_id)
        return await parts.journal.record_outcome(record)

    def wants_success(self) -> bool:
        """Whether a further success would be kept."""
        return self._buffers.wants_success(clock.monotonic_us(), clock.thread_us)

    def record(self, invocation: Invocation) -> None:
        """Keep the record of a finished sync call, best effort."""
        parts = self._open
        self._buffers.add_record(invocation)
        parts.courier.stir_records()

    async def event(self, namespace: str, request_id: str) -> bytes | None:
        """The event's bytes."""
        return await self._open.journal.event(namespace, request_id)

    async def pending(self, *, after: str = "", limit: int = 1000) -> list[Invocation]:
        """Unfinished invocations in order of request id."""
        return await self._open.searches.pending(after, limit)

    async def invocation(self, namespace: str, request_id: str) -> Invocation | None:
        """One invocation whole, also one this process recorded a moment ago."""
        parts = self._open
        found = await parts.journal.read(namespace, request_id)
        if found is None and await self._catch_up(parts):
            found = await parts.journal.read(namespace, request_id)
        return found

    async def invocations(self, query: InvocationQuery) -> InvocationPage:
        """A page of invocations, newest first."""
        parts = self._open
        await self._catch_up(parts)
        return await parts.searches.invocations(query)

    async def purge(self, namespace: str, request_ids: list[str]) -> int:
        """Remove finished invocations."""
        return await self._open.upkeep.purge(namespace, request_ids)

    # logs

    def append_logs(self, records: list[LogRecord]) -> None:
        """Keep log records, best effort."""
        parts = self._open
        self._buffers.add_logs(records)
        parts.courier.stir_records()

    async def logs(self, query: LogQuery) -> list[LogRecord]:
        """Log records, oldest first."""
        parts = self._open
        await self._catch_up(parts)
        return await parts.searches.logs(query)

    async def _catch_up(self, parts: _Parts) -> bool:
        """Have what is buffered written before it is read, as far as that is soon done."""
        if not len(self._buffers):
            return False
        flushing = asyncio.ensure_future(parts.courier.flush())
        flushing.add_done_callback(_seen)
        await asyncio.wait({flushing}, timeout=CATCH_UP_S)
        return True

    # upkeep

    async def flush(self) -> None:
        """Return once everything given before is written and searchable."""
        parts = self._open
        await parts.writer.settle()
        await parts.courier.flush()
        for target in parts.indices.names.series:
            await parts.refresher.refresh(target)
        await parts.upkeep.measure()

    async def sweep(self, now_ms: int, retention: Retention) -> Swept:
        """Remove what is beyond the bounds, in small steps between which writes go on."""
        return await self._open.upkeep.sweep(now_ms, retention)

    async def verify(self) -> list[str]:
        """Check what is kept; problems found."""
        return await self._open.upkeep.problems()

    def stats(self) -> StoreStats:
        """Figures, at once."""
        parts = self._parts
        writer = parts.writer if parts is not None else None
        return StoreStats(
            healthy=writer is not None and writer.trouble is None,
            bytes_used=parts.upkeep.bytes_used if parts is not None else 0,
            waiting=writer.waiting if writer is not None else 0,
            dropped=self._buffers.dropped,
            commits=writer.commits if writer is not None else 0,
            writes=writer.writes if writer is not None else 0,
        )

    @property
    def _open(self) -> _Parts:
        if self._parts is None:
            raise StoreUnavailable(
                "The store is closed.", next_step="Start the platform again.", retry_after_s=1
            )
        return self._parts


class _Parts:
    """What an open store is made of."""

    def __init__(
        self,
        connection: Connection,
        config: schema.Elasticsearch,
        store: schema.Store,
        buffers: Buffers,
    ) -> None:
        self.connection = connection
        self.indices = Indices(connection, config)
        self.writer = Writer(connection, config, store)
        self.refresher = Refresher(connection)
        self.documents = Documents(connection, self.indices.names, self.writer, self.refresher)
        self.journal = Journal(connection, self.indices, self.writer, self.refresher)
        self.courier = Courier(
            connection,
            self.indices,
            self.writer,
            refresher=self.refresher,
            journal=self.journal,
            buffers=buffers,
            batch_max=store.record_batch_max,
        )
        self.searches = Searches(connection, self.indices.names, self.refresher)
        self.upkeep = Upkeep(
            connection, self.indices, self.writer, refresher=self.refresher, config=config
        )

    async def probe(self) -> None:
        """Try a write to the newest index of invocations."""
        index, _, _ = self.indices.of(self.indices.names.invocations)[-1]
        source = {"void": True, "accepted_at_ms": clock.now_ms(), "token": ""}
        await self.writer.probe(make_write("index", index, PROBE_ID, source))
        if self.writer.trouble is None:
            self.courier.stir_leases()
            self.courier.stir_records()


def _seen(flushing: asyncio.Future[None]) -> None:
    """A flush that failed is told by the writer; a read goes on without it."""
    if not flushing.cancelled():
        flushing.exception()
