"""The one thread that writes: takes what waits, writes it in one transaction, commits, answers.

What arrives during a commit forms the next batch, so that a commit is shared by as many writes as
its duration brings together and a lone write waits for nobody. Durable writes come through
`submit`; best-effort ones wait in `Buffers` and join a batch at the pace set there.
Between batches the thread does one short step of upkeep at a time, without waiting for the disk
(`synchronous = NORMAL`): what a power cut takes from it is done again.

    batch fails as a whole (disk full ...)  -> every write in it gets StoreUnavailable; go on
    batch fails through one item            -> undone, then redone item by item under savepoints
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Any

import structlog

from pratai import clock
from pratai.config import schema
from pratai.errors import StoreUnavailable
from pratai.store.sqlite import connection as connections
from pratai.store.sqlite.buffers import Buffers
from pratai.store.sqlite.positions import Positions
from pratai.store.sqlite.turns import Turns
from pratai.store.sqlite.upkeep import Indexer, Step, Sweeper, Upkeep
from pratai.store.sqlite.writes import KINDS, Writes

STEP, FLUSH, CLOSE, STIR = range(KINDS, KINDS + 4)

#: No durable write for this long means idle: time to index.
IDLE_US = 50_000
#: Something not searchable for this long is indexed although writes keep coming.
INDEX_LAG_MAX_US = 500_000
#: Pause between steps of indexing while writes keep coming.
INDEX_PAUSE_US = 50_000
#: How often a store that refused a write tries again by itself.
PROBE_US = 1_000_000

Entry = tuple[int, Any, "asyncio.Future[Any] | None"]
Settled = list[tuple["asyncio.Future[Any]", Any]]

_log = structlog.get_logger("pratai.store")


class Writer:
    """Owns the writing connection. Made and started by the store, once."""

    def __init__(
        self,
        path: str,
        config: schema.Store,
        *,
        sql: dict[str, str],
        loop: asyncio.AbstractEventLoop,
        buffers: Buffers,
        turns: Turns,
    ) -> None:
        self._path = path
        self._sql = sql
        self._loop = loop
        self._batch_max = config.batch_max
        self._waiting_max = config.waiting_max
        self._queue: SimpleQueue[Entry] = SimpleQueue()
        self._buffers = buffers
        self._turns = turns
        #: Durable writes given and not answered. Changed on the loop alone.
        self.waiting = 0
        self.commits = 0
        self.writes = 0
        self.healthy = True
        self.bytes_used = 0
        self._flushes: list[tuple[asyncio.Future[Any], dict[str, int]]] = []
        self._closing: asyncio.Future[Any] | None = None
        self._written_at_us = 0
        self._index_not_before_us = 0
        self._behind_since_us: int | None = None
        self._is_durable = True
        self._adopt(connections.connect_writer(path, sql))
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)

    def start(self) -> None:
        """Begin writing."""
        self._thread.start()

    # the event loop's side

    def submit(self, kind: int, item: Any) -> asyncio.Future[Any]:
        """Give a durable write; the future is done after its commit."""
        if self.waiting >= self._waiting_max:
            raise StoreUnavailable(
                f"{self.waiting} writes wait for the disk already.",
                next_step="Send again in a second; `store.waiting_max` sets this bound.",
                retry_after_s=1,
            )
        if self._closing is not None:
            raise closed()
        future = self._loop.create_future()
        self.waiting += 1
        self._queue.put((kind, item, future))
        self._turns.watch()
        return future

    def stir(self) -> None:
        """Wake the thread: something was buffered that it does not know of. Nobody waits for it, so
        the loop is not asked to stop.
        """
        self._queue.put((STIR, None, None))

    def close(self) -> asyncio.Future[Any]:
        """Write everything given so far, then end the thread."""
        if self._closing is None:
            self._closing = self._loop.create_future()
            self.waiting += 1
            self._queue.put((CLOSE, None, self._closing))
        return self._closing

    def join(self) -> None:
        """Wait for the thread's end. Blocking."""
        self._thread.join()

    def _settle(self, settled: Settled) -> None:
        self.waiting -= len(settled)
        for future, value in settled:
            if future.done():
                continue
            if isinstance(value, Exception):
                future.set_exception(value)
            else:
                future.set_result(value)

    # the thread's side

    def _run(self) -> None:
        closing: list[Entry] = []
        while not closing:
            batch = self._take()
            durable = [entry for entry in batch if entry[0] < KINDS]
            self._write(durable, self._buffers.take(clock.monotonic_us()))
            closing = self._control([entry for entry in batch if entry[0] >= KINDS])
            if not batch and not self.healthy:
                self._probe()
            self._index_when_due()
        self._drain()
        self._answer([(future, None) for _, _, future in closing if future is not None])

    def _take(self) -> list[Entry]:
        """Wait for something to do; up to `batch_max` writes."""
        batch: list[Entry] = []
        with contextlib.suppress(Empty):
            batch.append(self._queue.get(timeout=self._sleep_s()))
            self._take_rest(batch)
        return batch

    def _take_rest(self, batch: list[Entry]) -> list[Entry]:
        """Add what waits already to a batch."""
        with contextlib.suppress(Empty):
            while len(batch) < self._batch_max:
                batch.append(self._queue.get_nowait())
        return batch

    def _sleep_s(self) -> float | None:
        """Seconds until there is something to do by itself; None for never."""
        now_us = clock.monotonic_us()
        due = [at for at in (self._buffers.due_us(now_us), self._index_due_us()) if at is not None]
        if not self.healthy:
            due.append(now_us + PROBE_US)
        return max(0, min(due) - now_us) / 1e6 if due else None

    def _take_all(self) -> Sequence[Entry]:
        """Buffered writes, due or not."""
        return self._buffers.take(clock.monotonic_us(), at_once=True)

    # batches

    def _write(self, durable: Sequence[Entry], buffered: Sequence[Entry]) -> None:
        """Write a batch and answer it."""
        entries = [*durable, *buffered]
        if not entries:
            return
        groups: list[list[Entry]] = [[] for _ in range(KINDS)]
        for entry in entries:
            groups[entry[0]].append(entry)
        try:
            settled = self._commit(groups, durable=bool(durable))
        except Exception as error:  # noqa: BLE001  the boundary of a batch: see module docstring
            settled = self._after_failure(error, groups)
        self._answer(settled)
        now_us = clock.monotonic_us()
        if durable:
            self._written_at_us = now_us
        if self._behind_since_us is None:
            self._behind_since_us = now_us

    def _commit(self, groups: list[list[Entry]], *, durable: bool) -> Settled:
        settled: Settled = []
        count = 0
        with self._transaction(durable=durable):
            for kind, entries in enumerate(groups):
                if entries:
                    results = self._writes.apply(kind, [entry[1] for entry in entries])
                    count += len(entries)
                    _pair(entries, results, settled)
        self.commits += 1
        self.writes += count
        self._is_well()
        return settled

    def _after_failure(self, error: Exception, groups: list[list[Entry]]) -> Settled:
        if not connections.is_trouble(error):
            try:
                return self._one_by_one(groups)
            except Exception as again:  # noqa: BLE001  even item by item: the file is in trouble
                error = again
        self._is_ill(error)
        trouble = connections.translate(error, self._path)
        entries = [entry for group in groups for entry in group]
        self._buffers.count_lost(sum(1 for entry in entries if entry[2] is None))
        return [(future, trouble) for _, _, future in entries if future is not None]

    def _one_by_one(self, groups: list[list[Entry]]) -> Settled:
        """Redo a batch of which an item is bad: the others are kept, that one gets the error."""
        settled: Settled = []
        with self._transaction(durable=True):
            for kind, entries in enumerate(groups):
                for entry in entries:
                    _pair([entry], [self._attempt(kind, entry)], settled)
                    self.writes += 1
        self.commits += 1
        self._is_well()
        return settled

    def _attempt(self, kind: int, entry: Entry) -> Any:
        self._execute("savepoint")
        try:
            result = self._writes.apply_one(kind, entry[1])
        except Exception as error:
            if connections.is_trouble(error):
                raise
            self._execute("rollback_item")
            result = connections.translate(error, self._path)
            if entry[2] is None:
                self._buffers.count_lost(1)
                _log.warning("record_not_kept", reason=str(result))
        self._execute("release")
        return result

    @contextlib.contextmanager
    def _transaction(self, *, durable: bool) -> Iterator[None]:
        if durable is not self._is_durable:
            self._execute("durable" if durable else "relaxed")
            self._is_durable = durable
        self._execute("begin")
        try:
            yield
            self._execute("commit")
        except BaseException:
            if self._connection.in_transaction:
                self._execute("rollback")
            raise

    def _execute(self, name: str) -> None:
        self._connection.execute(self._sql[name])

    def _answer(self, settled: Settled) -> None:
        if not settled:
            return
        try:
            self._loop.call_soon_threadsafe(self._settle, settled)
            self._turns.answered()
        except RuntimeError:
            _log.warning("loop_ended_before_store", answers=len(settled))

    # health

    def _adopt(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._is_durable = True
        self._positions = Positions(connection, self._sql)
        self._writes = Writes(connection, self._sql, self._positions)
        self._indexer = Indexer(connection, self._sql, self._positions)
        self._sweeper = Sweeper(connection, self._sql, self._positions)
        self.bytes_used = self._sweeper.bytes_used()
        self._behind_since_us = clock.monotonic_us() if self._positions.behind() else None

    def _is_well(self) -> None:
        if not self.healthy:
            self.healthy = True
            _log.info("store_takes_writes_again")

    def _is_ill(self, error: Exception) -> None:
        if self.healthy:
            self.healthy = False
            _log.error("store_refuses_writes", reason=str(connections.translate(error, self._path)))
        if connections.is_lost(error):
            self._fail_flushes(error)
            self._reconnect()

    def _reconnect(self) -> None:
        """Open the file anew and empty the WAL: nothing later may rest on pages whose write failed.
        When that fails too, the old connection stays and the next write comes here again.
        """
        try:
            connection = connections.connect_writer(self._path, self._sql)
            connection.execute(self._sql["checkpoint"]).fetchall()
            old = self._connection
            self._adopt(connection)
            old.close()
        except sqlite3.Error as error:
            _log.warning("store_not_reopened", reason=str(error))

    def _probe(self) -> None:
        """A write of our own, so that a store nobody dares to use becomes healthy again."""
        try:
            with self._transaction(durable=True):
                self._connection.execute(
                    self._sql["raise_watermark"],
                    {"name": "revision", "position": self._positions.revision},
                )
            self._is_well()
        except sqlite3.Error as error:
            self._is_ill(error)

    # upkeep

    def _control(self, entries: Sequence[Entry]) -> list[Entry]:
        """Do what is not a write; the entries that ask to end."""
        closing: list[Entry] = []
        for entry in entries:
            kind, item, future = entry
            if kind == STEP and future is not None:
                self._answer([(future, self._step(item))])
            elif kind == FLUSH and future is not None:
                while len(self._buffers):
                    self._write([], self._take_all())
                self._flushes.append((future, dict(self._positions.given)))
            elif kind == CLOSE:
                closing.append(entry)
        return closing

    def _step(self, step: Step) -> object:
        upkeep = Upkeep(self._sweeper, self._positions, self._connection, self._sql)
        try:
            if not step.in_transaction:
                return step.run(upkeep)
            with self._transaction(durable=False):
                result = step.run(upkeep)
        except Exception as error:  # noqa: BLE001  the boundary of a step: its caller gets it
            if connections.is_trouble(error):
                self._is_ill(error)
            return connections.translate(error, self._path)
        self.bytes_used = self._sweeper.bytes_used()
        return result

    def _index_due_us(self) -> int | None:
        if self._flushes:
            return 0
        if self._behind_since_us is None:
            return None
        idle_us = self._written_at_us + IDLE_US
        latest_us = self._behind_since_us + INDEX_LAG_MAX_US
        return max(self._index_not_before_us, min(idle_us, latest_us))

    def _index_when_due(self) -> None:
        due_us = self._index_due_us()
        now_us = clock.monotonic_us()
        if due_us is None or due_us > now_us:
            return
        try:
            with self._transaction(durable=False):
                reached = self._indexer.step()
        except sqlite3.Error as error:
            _log.warning("indexing_failed", reason=str(error))
            if connections.is_trouble(error):
                self._is_ill(error)
            self._index_not_before_us = now_us + PROBE_US
            self._fail_flushes(error)
            return
        self._positions.indexed.update(reached)
        is_busy = now_us - self._written_at_us < IDLE_US and not self._flushes
        self._index_not_before_us = now_us + INDEX_PAUSE_US if is_busy else 0
        if not self._positions.behind():
            self._behind_since_us = None
            self.bytes_used = self._sweeper.bytes_used()
        self._end_flushes()

    def _end_flushes(self) -> None:
        done = [entry for entry in self._flushes if self._positions.has_indexed(entry[1])]
        self._flushes = [entry for entry in self._flushes if entry not in done]
        self._answer([(future, None) for future, _ in done])

    def _fail_flushes(self, error: Exception) -> None:
        trouble = connections.translate(error, self._path)
        self._answer([(future, trouble) for future, _ in self._flushes])
        self._flushes = []

    def _drain(self) -> None:
        """Write what was given before the end, and leave one file behind."""
        while (batch := self._take_rest([])) or len(self._buffers):
            self._write([entry for entry in batch if entry[0] < KINDS], self._take_all())
            self._answer([(e[2], closed()) for e in batch if e[0] >= KINDS and e[2] is not None])
        self._fail_flushes(closed())
        try:
            self._connection.execute(self._sql["checkpoint"]).fetchall()
        except sqlite3.Error as error:
            _log.warning("wal_not_emptied", reason=str(error))
        self._connection.close()


def closed() -> StoreUnavailable:
    """What a store that is not open answers."""
    return StoreUnavailable(
        "The store is closed.", next_step="Start the platform again.", retry_after_s=1
    )


def _pair(entries: Sequence[Entry], results: Sequence[Any], settled: Settled) -> None:
    for entry, result in zip(entries, results, strict=True):
        if entry[2] is not None:
            settled.append((entry[2], result))
