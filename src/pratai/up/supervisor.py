"""Composition root of the embedded platform: every core in one loop, SQLite, the process driver.

Starts parts in the order in which they need each other, serves, drains, and stops them in reverse.
No decision about an invocation is made here.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import gc
import os
import platform
import signal
import socket
import sys
from collections.abc import Iterator

import structlog
import uvicorn
import uvloop

from pratai import ids, log
from pratai.clock import now_ms
from pratai.collector.service import CollectorService
from pratai.config.schema import Config
from pratai.core.leases import Leases
from pratai.driver.base import Driver
from pratai.driver.registry import create_driver
from pratai.errors import CallerError, PlatformError
from pratai.gateway.app import App
from pratai.gateway.auth import KeyRing
from pratai.gateway.catalog import Catalog
from pratai.gateway.direct import DirectProtocol
from pratai.gateway.service import GatewayService
from pratai.metrics import Durations, Scrape
from pratai.model.node import Capacity
from pratai.node.service import NodeService
from pratai.packages.directory import Packages
from pratai.scheduler.service import SchedulerService
from pratai.store.base import Store
from pratai.store.memory import MemoryStore
from pratai.store.sqlite import SqliteStore
from pratai.transport.memory import MemoryTransport
from pratai.up.api import ApiParts
from pratai.up.options import UpOptions
from pratai.up.upkeep import Upkeep
from pratai.wire.instance import Drain
from pratai.wire.messages import Forget, Provision

_log = structlog.get_logger("pratai.up")
#: Calls at one time for each processor when `[node] slots` is 0.
SLOTS_EACH_CPU = 32
#: Connections the kernel holds while the gateway is busy.
BACKLOG = 2_048
#: How often draining looks whether calls are still running.
DRAIN_LOOK_S = 0.02
_DRAIN = Drain()


class Platform:
    """Everything of one machine, started and stopped together."""

    def __init__(self, options: UpOptions) -> None:
        self.options = options
        self.config: Config = options.config
        self.store: Store = _create_store(options)
        self.transport = MemoryTransport()
        self.durations = Durations()
        self.leases = Leases()
        logs_dir = os.path.join(options.data_dir, "logs")
        os.makedirs(logs_dir, exist_ok=True)
        self.canonical = log.CanonicalLog(
            os.path.join(logs_dir, "invocations.jsonl"), self.config.log.file_bytes_max
        )
        self.catalog = Catalog(self.store)
        self.keys = KeyRing(self.store, required=self.config.auth.required and not options.no_auth)
        self.packages = Packages(options.data_dir, self.config.packages)
        self.node_id = _node_id(options.data_dir)
        self.capacity = _capacity(self.config)
        self.driver: Driver = create_driver(
            self.config.driver,
            state_dir=os.path.join(options.data_dir, "node"),
            node_config=self.config.node,
        )
        self.started_at_ms = now_ms()
        self.key = ""
        self.url = ""

    async def start(self) -> App:
        """Start everything but the HTTP server; calls may be made once this returns."""
        await self.store.open()
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
        self.parts = ApiParts(self)
        self.collector = CollectorService(
            config.scheduler,
            self.leases,
            transport=self.transport,
            store=self.store,
            observe=self.parts.observe_async,
            deliver=self.parts.deliver,
        )
        self.node = NodeService(
            config.node,
            self.node_id,
            capacity=self.capacity,
            driver=self.driver,
            transport=self.transport,
            fetch=self.parts.fetch,
        )
        await self.driver.open(self.node)
        await self.driver.recover()
        self.fingerprint = await self.driver.fingerprint()
        for sentence in self.fingerprint.degraded:
            _log.warning("sandbox_degraded", detail=sentence)
        self.node.join()
        self.scrape = Scrape(self.durations, self.parts.gauges)
        if self.keys_needed:
            self.key = await self.keys.ensure_admin_key(
                os.path.join(self.options.data_dir, "admin-key")
            )
        self.upkeep = Upkeep(self)
        self.upkeep.start()
        return App(
            config,
            service=self.gateway,
            catalog=self.catalog,
            keys=self.keys,
            api=self.parts.build_api(),
        )

    async def resume(self) -> None:
        """Queue what the journal holds unfinished, and make known functions ready."""
        await self.collector.recover()
        fresh = self.gateway.fresh
        count = await self.scheduler.recover(fresh if fresh is not None else ())
        self.gateway.fresh = None
        if count:
            _log.info("recovered", events=count)
        await self.parts.provision_all()

    @property
    def keys_needed(self) -> bool:
        """Whether callers need a key."""
        return self.config.auth.required and not self.options.no_auth

    def version_changed(self, version_id: str, keep_warm: int, replaced_id: str) -> None:
        """A deployment: make the new version ready, let the old one's spare instances go."""
        node = f"node:{self.node_id}"
        if version_id:
            self.transport.send(node, Provision(version_id=version_id, count=keep_warm))
        if replaced_id and replaced_id != version_id:
            self.transport.send(node, Provision(version_id=replaced_id, count=0))

    def version_deleted(self, version_id: str) -> None:
        """A version is gone: its instances end when they are idle."""
        self.transport.send(f"node:{self.node_id}", Forget(version_id=version_id))

    async def drain(self, stop_now: asyncio.Event) -> None:
        """Let running calls finish, up to the drain limit; take nothing new."""
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


class Server(uvicorn.Server):
    """uvicorn without its own signal handling: draining is decided here."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `run_platform`."""
        yield


def run_platform(options: UpOptions) -> None:
    """Run the platform until it is told to stop.

    Raises:
        CallerError: the data dir is in use by another platform.
        PlatformError: the port is taken, or a part cannot start.

    """
    log.configure(options.config.log.level, options.config.log.format)
    _check_data_dir(options.data_dir)
    with _locked(options.data_dir), _listening(options.config) as listener:
        uvloop.run(_serve(options, listener))


async def _serve(options: UpOptions, listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    stopping, stop_now = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        if stopping.is_set():
            stop_now.set()
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    running = Platform(options)
    host, port = listener.getsockname()[:2]
    running.url = f"http://{host}:{port}"
    app = await running.start()
    server = Server(
        uvicorn.Config(
            app,
            http=DirectProtocol,
            loop="none",
            lifespan="off",
            ws="none",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            date_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=2,
            backlog=BACKLOG,
        )
    )
    serving = loop.create_task(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.001)
    _settle_garbage()
    resuming = loop.create_task(running.resume())
    await asyncio.to_thread(_announce, running)
    stop = loop.create_task(stopping.wait())
    await asyncio.wait({stop, serving}, return_when=asyncio.FIRST_COMPLETED)
    _log.info("draining", waiting=running.gateway.waiting)
    await running.drain(stop_now)
    resuming.cancel()
    server.should_exit = True
    await serving
    await running.stop()


def _settle_garbage() -> None:
    """Look for cycles seldom, and never again among what lives as long as the process.

    What a call makes is freed by its reference counts; the collector took 5 % of a warm call.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    sys.setswitchinterval(0.0005)


def _announce(running: Platform) -> None:
    """Write the ready file and the CLI's credentials; tell a person what to try."""
    from pratai.up.announce import announce

    announce(running.options, url=running.url, key=running.key)


def _check_data_dir(data_dir: str) -> None:
    """Make the data dir if need be; it must be one that can be written."""
    try:
        os.makedirs(data_dir, mode=0o755, exist_ok=True)
        with open(os.path.join(data_dir, "pratai.lock"), "a", encoding="ascii"):
            return
    except OSError as error:
        raise CallerError(
            f"{data_dir} cannot be used as the data dir: {error.strerror}",
            code="data_dir_unusable",
            field="--data-dir",
            value=data_dir,
            next_step="Name a directory that can be written with --data-dir.",
        ) from None


@contextlib.contextmanager
def _locked(data_dir: str) -> Iterator[None]:
    path = os.path.join(data_dir, "pratai.lock")
    with open(path, "a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read(32).strip() or "unknown"
            raise CallerError(
                f"{data_dir} is in use by another platform (process {owner})",
                code="data_dir_in_use",
                field="--data-dir",
                value=data_dir,
                next_step="Stop that one, or name another directory with --data-dir.",
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


@contextlib.contextmanager
def _listening(config: Config) -> Iterator[socket.socket]:
    host, port = config.gateway.host, config.gateway.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(BACKLOG)
        except OSError as error:
            if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                raise CallerError(
                    f"{host} is not an address of this machine: {error.strerror}",
                    code="address_unknown",
                    field="--host",
                    value=host,
                    next_step="Choose one with --host: 127.0.0.1, or 0.0.0.0 for all.",
                ) from None
            raise PlatformError(
                f"cannot listen on {host}:{port}: {error.strerror}",
                code="address_in_use",
                next_step="Stop what listens there, or choose another with --port (0 = any).",
            ) from None
        listener.setblocking(False)
        yield listener


def _create_store(options: UpOptions) -> Store:
    if options.config.store.name == "memory":
        return MemoryStore(options.config.store)
    return SqliteStore(os.path.join(options.data_dir, "pratai.db"), options.config.store)


def _node_id(data_dir: str) -> str:
    """This machine's node id: made once, kept in the data dir."""
    path = os.path.join(data_dir, "node-id")
    try:
        with open(path, encoding="ascii") as file:
            return file.read(64).strip()
    except FileNotFoundError:
        node_id = ids.node_id()
        with open(path, "w", encoding="ascii") as file:
            file.write(node_id)
        return node_id


def _capacity(config: Config) -> Capacity:
    from pratai.runtimes.catalog import runtimes

    cpus = len(os.sched_getaffinity(0))
    memory_mb = config.node.memory_mb
    if not memory_mb:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        memory_mb = total * 3 // 4 >> 20
    return Capacity(
        slots=config.node.slots or SLOTS_EACH_CPU * cpus,
        memory_mb=memory_mb,
        driver=config.driver.name,
        runtimes=[runtime.name for runtime in runtimes()],
        architecture=platform.machine(),
    )
