"""The gateway process: HTTP in front of the scheduler, one of several that are alike.

Starts parts in the order in which they need each other, drains and stops them in reverse.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import structlog
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from pratai import log
from pratai.clock import now_ms
from pratai.config.cluster_key import internal_token
from pratai.gateway.api.packages import PREFIX, InternalContext, build_internal
from pratai.gateway.app import App, ASGIApp, Receive, Send
from pratai.gateway.auth import KeyRing
from pratai.gateway.catalog import Catalog
from pratai.gateway.request import Scope
from pratai.gateway.service import GatewayService
from pratai.gateway.triggers import TriggerCatalog
from pratai.metrics import Durations, Scrape
from pratai.model.api import NodeView
from pratai.packages.directory import Packages
from pratai.packages.shared import SharedPackages, is_shared
from pratai.transport.base import Transport
from pratai.up.api import ApiHooks, store_gauges, store_trouble
from pratai.up.cluster import parts
from pratai.up.cluster.members import node_views
from pratai.up.cluster.membership import Membership
from pratai.up.machine import kept_id
from pratai.up.upkeep import Upkeep
from pratai.wire.messages import Changed, DrainNode, Message

_log = structlog.get_logger("pratai.gateway")
#: How often draining looks whether calls are still running.
DRAIN_LOOK_S = 0.02
#: How long an order to drain a node is looked for in what is known of it.
MOVED_S, MOVED_LOOK_S = 3.0, 0.05


class GatewayProcess:
    """One gateway of a cluster."""

    def __init__(self, options: parts.ProcessOptions) -> None:
        self.options = options
        self.config = config = options.config
        self.process_id = kept_id(options.data_dir, "gateway")
        self._zeromq, self._secret = parts.create_transport(config)
        self.transport: Transport = self._zeromq
        self.store = parts.create_shared_store(config)
        self.durations = Durations()
        logs_dir = os.path.join(options.data_dir, "logs")
        os.makedirs(logs_dir, exist_ok=True)
        self.canonical = log.CanonicalLog(
            os.path.join(logs_dir, "invocations.jsonl"), config.log.file_bytes_max
        )
        self.catalog = Catalog(self.store, shared=True)
        self.triggers = TriggerCatalog(
            self.store, shared=True, triggers_max=config.gateway.triggers_max
        )
        self.keys = KeyRing(self.store, required=config.auth.required, shared=True)
        shared = SharedPackages(self.store, config.packages)
        self.packages = Packages(
            options.data_dir,
            config.packages,
            shared=shared if is_shared(config.packages, config.store.name) else None,
        )
        self.key = ""
        self.url = ""

    async def start(self, url: str) -> ASGIApp:
        """Start everything but the HTTP server."""
        config = self.config
        own_url = config.gateway.url or self._own_url(url)
        self.url = (config.gateway.public_url or own_url).rstrip("/")
        await parts.open_patiently(self.store)
        endpoint = parts.listen(
            self._zeromq,
            config.queue,
            "gateway",
            port=config.queue.gateway_port,
            receiver=self._receive,
        )
        self.membership = Membership(
            "gateway",
            self.process_id,
            endpoint=endpoint,
            url=own_url,
            announce_ms=config.gateway.announce_ms,
            transport=self.transport,
            heard=self._heard,
            scheduler_changed=self._scheduler_changed,
            introduced=self.catalog.forget_all,
        )
        self.gateway = GatewayService(
            config,
            transport=self.transport,
            store=self.store,
            canonical=self.canonical,
            durations=self.durations,
            address=self.membership.address,
        )
        self.gateway.acceptor.fresh = None
        self.catalog.tell = self._tell_function
        self.keys.tell = self._tell_key
        self.triggers.tell = self._tell_trigger
        self.scrape = Scrape(self.durations, self._gauges)
        if config.auth.required:
            self.key = await self.keys.ensure_admin_key(
                os.path.join(self.options.data_dir, "admin-key"), self._secret
            )
        self.upkeep = Upkeep(self, self.packages, sweeps=False)
        self.upkeep.start()
        self.membership.start()
        return App(
            config,
            service=self.gateway,
            catalog=self.catalog,
            keys=self.keys,
            api=self._api(),
        )

    async def serving(self) -> asyncio.Task[None] | None:
        """HTTP is served."""
        _log.info("serving", url=self.url, process_id=self.process_id)
        return None

    async def drain(self, stop_now: asyncio.Event) -> None:
        """Let running calls end, up to the drain limit; take nothing new."""
        _log.info("draining", waiting=self.gateway.waiting)
        self.gateway.core.draining = True
        deadline_ms = now_ms() + self.config.gateway.drain_ms
        while self.gateway.waiting and not stop_now.is_set():
            if now_ms() >= deadline_ms:
                _log.warning("drain_limit_reached", running=self.gateway.waiting)
                return
            await asyncio.sleep(DRAIN_LOOK_S)

    async def stop(self) -> None:
        """End everything, latest started first."""
        await self.upkeep.stop()
        self.membership.stop()
        self.gateway.close()
        await self.packages.close()
        await asyncio.to_thread(self.canonical.flush)
        await self.store.close()
        self._zeromq.close()

    # what the API is told

    async def nodes(self) -> list[NodeView]:
        """Nodes, as the scheduler wrote down last."""
        return await node_views(self.store)

    async def drain_node(self, node_id: str, drain: bool) -> None:
        """Have the scheduler stop or resume dispatching to a node; wait until it says so."""
        self.transport.send("scheduler", DrainNode(node_id=node_id, drain=drain))
        state = "draining" if drain else "ready"
        for _ in range(round(MOVED_S / MOVED_LOOK_S)):
            views = {view.node_id: view for view in await self.nodes()}
            if node_id not in views or views[node_id].state == state:
                return
            await asyncio.sleep(MOVED_LOOK_S)

    def ready(self) -> dict[str, str]:
        """{component: what is wrong with it, or ""}."""
        scheduler = self.membership.scheduler_lost
        if not scheduler and not self.membership.nodes:
            scheduler = "no node has joined"
        return {
            "store": store_trouble(self.store),
            "scheduler": scheduler,
            "gateway": "this gateway is shutting down" if self.gateway.core.draining else "",
        }

    # inside

    def _api(self) -> ASGIApp:
        """The API behind whatever proxy is believed, and what nodes ask for beside it."""
        trusted = self.config.gateway.forwarded_from
        behind_proxy: Any = ProxyHeadersMiddleware
        api = behind_proxy(ApiHooks(self).build_api(), trusted_hosts=trusted)
        internal = build_internal(
            InternalContext(
                catalog=self.catalog,
                packages=self.packages,
                token=internal_token(self._secret),
                result_bytes_max=self.config.gateway.result_bytes_max,
                transfers_max=self.config.packages.transfers_max,
            )
        )

        async def route(scope: Scope, receive: Receive, send: Send) -> None:
            app: ASGIApp = internal if scope["path"].startswith(PREFIX) else api
            await app(scope, receive, send)

        return route

    def _own_url(self, url: str) -> str:
        """Where nodes reach this gateway: what it listens on, or its address if that is all."""
        host, port = self.config.gateway.host, url.rpartition(":")[2]
        if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
            host = parts.own_address(self.config.queue)
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def _receive(self, message: Message) -> None:
        if not self.membership.receive(message):
            self.gateway.receive(message)

    async def _heard(self, changed: Changed) -> None:
        """Something was changed through another gateway."""
        if changed.name:
            self.catalog.forget(changed.namespace, changed.name)
        for digest in changed.revoked:
            self.keys.forget(digest)
        if changed.trigger:
            await self.triggers.heard(changed.namespace, changed.trigger, changed.revision)

    def _scheduler_changed(self) -> None:
        self.gateway.scheduler_changed()

    async def _tell_function(self, namespace: str, name: str) -> None:
        await self.membership.tell(Changed(change_id="", namespace=namespace, name=name))

    async def _tell_key(self, digest: str) -> None:
        await self.membership.tell(Changed(change_id="", revoked=[digest]))

    async def _tell_trigger(self, namespace: str, name: str, revision: int) -> None:
        changed = Changed(change_id="", namespace=namespace, trigger=name, revision=revision)
        await self.membership.tell(changed)

    def _gauges(self) -> dict[str, tuple[str, float]]:
        return {
            "calls_waiting": ("Sync calls that wait for a result.", self.gateway.waiting),
            "messages_waiting": ("Messages waiting for their peers.", self._zeromq.waiting()),
            "scheduler_reachable": (
                "1 when the scheduler answers.",
                float(not self.membership.scheduler_lost),
            ),
            **store_gauges(self.store),
        }
