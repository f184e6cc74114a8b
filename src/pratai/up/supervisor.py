"""Composition root of the embedded platform: every core in one loop, SQLite, the process driver.

Starts parts in the order in which they need each other, serves, drains, and stops them in reverse.
No decision about an invocation is made here.
"""

from __future__ import annotations

import asyncio
import os

import structlog
import uvloop

from pratai import log
from pratai.agent.service import AgentService
from pratai.clock import now_ms
from pratai.collector.service import CollectorService
from pratai.config.schema import Config
from pratai.core.leases import Leases
from pratai.driver.base import Driver, InstanceSpec
from pratai.driver.registry import create_driver
from pratai.errors import NotFound
from pratai.gateway.app import App
from pratai.gateway.auth import KeyRing
from pratai.gateway.catalog import Catalog
from pratai.gateway.direct import DirectProtocol
from pratai.gateway.service import GatewayService
from pratai.gateway.triggers import TriggerCatalog
from pratai.metrics import Durations, Scrape
from pratai.model.api import NodeView
from pratai.model.function import Version
from pratai.node.service import NodeService
from pratai.packages.directory import Packages
from pratai.scheduler.service import SchedulerService
from pratai.store.base import Store
from pratai.store.memory import MemoryStore
from pratai.store.sqlite import SqliteStore
from pratai.transport.base import Transport
from pratai.transport.memory import MemoryTransport
from pratai.up.api import ApiHooks, store_gauges, store_trouble
from pratai.up.datadir import check_data_dir, locked
from pratai.up.emitting import emitter
from pratai.up.machine import capacity_of, kept_id
from pratai.up.options import UpOptions
from pratai.up.outcomes import Outcomes
from pratai.up.serving import listening, live
from pratai.up.upkeep import Upkeep
from pratai.wire.instance import Drain
from pratai.wire.messages import DrainNode

_log = structlog.get_logger("pratai.up")
#: How often draining looks whether calls are still running.
DRAIN_LOOK_S = 0.02
_DRAIN = Drain()


class Platform:
    """Everything of one machine, started and stopped together."""

    def __init__(self, options: UpOptions) -> None:
        self.options = options
        self.config: Config = options.config
        self.store: Store = _create_store(options)
        self.transport: Transport = MemoryTransport()
        self.durations = Durations()
        self.leases = Leases()
        logs_dir = os.path.join(options.data_dir, "logs")
        os.makedirs(logs_dir, exist_ok=True)
        self.canonical = log.CanonicalLog(
            os.path.join(logs_dir, "invocations.jsonl"), self.config.log.file_bytes_max
        )
        self.catalog = Catalog(self.store)
        self.triggers = TriggerCatalog(
            self.store, shared=False, triggers_max=self.config.gateway.triggers_max
        )
        self.keys = KeyRing(self.store, required=self.config.auth.required and not options.no_auth)
        self.packages = Packages(options.data_dir, self.config.packages)
        self.node_id = kept_id(options.data_dir, "node")
        self.capacity = capacity_of(self.config)
        self.driver: Driver = create_driver(
            self.config.driver,
            state_dir=os.path.join(options.data_dir, "node"),
            node_config=self.config.node,
        )
        self.started_at_ms = now_ms()
        self.key = ""
        self.url = ""

    def _make_services(self) -> None:
        """The cores with the I/O around them; each is bound to its address by being made."""
        config = self.config
        self.gateway = GatewayService(
            config,
            transport=self.transport,
            store=self.store,
            canonical=self.canonical,
            durations=self.durations,
        )
        self.scheduler = SchedulerService(
            config.scheduler,
            self.leases,
            gateways=[self.gateway.core.address],
            transport=self.transport,
            store=self.store,
        )
        self.hooks = ApiHooks(self)
        self.outcomes = Outcomes(
            config,
            store=self.store,
            catalog=self.catalog,
            acceptor=self.gateway.acceptor,
            durations=self.durations,
            canonical=self.canonical,
        )
        self.collector = CollectorService(
            config.scheduler,
            self.leases,
            transport=self.transport,
            store=self.store,
            observe=self.outcomes.observe,
            deliver=self.outcomes.deliver,
        )
        self.node = NodeService(
            config.node,
            self.node_id,
            capacity=self.capacity,
            driver=self.driver,
            transport=self.transport,
            fetch=self.fetch,
        )
        self.agent = AgentService(
            config.agent,
            "agent:local",
            store=self.store,
            emit=emitter(self.catalog, self.gateway.acceptor),
            transport=self.transport,
        )

    async def start(self, url: str) -> App:
        """Start everything but the HTTP server; calls may be made once this returns."""
        self.url = url
        await self.store.open()
        self._make_services()
        await self.driver.open(self.node)
        await self.driver.recover()
        self.fingerprint = await self.driver.fingerprint()
        for sentence in self.fingerprint.degraded:
            _log.warning("sandbox_degraded", detail=sentence)
        self.node.join()
        self.scrape = Scrape(self.durations, self.gauges)
        if self.keys_needed:
            self.key = await self.keys.ensure_admin_key(
                os.path.join(self.options.data_dir, "admin-key")
            )
        self.upkeep = Upkeep(self, self.packages)
        self.upkeep.start()
        return App(
            self.config,
            service=self.gateway,
            catalog=self.catalog,
            keys=self.keys,
            api=self.hooks.build_api(),
        )

    async def serving(self) -> asyncio.Task[None] | None:
        """Calls are served: say so, and go on with what was unfinished."""
        self._resuming = asyncio.get_running_loop().create_task(self._resume())
        await asyncio.to_thread(_announce, self)
        return None

    async def _resume(self) -> None:
        """Queue what the journal holds unfinished, and make known functions ready."""
        acceptor = self.gateway.acceptor
        count = await self.scheduler.recover(acceptor.fresh or ())
        acceptor.fresh = None
        if count:
            _log.info("recovered", events=count)
        await self.collector.recover()
        self.agent.start()
        await self.hooks.provision_all()

    @property
    def keys_needed(self) -> bool:
        """Whether callers need a key."""
        return self.config.auth.required and not self.options.no_auth

    async def fetch(self, version_id: str) -> tuple[Version, InstanceSpec]:
        """A version and what its instances are started from.

        Raises:
            NotFound: it was deleted.
            PlatformError: its package or layer is not there and cannot be made.

        """
        version = await self.catalog.version_by_id(version_id)
        if version is None:
            raise NotFound(
                f"version {version_id} does not exist any more",
                next_step="Call a version that exists: `pratai function versions NAME`.",
            )
        code_dir = await self.packages.code_dir(version.digest)
        layer_dir = self.packages.layer_dir(version.layer) if version.layer else ""
        return version, InstanceSpec(
            instance_id="",
            version=version,
            code_dir=code_dir,
            layer_dir=layer_dir,
            environment=dict(version.config.environment),
            result_bytes_max=self.config.gateway.result_bytes_max,
            log_bytes_max=self.config.node.log_bytes_max,
            init_timeout_ms=self.config.node.init_timeout_ms,
        )

    # what the API is told

    async def nodes(self) -> list[NodeView]:
        """Nodes that joined."""
        views = []
        for member in self.collector.core.members.values():
            ledger = self.scheduler.core.placement.nodes.get(member.node_id)
            capacity = member.capacity
            views.append(
                NodeView(
                    node_id=member.node_id,
                    state="draining" if ledger is not None and ledger.draining else "ready",
                    driver=capacity.driver,
                    runtimes=capacity.runtimes,
                    slots=capacity.slots,
                    slots_busy=ledger.held if ledger is not None else 0,
                    memory_mb=capacity.memory_mb,
                    instances=member.instances,
                    architecture=capacity.architecture,
                    degraded=self.fingerprint.degraded,
                    joined_at_ms=member.joined_at_ms,
                    heard_at_ms=member.heard_at_ms,
                )
            )
        return views

    async def drain_node(self, node_id: str, drain: bool) -> None:
        """Stop or resume dispatching to a node."""
        self.transport.send("scheduler", DrainNode(node_id=node_id, drain=drain))

    def ready(self) -> dict[str, str]:
        """{component: what is wrong with it, or ""}."""
        return {
            "store": store_trouble(self.store),
            "scheduler": "" if self.collector.core.members else "no node has joined",
            "gateway": "this gateway is shutting down" if self.gateway.core.draining else "",
        }

    def gauges(self) -> dict[str, tuple[str, float]]:
        """Figures of this moment for `/metrics`."""
        node = self.node.core
        return {
            "calls_waiting": ("Sync calls that wait for a result.", self.gateway.waiting),
            "invocations_queued": ("Waiting in the scheduler.", len(self.scheduler.core.queues)),
            "leases_open": ("Attempts on nodes.", len(self.leases)),
            "instances": ("Instances on this node.", len(node.pool.instances)),
            "dispatches_held": ("Dispatches on this node.", len(node.held)),
            **self.agent.gauges(),
            **store_gauges(self.store),
        }

    # its end

    async def drain(self, stop_now: asyncio.Event) -> None:
        """Let running calls finish, up to the drain limit; take nothing new."""
        _log.info("draining", waiting=self.gateway.waiting)
        self.gateway.core.draining = True
        self.scheduler.core.drain()
        self.node.receive(_DRAIN)
        deadline_ms = now_ms() + self.config.gateway.drain_ms
        while (self.gateway.waiting or self.node.core.held) and not stop_now.is_set():
            if now_ms() >= deadline_ms:
                _log.warning("drain_limit_reached", running=len(self.node.core.held))
                return
            await asyncio.sleep(DRAIN_LOOK_S)

    async def stop(self) -> None:
        """Stop everything, latest started first."""
        self._resuming.cancel()
        await self.agent.stop()
        await self.upkeep.stop()
        self.node.flush_logs()
        await self.collector.settle()
        self.node.close()
        await self.driver.close()
        for service in (self.collector, self.scheduler, self.gateway):
            service.close()
        await self.packages.close()
        await asyncio.to_thread(self.canonical.flush)
        await self.store.close()


def run_platform(options: UpOptions) -> None:
    """Run the platform until it is told to stop.

    Raises:
        CallerError: the data dir is in use by another platform.
        PlatformError: the port is taken, or a part cannot start.

    """
    log.configure(options.config.log.level, options.config.log.format)
    check_data_dir(options.data_dir)
    gateway = options.config.gateway
    with locked(options.data_dir), listening(gateway.host, gateway.port) as listener:
        uvloop.run(live(lambda: Platform(options), listener, http=DirectProtocol))


def _announce(running: Platform) -> None:
    """Write the ready file and the CLI's credentials; tell a person what to try."""
    from pratai.up.announce import announce

    announce(running.options, url=running.url, key=running.key)


def _create_store(options: UpOptions) -> Store:
    if options.config.store.name == "memory":
        return MemoryStore(options.config.store)
    return SqliteStore(os.path.join(options.data_dir, "pratai.db"), options.config.store)
