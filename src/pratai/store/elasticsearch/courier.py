"""Takes best-effort writes from the buffers to Elasticsearch: leases soon, records and logs later.

Each lane has one batch under way at a time. A batch that Elasticsearch did not take is held and
sent again, with the same ids, before anything else; meanwhile the buffers fill up to their bounds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import msgspec
import structlog

from pratai import ids
from pratai.errors import PrataiError, StoreUnavailable
from pratai.model.invocation import Invocation, LogRecord
from pratai.store.base import LeaseRecord
from pratai.store.elasticsearch import names, rows
from pratai.store.elasticsearch.buffers import Buffers
from pratai.store.elasticsearch.indices import Indices
from pratai.store.elasticsearch.journal import Journal
from pratai.store.elasticsearch.refresh import Refresher
from pratai.store.elasticsearch.sequence import Sequence, at_ms
from pratai.store.elasticsearch.writer import Write, Writer, make_write

if TYPE_CHECKING:
    from pratai.store.elasticsearch.connection import Connection

#: A lease is in a batch at the latest after this: until then its loss repeats an attempt.
LEASES_EVERY_S = 0.025
LEASES_MAX = 1_000
#: Records and logs are in a batch at the latest after this, where no more come than fit in one.
RECORDS_EVERY_S = 0.25
#: What the cluster takes other writes but not this one for so many times is given up and counted.
TRIES_MAX = 40
#: Pause before a flush sends again what was not taken.
PAUSE_S = 0.1

T = TypeVar("T")
_log = structlog.get_logger("pratai.store")


class _Parcel(msgspec.Struct):
    """A write under way; of a log record also the record and where it goes."""

    write: Write
    record: LogRecord | None = None
    index: str = ""
    id: str = ""
    token: str = ""
    tries: int = 0


class Courier:
    """Two lanes. `stir_...` whenever something was put into the buffers."""

    def __init__(
        self,
        connection: Connection,
        indices: Indices,
        writer: Writer,
        *,
        refresher: Refresher,
        journal: Journal,
        buffers: Buffers,
        batch_max: int,
    ) -> None:
        self._connection = connection
        self._indices = indices
        self._names = indices.names
        self._writer = writer
        self._refresher = refresher
        self._journal = journal
        self._buffers = buffers
        self._batch_max = batch_max
        self._sequence = Sequence()
        self._leases = _Lane(self, LEASES_EVERY_S, self._lease_parcels)
        self._records = _Lane(self, RECORDS_EVERY_S, self._record_parcels)

    def stir_leases(self) -> None:
        """Leases wait."""
        self._leases.stir()

    def stir_records(self) -> None:
        """Records or logs wait."""
        self._records.stir()

    async def flush(self) -> None:
        """Write everything that waits.

        Raises:
            StoreUnavailable: not everything could be written.

        """
        await self._leases.flush()
        await self._records.flush()

    def stop(self) -> None:
        """No more by itself."""
        self._leases.stop()
        self._records.stop()

    @property
    def is_well(self) -> bool:
        """Whether writes are taken, as far as is known."""
        return self._writer.trouble is None

    async def ready(self) -> None:
        """Have what a batch needs to know."""
        self._writer.check()
        await self._indices.ensure_known()

    async def carry(self, parcels: list[_Parcel]) -> list[_Parcel]:
        """Write a batch; what is to be sent again."""
        answers = await self._writer.send([parcel.write for parcel in parcels])
        self._writer.commits += 1
        again: list[_Parcel] = []
        for parcel, answer in zip(parcels, answers, strict=True):
            if isinstance(answer, StoreUnavailable) and parcel.tries < TRIES_MAX:
                parcel.tries += 1
                again.append(parcel)
            elif isinstance(answer, PrataiError):
                self._lose(answer)
            elif answer.status == 409 and parcel.record is not None:
                again += await self._renumbered(parcel, parcel.record)
            else:
                self._writer.writes += 1
        for target in self._names.series:
            self._refresher.wrote(target)
        return again

    async def _renumbered(self, parcel: _Parcel, record: LogRecord) -> list[_Parcel]:
        """A log record whose number is taken, by another one or by our own first try."""
        found = await self._connection.ask(
            self._connection.es.get(index=parcel.index, id=parcel.id, source_includes=["token"]),
            allowed=(404,),
        )
        if found.get("found") and found["_source"]["token"] == parcel.token:
            return []
        self._sequence.draw()
        return [self._log_parcel(record)]

    def _lease_parcel(self, record: LeaseRecord) -> _Parcel:
        return _Parcel(self._journal.lease_write(record))

    def _record_parcel(self, invocation: Invocation) -> _Parcel:
        done = msgspec.structs.replace(invocation, state="done")
        source = rows.invocation_source(done, token="")
        index = self._indices.at(self._names.invocations, names.time_of(invocation.request_id))
        id_ = names.invocation_id(invocation.namespace, invocation.request_id)
        return _Parcel(make_write("create", index, id_, source))

    def _log_parcel(self, record: LogRecord) -> _Parcel:
        sequence = self._sequence.next()
        token = ids.request_id()
        source = rows.log_source(msgspec.structs.replace(record, sequence=sequence), token)
        index = self._indices.at(self._names.logs, at_ms(sequence))
        write = make_write("create", index, str(sequence), source)
        return _Parcel(write, record, index=index, id=str(sequence), token=token)

    def _lease_parcels(self) -> list[_Parcel]:
        return self._made(self._buffers.take_leases(LEASES_MAX), self._lease_parcel)

    def _record_parcels(self) -> list[_Parcel]:
        records, logs = self._buffers.take_records(self._batch_max)
        return self._made(records, self._record_parcel) + self._made(logs, self._log_parcel)

    def _made(self, items: list[T], make: Callable[[T], _Parcel]) -> list[_Parcel]:
        parcels = []
        for item in items:
            try:
                parcels.append(make(item))
            except PrataiError as error:
                self._lose(error)
        return parcels

    def _lose(self, error: PrataiError) -> None:
        self._buffers.dropped += 1
        _log.warning("record_not_kept", reason=error.detail)


class _Lane:
    """One batch after the other, `every_s` after something was given."""

    def __init__(self, courier: Courier, every_s: float, take: Callable[[], list[_Parcel]]) -> None:
        self._courier = courier
        self._every_s = every_s
        self._take = take
        self._held: list[_Parcel] = []
        self._lock = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def stir(self) -> None:
        """Something waits."""
        if self._timer is None and (self._task is None or self._task.done()):
            self._timer = asyncio.get_running_loop().call_later(self._every_s, self._start)

    def stop(self) -> None:
        """Send nothing more by itself."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            self._task.cancel()

    async def flush(self) -> None:
        """Send batches until nothing waits."""
        while await self._send():
            if self._held:
                await asyncio.sleep(PAUSE_S)

    def _start(self) -> None:
        self._timer = None
        self._task = asyncio.ensure_future(self._send_one())

    async def _send_one(self) -> None:
        try:
            more = await self._send()
        except StoreUnavailable as error:
            # What was taken is held; the store stirs again when writes are taken again.
            _log.info("records_wait", reason=error.detail)
            more = self._courier.is_well
        if more:
            self._timer = asyncio.get_running_loop().call_later(self._every_s, self._start)

    async def _send(self) -> bool:
        """Send one batch; whether something was sent."""
        async with self._lock:
            await self._courier.ready()
            if not self._held:
                self._held = self._take()
            if not self._held:
                return False
            self._held = await self._courier.carry(self._held)
            return True
