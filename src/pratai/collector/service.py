"""The collector's I/O: hand outcomes on, write them down until they are, keep logs and members.

An outcome is handed to its function's destinations before it is recorded: should the process end in
between, the attempt is repeated and handed on again under the same idempotency key, so nothing is
lost and nothing runs twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container, Coroutine
from typing import TypeVar, cast

import structlog

from pratai.clock import now_ms
from pratai.collector.core import Collector
from pratai.collector.records import Records
from pratai.config import schema
from pratai.core.effects import (
    Deliver,
    Disconnect,
    RecordLogs,
    RecordMember,
    RecordOutcome,
    RecordRetry,
)
from pratai.core.leases import Leases
from pratai.errors import StoreUnavailable
from pratai.metrics import count
from pratai.model.invocation import Mark
from pratai.model.node import NodeRecord
from pratai.store.base import OutcomeRecord, RetryRecord, Store
from pratai.transport.base import Transport
from pratai.transport.runner import Runner
from pratai.wire.messages import DrainNode, Outcome

_log = structlog.get_logger("pratai.collector")
#: Longest wait before a write that the store refused is tried again.
RETRY_S_MAX = 5.0
#: Tries to hand an outcome on while the store cannot be reached: about five minutes.
DELIVERIES_MAX = 60

T = TypeVar("T")
Observer = Callable[[RecordOutcome], None]
Delivery = Callable[[Deliver], Awaitable[None]]


class CollectorService(Runner):
    """The collector of this process. `deliver` hands an outcome to its destinations."""

    def __init__(
        self,
        config: schema.Scheduler,
        leases: Leases,
        *,
        transport: Transport,
        store: Store,
        observe: Observer,
        deliver: Delivery,
        scheduler_id: str = "scheduler",
    ) -> None:
        self.core = Collector(config, leases, scheduler_id=scheduler_id)
        super().__init__(self.core, transport)
        self._records = Records(store)
        #: {request_id: its delivery} of outcomes to be recorded once that is done.
        self._deliveries: dict[str, asyncio.Task[None]] = {}
        #: {request_id: writes under way}: the journal does not show yet what became of these.
        self._settling: dict[str, int] = {}
        self._store = store
        self._observe = observe
        self._deliver = deliver
        self._does[RecordOutcome] = self._record_outcome
        self._does[RecordRetry] = self._record_retry
        self._does[RecordLogs] = self._record_logs
        self._does[Deliver] = self._hand_on
        self._does[RecordMember] = self._record_member
        self._does[Disconnect] = self._disconnect
        transport.bind("collector", self.receive)

    async def recover(self) -> None:
        """Read what was written down of the cluster: who is there, which nodes are drained. Before
        this, nothing of it is written.

        Raises:
            StoreUnavailable: the store cannot be read; ask again.

        """
        records = await self._records.load()
        for effect in self.core.remember(records, now_ms()):
            self._does[type(effect)](effect)
        for record in records:
            if isinstance(record, NodeRecord) and record.draining:
                move = DrainNode(node_id=record.node_id, drain=True)
                self._transport.send("scheduler", move)
        self._write_members()

    @property
    def unrecorded(self) -> Container[str]:
        """Request ids of which something is decided that the journal does not show yet."""
        return self._settling

    async def settle(self) -> None:
        """Return when everything taken so far is written down and handed on."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def _record_outcome(self, effect: RecordOutcome) -> None:
        self._observe(effect)
        request_id = cast("Outcome", effect.outcome).request_id
        self._begin_settling(request_id, self._write_outcome(effect))

    def _begin_settling(self, request_id: str, work: Coroutine[None, None, None]) -> None:
        settling = self._settling
        settling[request_id] = settling.get(request_id, 0) + 1

        def settled(_: asyncio.Task[None]) -> None:
            settling[request_id] -= 1
            if not settling[request_id]:
                del settling[request_id]

        task = self._loop.create_task(work)
        task.add_done_callback(settled)
        self._begin(task)

    async def _write_outcome(self, effect: RecordOutcome) -> None:
        outcome = cast("Outcome", effect.outcome)
        delivery = self._deliveries.pop(outcome.request_id, None)
        if delivery is not None:
            await asyncio.wait({delivery})
        record = OutcomeRecord(
            namespace=effect.namespace,
            request_id=outcome.request_id,
            attempt=outcome.attempt,
            outcome=outcome.outcome,
            dead=effect.dead,
            failure=outcome.failure,
            result=outcome.payload,
            result_content_type=outcome.content_type,
            start_kind=outcome.start_kind,
            cold_reason=outcome.cold_reason,
            node_id=outcome.node_id,
            instance_id=outcome.instance_id,
            queue_us=effect.queue_us,
            start_us=outcome.start_us,
            run_us=outcome.run_us,
            finished_at_ms=outcome.finished_at_ms,
            marks=_marks(outcome, "answered"),
        )
        if not await self._until_written(lambda: self._store.record_outcome(record)):
            count("outcomes_repeated")

    def _record_retry(self, effect: RecordRetry) -> None:
        outcome = cast("Outcome", effect.outcome)
        record = RetryRecord(
            namespace=effect.namespace,
            request_id=outcome.request_id,
            attempt=outcome.attempt,
            available_at_ms=effect.available_at_ms,
            failure=outcome.failure,
            marks=_marks(outcome, "retried"),
        )
        count("attempts_retried")
        self._begin_settling(outcome.request_id, self._write_retry(record))

    async def _write_retry(self, record: RetryRecord) -> None:
        await self._until_written(lambda: self._store.record_retry(record))

    def _record_logs(self, effect: RecordLogs) -> None:
        self._store.append_logs(effect.records)

    def _hand_on(self, effect: Deliver) -> None:
        outcome = cast("Outcome", effect.outcome)
        delivery = self._loop.create_task(self._hand_on_now(effect))
        self._deliveries[outcome.request_id] = delivery
        self._begin(delivery)

    async def _hand_on_now(self, effect: Deliver) -> None:
        wait_s = 0.1
        for _ in range(DELIVERIES_MAX):
            try:
                await self._deliver(effect)
            except StoreUnavailable:
                await asyncio.sleep(wait_s)
                wait_s = min(RETRY_S_MAX, wait_s * 2)
            else:
                return
        count("destinations_failed")
        _log.error("destination_given_up", function=effect.function, tries=DELIVERIES_MAX)

    def _record_member(self, effect: RecordMember) -> None:
        self._records.add(effect)
        self._write_members()

    def _write_members(self) -> None:
        if self._records.wait_to_be_written:
            self._begin(self._loop.create_task(self._records.write()))

    def _disconnect(self, effect: Disconnect) -> None:
        self._transport.disconnect(effect.address)

    async def _until_written(self, write: Callable[[], Awaitable[T]]) -> T:
        """Write, again and again while the store cannot: an outcome is never given up."""
        wait_s = 0.1
        while True:
            try:
                return await write()
            except StoreUnavailable as error:
                count("store_retries")
                _log.warning("store_unavailable", error=str(error), retry_in_s=wait_s)
                await asyncio.sleep(wait_s)
                wait_s = min(RETRY_S_MAX, wait_s * 2)


def _marks(outcome: Outcome, end: str) -> list[Mark]:
    """The part of the timeline that one attempt adds."""
    attempt = outcome.attempt
    marks: list[Mark] = []
    if outcome.placed_at_ms:
        marks.append(Mark("placed", outcome.placed_at_ms, attempt, outcome.node_id))
    if outcome.started_at_ms:
        detail: str = outcome.start_kind
        if outcome.cold_reason:
            detail = f"{detail}: {outcome.cold_reason}"
        marks.append(Mark("started", outcome.started_at_ms, attempt, detail))
        marks.append(Mark("ran", outcome.finished_at_ms, attempt, outcome.outcome))
    code = outcome.failure.code if outcome.failure is not None else ""
    platform = outcome.failure is not None and outcome.failure.fault == "platform"
    if end == "retried" and platform:
        end = "lost"
    marks.append(Mark(end, outcome.finished_at_ms, attempt, code))
    return marks
