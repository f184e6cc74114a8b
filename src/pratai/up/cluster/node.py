"""The node process: this machine's driver and instances, for a scheduler elsewhere.

It needs to be told where the scheduler is, and the cluster key. Everything else it says itself.
"""

from __future__ import annotations

import asyncio
import os

import structlog

from pratai.clock import now_ms
from pratai.config.cluster_key import internal_token
from pratai.driver.registry import create_driver
from pratai.metrics import Durations, Scrape
from pratai.model.node import address_of
from pratai.node.fetching import GatewayFetcher
from pratai.node.service import NodeService
from pratai.transport.base import Transport
from pratai.up.cluster import parts
from pratai.up.cluster.health import health_app
from pratai.up.machine import capacity_of, kept_id
from pratai.wire.instance import Drain
from pratai.wire.messages import Message, Roster

_log = structlog.get_logger("pratai.node")
#: How often draining looks whether calls are still running.
DRAIN_LOOK_S = 0.02


class NodeProcess:
    """One node of a cluster."""

    def __init__(self, options: parts.ProcessOptions) -> None:
        self.options = options
        self.config = config = options.config
        self.node_id = kept_id(options.data_dir, "node")
        self._zeromq, secret = parts.create_transport(config)
        self.transport: Transport = self._zeromq
        self.driver = create_driver(
            config.driver,
            state_dir=os.path.join(options.data_dir, "node"),
            node_config=config.node,
        )
        self.fetcher = GatewayFetcher(
            config,
            options.data_dir,
            token=internal_token(secret),
            gateways=self._gateways,
            held=self._held,
        )
        self.node: NodeService | None = None

    async def start(self, url: str) -> object:
        """Start everything but the HTTP server; the node has joined once this returns."""
        del url
        config = self.config
        endpoint = parts.listen(
            self._zeromq,
            config.queue,
            "node",
            port=config.queue.node_port,
            receiver=self._receive,
        )
        fingerprint = await self.driver.fingerprint()
        node = self.node = NodeService(
            config.node,
            self.node_id,
            capacity=capacity_of(config),
            driver=self.driver,
            transport=self.transport,
            fetch=self.fetcher.fetch,
            endpoint=endpoint,
            degraded=fingerprint.degraded,
        )
        await self.driver.open(node)
        await self.driver.recover()
        for sentence in fingerprint.degraded:
            _log.warning("sandbox_degraded", detail=sentence)
        scrape = Scrape(Durations(), self._gauges)
        _log.info("joining", node_id=self.node_id, endpoint=endpoint)
        node.join()
        return health_app(self._ready, scrape.text)

    async def serving(self) -> asyncio.Task[None] | None:
        """Nothing more: work comes once the scheduler has taken the node in."""
        return None

    async def drain(self, stop_now: asyncio.Event) -> None:
        """Let running calls end, up to the drain limit; offer no place any more."""
        assert self.node is not None, "it was started"
        self.node.receive(Drain())
        self.node.beat()
        deadline_ms = now_ms() + self.config.gateway.drain_ms
        while self.node.core.held and not stop_now.is_set():
            if now_ms() >= deadline_ms:
                _log.warning("drain_limit_reached", running=len(self.node.core.held))
                return
            await asyncio.sleep(DRAIN_LOOK_S)

    async def stop(self) -> None:
        """End everything, latest started first."""
        assert self.node is not None, "it was started"
        self.node.leave()
        self.node.close()
        await self.driver.close()
        await self.fetcher.close()
        self._zeromq.close()

    # inside

    def _receive(self, message: Message) -> None:
        if self.node is None:
            return
        self.node.receive(message)
        if isinstance(message, Roster):
            gateways = {
                address_of("gateway", peer.process_id, peer.endpoint) for peer in message.gateways
            }
            self._zeromq.keep("gateway", gateways)

    @property
    def _roster(self) -> Roster | None:
        return self.node.core.presence.roster if self.node is not None else None

    def _gateways(self) -> list[str]:
        roster = self._roster
        return [peer.url for peer in roster.gateways if peer.url] if roster is not None else []

    def _held(self) -> list[str]:
        return list(self.node.core.pool.versions) if self.node is not None else []

    def _ready(self) -> dict[str, str]:
        roster = self._roster
        why = "the scheduler has not answered yet" if roster is None else roster.refused
        draining = self.node is not None and self.node.core.draining
        return {"scheduler": why, "node": "it is shutting down" if draining else ""}

    def _gauges(self) -> dict[str, tuple[str, float]]:
        assert self.node is not None, "it was started"
        core = self.node.core
        return {
            "instances": ("Instances on this node.", len(core.pool.instances)),
            "dispatches_held": ("Dispatches on this node.", len(core.held)),
            "messages_waiting": ("Messages waiting for their peers.", self._zeromq.waiting()),
            "cache_bytes": ("Packages and layers kept here.", self.fetcher.cache.bytes),
        }
