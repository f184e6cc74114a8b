"""The collector's I/O: write outcomes down until they are, keep logs, hand outcomes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

import structlog

from pratai.collector.core import Collector
from pratai.config import schema
from pratai.core.effects import Deliver, RecordLogs, RecordOutcome, RecordRetry
from pratai.core.leases import Leases
from pratai.errors import StoreUnavailable
from pratai.metrics import count
from pratai.model.invocation import Mark
from pratai.store.base import OutcomeRecord, RetryRecord, Store
from pratai.transport.base import Transport
from pratai.transport.runner import Runner
from pratai.wire.messages import Outcome

_log = structlog.get_logger("pratai.collector")
#: Longest wait before a write that the store refused is tried again.
RETRY_S_MAX = 5.0

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
    ) -> None:
        self.core = Collector(config, leases)
        super().__init__(self.core, transport)
        self._store = store
        self._observe = observe
        self._deliver = deliver
        self._does[RecordOutcome] = self._record_outcome
        self._does[RecordRetry] = self._record_retry
        self._does[RecordLogs] = self._record_logs
        self._does[Deliver] = self._hand_on
        transport.bind("collector", self.receive)

    async def settle(self) -> None:
        """Return when everything taken so far is written down and handed on."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def _record_outcome(self, effect: RecordOutcome) -> None:
        self._observe(effect)
        self._begin(self._loop.create_task(self._write_outcome(effect)))

    async def _write_outcome(self, effect: RecordOutcome) -> None:
        outcome = cast("Outcome", effect.outcome)
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
        self._begin(self._loop.create_task(self._write_retry(record)))

    async def _write_retry(self, record: RetryRecord) -> None:
        await self._until_written(lambda: self._store.record_retry(record))

    def _record_logs(self, effect: RecordLogs) -> None:
        self._store.append_logs(effect.records)

    def _hand_on(self, effect: Deliver) -> None:
        self._begin(self._loop.create_task(self._hand_on_later(effect)))

    async def _hand_on_later(self, effect: Deliver) -> None:
        await self._deliver(effect)

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
