"""The embedded store: the contract of `store/base.py` on one SQLite file.

Durable writes go to the writer's thread, reads to the readers', best-effort records to buffers.
This file only hands over; how things are written is in `writer.py` and `writes.py`.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import TypeVar

from pratai import clock
from pratai.config import schema
from pratai.errors import PlatformError
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
from pratai.store.sqlite import connection as connections
from pratai.store.sqlite import reads, statements
from pratai.store.sqlite.appetite import Appetite
from pratai.store.sqlite.buffers import Buffers
from pratai.store.sqlite.turns import Turns
from pratai.store.sqlite.upkeep import SWEEP_ROWS, Step, Upkeep
from pratai.store.sqlite.writer import FLUSH, STEP, Writer, closed
from pratai.store.sqlite.writes import ACCEPT, FINISH, PUT_OR_DELETE, RETRY

T = TypeVar("T")

#: How long a read waits for what is buffered.
CATCH_UP_S = 0.5


class SqliteStore:
    """Everything durable in `path`, its WAL and its lock file. One process, one event loop."""

    def __init__(self, path: str, config: schema.Store) -> None:
        self._path = path
        self._config = config
        self._lock = connections.Lock(path)
        self._appetite = Appetite(config.record_busy_rate_max)
        self._buffers = Buffers(
            config.record_buffer_max,
            batch_max=config.record_batch_max,
            successes=config.record_sync == "all",
        )
        self._writing: Writer | None = None
        self._reading: reads.Readers | None = None

    # life

    async def open(self) -> None:
        """Open, lock and migrate; nothing when open already."""
        if self._writing is not None:
            return
        loop = asyncio.get_running_loop()
        turns = Turns(loop, self._is_outstanding)
        self._writing = await loop.run_in_executor(None, self._open, loop, turns)
        self._reading = reads.Readers(self._path, statements.load(), turns)
        self._writing.start()

    async def close(self) -> None:
        """Write what is buffered, empty the WAL, let go of the file."""
        if self._writing is None or self._reading is None:
            return
        writer, readers = self._writing, self._reading
        loop = asyncio.get_running_loop()
        self._reading = None
        await loop.run_in_executor(None, readers.close)
        await writer.close()
        await loop.run_in_executor(None, writer.join)
        self._writing = None
        self._lock.free()

    def _open(self, loop: asyncio.AbstractEventLoop, turns: Turns) -> Writer:
        try:
            connections.prepare(self._path)
            self._lock.take()
            return Writer(
                self._path,
                self._config,
                sql=statements.load(),
                loop=loop,
                buffers=self._buffers,
                turns=turns,
            )
        except BaseException as error:
            self._lock.free()
            if isinstance(error, sqlite3.Error):
                raise connections.translate(error, self._path) from error
            if isinstance(error, OSError):
                raise PlatformError(
                    f"The database cannot be opened: {error}",
                    next_step="Give a --data-dir that this user may write to.",
                ) from error
            raise

    # documents

    async def get(self, kind: str, namespace: str, id: str) -> Document | None:  # noqa: A002
        """One document, as last put."""
        return await self._readers.read(reads.document(kind, namespace, id))

    async def put(self, document: Document) -> int:
        """Create or replace; the new revision."""
        revision: int = await self._writer.submit(PUT_OR_DELETE, ("put", document))
        return revision

    async def delete(self, document: Document) -> bool:
        """Remove."""
        removed: bool = await self._writer.submit(PUT_OR_DELETE, ("delete", document))
        return removed

    async def documents(
        self,
        kind: str,
        namespace: str | None,
        *,
        prefix: str = "",
        after: str = "",
        limit: int = 100,
    ) -> list[Document]:
        """Documents of a kind in order of (namespace, id)."""
        return await self._readers.read(
            reads.documents(kind, namespace, prefix=prefix, after=after, limit=limit)
        )

    # journal

    async def accept(self, invocation: Invocation) -> Accepted:
        """Keep an accepted invocation; on disk on return."""
        accepted: Accepted = await self._writer.submit(ACCEPT, invocation)
        return accepted

    def record_lease(self, record: LeaseRecord) -> None:
        """Note an attempt, in a batch of the next 25 ms."""
        writer = self._writer
        if self._buffers.add_lease(record):
            writer.stir()

    async def record_retry(self, record: RetryRecord) -> None:
        """Back to `queued`; on disk on return."""
        await self._writer.submit(RETRY, record)

    async def record_outcome(self, record: OutcomeRecord) -> bool:
        """`done`; on disk on return."""
        future = self._writer.submit(FINISH, record)
        self._buffers.drop_lease(record.namespace, record.request_id)
        changed: bool = await future
        return changed

    def wants_success(self) -> bool:
        """Whether a further success would be kept."""
        if self._appetite.wants(clock.monotonic_us(), clock.thread_us):
            return self._buffers.wants_success()
        self._buffers.count_dropped()
        return False

    def record(self, invocation: Invocation) -> None:
        """Keep the record of a finished sync call, best effort; turned into a row by the writer."""
        writer = self._writer
        if self._buffers.add_record(invocation):
            writer.stir()

    async def event(self, namespace: str, request_id: str) -> bytes | None:
        """The event's bytes."""
        return await self._readers.read(reads.event(namespace, request_id))

    async def pending(self, *, after: str = "", limit: int = 1000) -> list[Invocation]:
        """Unfinished invocations in order of request id."""
        return await self._readers.read(reads.pending(after, limit))

    async def invocation(self, namespace: str, request_id: str) -> Invocation | None:
        """One invocation whole, also one recorded a moment ago."""
        found = await self._readers.read(reads.invocation(namespace, request_id))
        if found is None and await self._catch_up():
            found = await self._readers.read(reads.invocation(namespace, request_id))
        return found

    async def invocations(self, query: InvocationQuery) -> InvocationPage:
        """A page of invocations, newest first."""
        await self._catch_up()
        return await self._readers.read(reads.invocations(query))

    async def purge(self, namespace: str, request_ids: list[str]) -> int:
        """Remove finished invocations, a few hundred in one transaction."""
        count = 0
        for at in range(0, len(request_ids), SWEEP_ROWS):
            some = request_ids[at : at + SWEEP_ROWS]
            count += await self._step(_purge(namespace, some))
        return count

    # logs

    def append_logs(self, records: list[LogRecord]) -> None:
        """Keep log records, best effort."""
        writer = self._writer
        if self._buffers.add_logs(records):
            writer.stir()

    async def logs(self, query: LogQuery) -> list[LogRecord]:
        """Log records, oldest first."""
        await self._catch_up()
        return await self._readers.read(reads.logs(query))

    async def _catch_up(self) -> bool:
        """Have what is buffered written before it is read, as far as that is soon done.

        Best-effort records wait for their batch; who asks right after a call should see it.
        """
        if not len(self._buffers):
            return False
        flushing = asyncio.ensure_future(self.flush())
        flushing.add_done_callback(_seen)
        await asyncio.wait({flushing}, timeout=CATCH_UP_S)
        return True

    # upkeep

    async def flush(self) -> None:
        """Return once everything given before is written and searchable."""
        await self._writer.submit(FLUSH, None)

    async def sweep(self, now_ms: int, retention: Retention) -> Swept:
        """Remove what is beyond the bounds, in small steps between which writes go on."""
        invocations, logs = 0, 0
        removals: tuple[Callable[[Upkeep], Swept], ...] = (
            lambda up: up.sweeper.by_age(now_ms, retention),
            lambda up: up.sweeper.by_size(retention.bytes_max),
        )
        for remove in removals:
            while True:
                swept = await self._step(remove)
                if swept == Swept():
                    break
                invocations += swept.invocations
                logs += swept.logs
        while await self._step(lambda up: up.sweeper.has_free_pages()):
            await self._step(lambda up: up.sweeper.give_back_pages(), in_transaction=False)
        return Swept(invocations=invocations, logs=logs)

    async def verify(self) -> list[str]:
        """Check the file; problems found."""
        found = await self._readers.read(reads.problems)
        return found + await self._step(lambda up: up.problems())

    def stats(self) -> StoreStats:
        """Figures, at once."""
        writer = self._writing
        if writer is None:
            return StoreStats(
                healthy=False,
                bytes_used=0,
                waiting=0,
                dropped=self._buffers.dropped,
                commits=0,
                writes=0,
            )
        return StoreStats(
            healthy=writer.healthy,
            bytes_used=writer.bytes_used,
            waiting=writer.waiting,
            dropped=self._buffers.dropped,
            commits=writer.commits,
            writes=writer.writes,
        )

    def _is_outstanding(self) -> bool:
        writing, reading = self._writing, self._reading
        return (writing is not None and writing.waiting > 0) or (
            reading is not None and reading.waiting > 0
        )

    @property
    def _writer(self) -> Writer:
        if self._writing is None:
            raise closed()
        return self._writing

    @property
    def _readers(self) -> reads.Readers:
        if self._reading is None:
            raise closed()
        return self._reading

    async def _step(self, run: Callable[[Upkeep], T], *, in_transaction: bool = True) -> T:
        result: T = await self._writer.submit(STEP, Step(run, in_transaction))
        return result


def _purge(namespace: str, request_ids: list[str]) -> Callable[[Upkeep], int]:
    return lambda up: up.sweeper.purge(namespace, request_ids)


def _seen(flushing: asyncio.Future[None]) -> None:
    """A flush that failed is told by the writer; a read goes on without it."""
    if not flushing.cancelled():
        flushing.exception()
