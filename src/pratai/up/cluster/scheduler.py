"""The scheduler process: consumer_producer and collector over one ledger of leases.

One scheduler owns the journal at a time (`ownership.py`); another one that is started waits until
the first is gone. It takes messages once it owns the journal, and then reads what the journal holds
unfinished. Events that were accepted and never arrived, because a gateway died in between, are
found by looking through the journal now and then (`stragglers.py`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from pratai import ids, log
from pratai.collector.service import CollectorService
from pratai.core.leases import Leases
from pratai.errors import NotFound, StoreUnavailable
from pratai.gateway.accept import Acceptor
from pratai.gateway.catalog import Catalog
from pratai.metrics import Durations, Scrape
from pratai.model.function import Function
from pratai.scheduler.service import SchedulerService
from pratai.transport.base import Transport
from pratai.up.api import store_gauges, store_trouble
from pratai.up.cluster import parts
from pratai.up.cluster.health import health_app
from pratai.up.cluster.ownership import Ownership
from pratai.up.cluster.resent import Resent
from pratai.up.cluster.stragglers import Stragglers
from pratai.up.outcomes import Outcomes
from pratai.up.upkeep import Upkeep
from pratai.wire.messages import Invoke, Message, Provision, Unreachable

_log = structlog.get_logger("pratai.scheduler")
#: Wait before the store is asked again at start.
RETRY_S = 1.0
#: Functions read in one page.
PAGE = 500
DRAIN_S = 2.0
#: How long nodes have to say what they have, once this is the scheduler.
NODES_SPEAK_S = 3.0

_decode_function = msgspec.json.Decoder(Function).decode


class SchedulerProcess:
    """The scheduler of a cluster."""

    def __init__(self, options: parts.ProcessOptions) -> None:
        self.options = options
        self.config = config = options.config
        self.scheduler_id = ids.process_id("scheduler")
        self._zeromq, _ = parts.create_transport(config)
        self.transport: Transport = self._zeromq
        self.store = parts.create_shared_store(config)
        self.durations = Durations()
        self.leases = Leases()
        logs_dir = os.path.join(options.data_dir, "logs")
        os.makedirs(logs_dir, exist_ok=True)
        self.canonical = log.CanonicalLog(
            os.path.join(logs_dir, "invocations.jsonl"), config.log.file_bytes_max
        )
        self.catalog = Catalog(self.store, shared=True)
        #: Request ids that arrived while the journal is read; None afterwards.
        self._arrived: set[str] | None = set()
        self._leading: asyncio.Task[None] | None = None
        self._upkeep: Upkeep | None = None
        self._standing_by = "it waits to be the only scheduler"

    async def start(self, url: str) -> object:
        """Start what needs nobody else; lead as soon as nobody else does."""
        del url
        await parts.open_patiently(self.store)
        config = self.config
        acceptor = Acceptor(self.store, self.transport)
        acceptor.fresh = None
        self.outcomes = Outcomes(
            config,
            store=self.store,
            catalog=self.catalog,
            acceptor=acceptor,
            durations=self.durations,
            canonical=self.canonical,
        )
        self.scheduler = SchedulerService(
            config.scheduler, self.leases, transport=self.transport, store=self.store
        )
        self.collector = CollectorService(
            config.scheduler,
            self.leases,
            transport=self.transport,
            store=self.store,
            observe=self.outcomes.observe,
            deliver=self.outcomes.deliver,
            scheduler_id=self.scheduler_id,
        )
        self.stragglers = Stragglers(config.scheduler, self.store, self.scheduler, self.collector)
        self.resent = Resent(self.scheduler.receive, self.collector.core.members)
        self.ownership = Ownership(
            self.store, self.scheduler_id, lasts_ms=config.scheduler.ownership_ms
        )
        self.scrape = Scrape(self.durations, self._gauges)
        return health_app(self._ready, self.scrape.text)

    async def serving(self) -> asyncio.Task[None] | None:
        """Become the scheduler, now or when the one there is gone; it ends with its claim."""
        self._leading = asyncio.get_running_loop().create_task(self._lead())
        return self._leading

    async def drain(self, stop_now: asyncio.Event) -> None:
        """Dispatch nothing more; write down what has arrived."""
        self.scheduler.core.drain()
        try:
            async with asyncio.timeout(DRAIN_S):
                await self.collector.settle()
        except TimeoutError:
            _log.warning("outcomes_not_written", waiting="found again in the journal")
        del stop_now

    async def stop(self) -> None:
        """End everything, latest started first."""
        if self._leading is not None:
            self._leading.cancel()
        self.stragglers.stop()
        if self._upkeep is not None:
            await self._upkeep.stop()
        self.collector.close()
        self.scheduler.close()
        self._zeromq.close()
        await self.ownership.give_up()
        await asyncio.to_thread(self.canonical.flush)
        await self.store.close()

    # becoming the scheduler

    async def _lead(self) -> None:
        """Own the journal, and renew that from the first moment: reading it may take long."""
        await self.ownership.take()
        await asyncio.gather(self.ownership.keep(), self._work())

    async def _work(self) -> None:
        queue = self.config.queue
        host = parts.bind_address(queue)
        self._zeromq.watch(
            "node", self._node_gone, after_s=self.config.scheduler.node_gone_ms / 1_000
        )
        self._zeromq.listen("scheduler", host, queue.scheduler_port, self._receive)
        self._zeromq.listen("collector", host, queue.collector_port, self.collector.receive)
        self._standing_by = ""
        _log.info("leading", scheduler_id=self.scheduler_id, host=host)
        await self._patiently(self.collector.recover)
        recovered = await self.scheduler.recover(self._arrived or set())
        self._arrived = None
        _log.info("recovered", events=recovered)
        await asyncio.sleep(NODES_SPEAK_S)
        self.resent.release()
        await self._patiently(self._keep_warm)
        self.stragglers.start()
        self._upkeep = Upkeep(self, None)
        self._upkeep.start()

    async def _patiently(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do something that needs the store, as soon as the store is there."""
        while True:
            try:
                await work()
            except StoreUnavailable as error:
                _log.warning("store_unavailable", error=error.detail)
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def _keep_warm(self) -> None:
        """Ask nodes for the instances that functions want kept."""
        after = ""
        while True:
            documents = await self.store.documents("function", None, after=after, limit=PAGE)
            for document in documents:
                function = _decode_function(document.body)
                try:
                    version = await self.catalog.version(function, function.latest)
                except NotFound:
                    continue
                if version.config.keep_warm:
                    self.scheduler.receive(
                        Provision(version_id=version.version_id, count=version.config.keep_warm)
                    )
            if len(documents) < PAGE:
                return
            after = f"{documents[-1].namespace}/{documents[-1].id}"

    # inside

    def _receive(self, message: Message) -> None:
        if self._arrived is not None and isinstance(message, Invoke):
            self._arrived.add(message.request_id)
        if not self.resent.takes(message):
            self.scheduler.receive(message)

    def _node_gone(self, address: str) -> None:
        node_id = address.partition("@")[0].removeprefix("node:")
        _log.warning("node_unreachable", node_id=node_id)
        self.collector.receive(Unreachable(node_id=node_id))

    def _ready(self) -> dict[str, str]:
        return {
            "store": store_trouble(self.store),
            "scheduler": self._standing_by or self.ownership.trouble,
        }

    def _gauges(self) -> dict[str, tuple[str, float]]:
        core = self.scheduler.core
        membership = self.collector.core.membership
        return {
            "leading": ("1 when this is the scheduler.", float(not self._standing_by)),
            "invocations_queued": ("Waiting in the scheduler.", len(core.queues)),
            "leases_open": ("Attempts on nodes.", len(self.leases)),
            "nodes": ("Nodes that were heard lately.", len(membership.nodes)),
            "messages_waiting": ("Messages waiting for their peers.", self._zeromq.waiting()),
            **store_gauges(self.store),
        }
