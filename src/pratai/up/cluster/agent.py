"""The agent process: timers, watched folders and deliveries, for a scheduler elsewhere.

Several agents may run; what each does is accepted once (`docs/internals/agent.md`).
"""

from __future__ import annotations

import asyncio

import structlog

from pratai.agent.service import AgentService
from pratai.gateway.accept import Acceptor
from pratai.gateway.catalog import Catalog
from pratai.metrics import Durations, Scrape
from pratai.transport.base import Transport
from pratai.up.api import store_gauges, store_trouble
from pratai.up.cluster import parts
from pratai.up.cluster.health import health_app
from pratai.up.cluster.membership import Membership
from pratai.up.emitting import emitter
from pratai.up.machine import kept_id
from pratai.wire.messages import Message

_log = structlog.get_logger("pratai.agent")


class AgentProcess:
    """One agent of a cluster."""

    def __init__(self, options: parts.ProcessOptions) -> None:
        self.config = options.config
        self.process_id = kept_id(options.data_dir, "agent")
        self._zeromq, _ = parts.create_transport(self.config)
        self.transport: Transport = self._zeromq
        self.store = parts.create_shared_store(self.config)
        self.catalog = Catalog(self.store, shared=True)

    async def start(self, url: str) -> object:
        """Start everything but the HTTP server."""
        config = self.config
        await parts.open_patiently(self.store)
        endpoint = parts.listen(self._zeromq, config.queue, "agent", port=0, receiver=self._receive)
        self.membership = Membership(
            "agent",
            self.process_id,
            endpoint=endpoint,
            url=url,
            announce_ms=config.gateway.announce_ms,
            transport=self.transport,
        )
        acceptor = Acceptor(self.store, self.transport)
        acceptor.fresh = None
        self.agent = AgentService(
            config.agent,
            self.process_id,
            store=self.store,
            emit=emitter(self.catalog, acceptor),
            transport=self.transport,
        )
        self.membership.start()
        self.agent.start()
        scrape = Scrape(Durations(), self._gauges)
        return health_app(self._ready, scrape.text)

    async def serving(self) -> asyncio.Task[None] | None:
        """Nothing more."""
        _log.info("watching", process_id=self.process_id)
        return None

    async def drain(self, stop_now: asyncio.Event) -> None:
        """Nothing waits: what is not accepted yet is found again."""

    async def stop(self) -> None:
        """End everything, latest started first."""
        await self.agent.stop()
        self.membership.stop()
        self._zeromq.close()
        await self.store.close()

    def _receive(self, message: Message) -> None:
        self.membership.receive(message)

    def _ready(self) -> dict[str, str]:
        return {
            "store": store_trouble(self.store),
            "scheduler": self.membership.scheduler_lost,
            "agent": "" if self.agent.ready else "the triggers could not be read yet",
        }

    def _gauges(self) -> dict[str, tuple[str, float]]:
        return {
            "messages_waiting": ("Messages waiting for their peers.", self._zeromq.waiting()),
            **self.agent.gauges(),
            **store_gauges(self.store),
        }
