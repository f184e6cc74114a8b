"""The scheduler's I/O: receive, handle, run effects; fetch events that wait in the journal."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterable

from msgspec.structs import replace

from pratai.config import schema
from pratai.core.effects import Disconnect, RecordLease, Send
from pratai.core.leases import Leases
from pratai.errors import StoreUnavailable
from pratai.model.invocation import Invocation
from pratai.scheduler.core.scheduler import Scheduler
from pratai.scheduler.recovery import recovered
from pratai.store.base import LeaseRecord, Store
from pratai.transport.base import Transport
from pratai.transport.runner import Runner
from pratai.wire.messages import Dispatch, Outcome

#: Wait before the journal is asked again while it cannot be read.
JOURNAL_RETRY_S = 0.5
#: Events read from the journal in one page while recovering.
RECOVERY_PAGE = 1_000


class SchedulerService(Runner):
    """The scheduler of this process. `gateways` are there from the start, until `Peers` come."""

    def __init__(
        self,
        config: schema.Scheduler,
        leases: Leases,
        *,
        gateways: Iterable[str] = (),
        transport: Transport,
        store: Store,
    ) -> None:
        self.core = Scheduler(config, leases, gateways)
        super().__init__(self.core, transport)
        self._config = config
        self._store = store
        leases.recovering = True  # until `recover` has read the journal
        self._does[RecordLease] = self._record_lease
        self._does[Disconnect] = self._disconnect
        transport.bind("scheduler", self.receive)

    async def recover(self, fresh: Container[str] = ()) -> int:
        """Queue, or resume, everything the journal holds unfinished but what is `fresh`; how many.

        `fresh`: request ids accepted by this process, which are on their way already; a page read
        a moment ago may show them as unfinished when they are not any more. More than
        `backlog_total_max` are not loaded at once: the rest follows as room appears. Outcomes of
        nodes that come before their leases were read are kept until this is done.
        """
        loaded, after = 0, ""
        while True:
            page = await self._pending(after)
            for invocation in page:
                if invocation.request_id in fresh:
                    continue
                message = recovered(invocation, self._config.recoveries_max)
                if isinstance(message, Outcome):
                    self._transport.send("collector", message)
                else:
                    self.receive(message)
                loaded += 1
            if len(page) < RECOVERY_PAGE:
                self.core.leases.recovering = False
                return loaded
            after = page[-1].request_id
            while len(self.core.queues) >= self._config.backlog_total_max:
                await asyncio.sleep(JOURNAL_RETRY_S)

    async def _pending(self, after: str) -> list[Invocation]:
        while True:
            try:
                return await self._store.pending(after=after, limit=RECOVERY_PAGE)
            except StoreUnavailable:
                await asyncio.sleep(JOURNAL_RETRY_S)

    def _send(self, effect: Send) -> None:
        message = effect.message
        if type(message) is Dispatch and message.payload is None:
            self._begin(self._loop.create_task(self._send_from_journal(effect.to, message)))
            return
        self._transport.send(effect.to, message)

    async def _send_from_journal(self, to: str, dispatch: Dispatch) -> None:
        while True:
            try:
                event = await self._store.event(dispatch.namespace, dispatch.request_id)
                break
            except StoreUnavailable:
                await asyncio.sleep(JOURNAL_RETRY_S)
        lease = self.core.leases.get(dispatch.request_id)
        if lease is None or lease.attempt != dispatch.attempt:
            return  # given up meanwhile
        self._transport.send(to, replace(dispatch, payload=event or b""))

    def _disconnect(self, effect: Disconnect) -> None:
        self._transport.disconnect(effect.address)

    def _record_lease(self, effect: RecordLease) -> None:
        self._store.record_lease(
            LeaseRecord(
                namespace=effect.namespace,
                request_id=effect.request_id,
                attempt=effect.attempt,
                node_id=effect.node_id,
                at_ms=effect.at_ms,
            )
        )
