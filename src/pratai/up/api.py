"""What the embedded platform hands to its gateway's API and takes from its collector.

Glue between parts that do not know each other; decisions are elsewhere.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, cast

import msgspec
import structlog

from pratai import ids
from pratai.clock import now_ms
from pratai.core.effects import Deliver, RecordOutcome
from pratai.driver.base import InstanceSpec
from pratai.errors import NotFound, PrataiError
from pratai.gateway.api.app import build_api
from pratai.gateway.api.context import AcceptCall, ApiContext, InvokeAnswer, InvokeCall
from pratai.log import CanonicalLine
from pratai.metrics import count
from pratai.model.api import NodeView, RuntimeView
from pratai.model.function import Version
from pratai.model.invocation import Invocation
from pratai.runtimes.catalog import runtimes
from pratai.wire.messages import DrainNode, Outcome

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from pratai.collector.service import CollectorService
    from pratai.config.schema import Config
    from pratai.core.leases import Leases
    from pratai.driver.base import Fingerprint
    from pratai.gateway.auth import KeyRing
    from pratai.gateway.catalog import Catalog
    from pratai.gateway.service import GatewayService
    from pratai.log import CanonicalLog
    from pratai.metrics import Durations, Scrape
    from pratai.node.service import NodeService
    from pratai.packages.directory import Packages
    from pratai.scheduler.service import SchedulerService
    from pratai.store.base import Accepted, Store
    from pratai.transport.memory import MemoryTransport

_log = structlog.get_logger("pratai.up")
#: Functions made ready at start, newest change first; further ones at their first call.
PROVISIONED_MAX = 200
#: Functions read in one page.
PAGE = 200
_DESTINATION = "function:"


class Running(Protocol):
    """What the API needs of a platform that runs."""

    config: Config
    store: Store
    transport: MemoryTransport
    durations: Durations
    leases: Leases
    canonical: CanonicalLog
    catalog: Catalog
    keys: KeyRing
    packages: Packages
    gateway: GatewayService
    scheduler: SchedulerService
    collector: CollectorService
    node: NodeService
    fingerprint: Fingerprint
    scrape: Scrape
    url: str

    def version_changed(self, version_id: str, keep_warm: int, replaced_id: str) -> None:
        """A deployment moved `$LATEST`."""
        ...

    def version_deleted(self, version_id: str) -> None:
        """A version is gone."""
        ...


class ApiParts:
    """The API's view of a platform."""

    def __init__(self, running: Running) -> None:
        self._running = running
        #: {version id: keep_warm} of what `$LATEST` meant at the last deployment, by function.
        self._latest: dict[tuple[str, str], str] = {}

    def build_api(self) -> ASGIApp:
        """The Starlette application."""
        running = self._running
        return build_api(
            ApiContext(
                config=running.config,
                store=running.store,
                catalog=running.catalog,
                keys=running.keys,
                packages=running.packages,
                replay=self.replay,
                invoke=self.invoke,
                nodes=self.nodes,
                runtimes=self.runtimes,
                ready=self.ready,
                metrics=running.scrape.text,
                base_url=running.url,
                version_changed=self.version_changed,
                drain_node=self.drain_node,
                accept=self.accept,
            )
        )

    # calls

    async def invoke(self, call: InvokeCall) -> InvokeAnswer:
        """Make a sync call for the API."""
        running = self._running
        version = await running.catalog.resolve(call.namespace, call.name, call.qualifier, 0.5)
        made = running.gateway.begin(
            version,
            call.payload,
            content_type=call.content_type,
            qualifier=call.qualifier,
            timeout_ms=call.timeout_ms or 0,
            trace=call.trace,
            trigger="endpoint",
            request_id=call.request_id,
        )
        if call.gone is not None:
            running.gateway.watch(made, call.gone)
        result = await running.gateway.whole(made)
        running.gateway.finish(made, result, running.gateway.elapsed_us(made))
        return InvokeAnswer(result=result, version=version)

    async def replay(self, invocation: Invocation) -> str:
        """Run a kept event again, asynchronously, by the version that its qualifier means now."""
        running = self._running
        qualifier = invocation.qualifier
        version = await running.catalog.resolve(
            invocation.namespace, invocation.function, qualifier, 0.5
        )
        accepted = await running.gateway.accept(
            version,
            invocation.event or b"",
            content_type=invocation.content_type,
            qualifier=qualifier,
            trace=invocation.trace,
            trigger="replay",
            replay_of=invocation.request_id,
        )
        return accepted.request_id

    async def accept(self, call: AcceptCall) -> Accepted:
        """Accept an event of a trigger: durable on return."""
        running = self._running
        version = await running.catalog.resolve(
            call.namespace, call.name, call.qualifier, ids.chance()
        )
        return await running.gateway.accept(
            version,
            call.payload,
            content_type=call.content_type,
            qualifier=call.qualifier,
            idempotency_key=call.idempotency_key,
            trace=call.trace,
            trigger=call.trigger,
        )

    async def deliver(self, effect: Deliver) -> None:
        """Hand an async invocation's outcome to the destination that its function names."""
        running = self._running
        outcome = cast("Outcome", effect.outcome)
        version = await running.catalog.version_by_id(effect.version_id)
        if version is None:
            return
        config = version.config
        destination = config.on_success if outcome.outcome == "succeeded" else config.on_failure
        if not destination.startswith(_DESTINATION):
            return
        name = destination[len(_DESTINATION) :]
        try:
            target = await running.catalog.resolve(effect.namespace, name, "", 0.5)
            await running.gateway.accept(
                target,
                await self._destination_event(effect, outcome),
                trigger="destination",
                idempotency_key=f"destination:{outcome.request_id}",
            )
        except PrataiError as error:
            count("destinations_failed")
            _log.warning(
                "destination_failed",
                request_id=outcome.request_id,
                destination=destination,
                error=error.detail,
            )

    async def _destination_event(self, effect: Deliver, outcome: Outcome) -> bytes:
        event = await self._running.store.event(effect.namespace, outcome.request_id)
        document = {
            "request_id": outcome.request_id,
            "function": effect.function,
            "outcome": outcome.outcome,
            "attempts": outcome.attempt,
            "failure": outcome.failure,
            "event": _as_json(event or b""),
            "result": _as_json(outcome.payload),
        }
        return msgspec.json.encode(document)

    def observe_async(self, effect: RecordOutcome) -> None:
        """Count an async invocation that ended and write its canonical line."""
        running = self._running
        outcome = cast("Outcome", effect.outcome)
        running.durations.observe(
            effect.namespace,
            effect.function,
            outcome=outcome.outcome,
            start_kind=outcome.start_kind,
            duration_us=effect.queue_us + outcome.start_us + outcome.run_us,
        )
        running.canonical.add(
            CanonicalLine(
                at_ms=now_ms(),
                request_id=outcome.request_id,
                namespace=effect.namespace,
                function=effect.function,
                version="",
                mode="async",
                outcome=outcome.outcome,
                code=outcome.failure.code if outcome.failure is not None else "",
                attempt=outcome.attempt,
                start_kind=outcome.start_kind,
                node_id=outcome.node_id,
                instance_id=outcome.instance_id,
                queue_us=effect.queue_us,
                start_us=outcome.start_us,
                run_us=outcome.run_us,
                total_us=effect.queue_us + outcome.start_us + outcome.run_us,
                event_bytes=0,
                result_bytes=len(outcome.payload),
            )
        )

    # versions

    async def fetch(self, version_id: str) -> tuple[Version, InstanceSpec]:
        """A version and what its instances are started from.

        Raises:
            NotFound: it was deleted.
            PlatformError: its package or layer is not there and cannot be made.

        """
        running = self._running
        version = await running.catalog.version_by_id(version_id)
        if version is None:
            raise NotFound(
                f"version {version_id} does not exist any more",
                next_step="Call a version that exists: `pratai function versions NAME`.",
            )
        code_dir = await running.packages.code_dir(version.digest)
        layer_dir = running.packages.layer_dir(version.layer) if version.layer else ""
        return version, InstanceSpec(
            instance_id="",
            version=version,
            code_dir=code_dir,
            layer_dir=layer_dir,
            environment=dict(version.config.environment),
            result_bytes_max=running.config.gateway.result_bytes_max,
            log_bytes_max=running.config.node.log_bytes_max,
            init_timeout_ms=running.config.node.init_timeout_ms,
        )

    def version_changed(self, version: Version | None, version_id: str) -> None:
        """`$LATEST` moved to a version, or (None) a version is gone."""
        running = self._running
        if version is None:
            running.version_deleted(version_id)
            return
        key = (version.namespace, version.name)
        replaced = self._latest.get(key, "")
        self._latest[key] = version_id
        running.version_changed(version_id, version.config.keep_warm, replaced)

    async def provision_all(self) -> None:
        """Make the functions that exist ready, so that first calls after a restart are fast."""
        running = self._running
        documents = await running.store.documents("function", None, limit=PROVISIONED_MAX)
        for document in documents:
            try:
                version = await running.catalog.resolve(document.namespace, document.id, "", 0.5)
            except NotFound:
                continue
            self.version_changed(version, version.version_id)
            await asyncio.sleep(0)

    # figures

    def nodes(self) -> list[NodeView]:
        """Nodes that joined."""
        running = self._running
        views = []
        for member in running.collector.core.members.values():
            ledger = running.scheduler.core.placement.nodes.get(member.node_id)
            views.append(
                NodeView(
                    node_id=member.node_id,
                    state="draining" if ledger is not None and ledger.draining else "ready",
                    driver=member.capacity.driver,
                    runtimes=member.capacity.runtimes,
                    slots=member.capacity.slots,
                    slots_busy=ledger.held if ledger is not None else 0,
                    memory_mb=member.capacity.memory_mb,
                    instances=member.instances,
                    architecture=member.capacity.architecture,
                    degraded=running.fingerprint.degraded,
                    joined_at_ms=member.joined_at_ms,
                    heard_at_ms=member.heard_at_ms,
                )
            )
        return views

    def drain_node(self, node_id: str, drain: bool) -> bool:
        """Stop or resume dispatching to a node; False when it has not joined."""
        running = self._running
        if node_id not in running.collector.core.members:
            return False
        running.transport.send("scheduler", DrainNode(node_id=node_id, drain=drain))
        return True

    def runtimes(self) -> list[RuntimeView]:
        """Runtimes of this machine."""
        return [
            RuntimeView(
                name=runtime.name,
                language=runtime.language,
                version=runtime.version,
                default=runtime.default,
            )
            for runtime in runtimes()
        ]

    def ready(self) -> dict[str, str]:
        """{component: what is wrong with it, or ""}."""
        running = self._running
        stats = running.store.stats()
        return {
            "store": "" if stats.healthy else "the store cannot be written",
            "scheduler": "" if running.collector.core.members else "no node has joined",
            "gateway": "this gateway is shutting down" if running.gateway.core.draining else "",
        }

    def gauges(self) -> dict[str, tuple[str, float]]:
        """Figures of this moment for `/metrics`."""
        running = self._running
        stats = running.store.stats()
        node = running.node.core
        return {
            "calls_waiting": ("Sync calls that wait for a result.", running.gateway.waiting),
            "invocations_queued": ("Waiting in the scheduler.", len(running.scheduler.core.queues)),
            "leases_open": ("Attempts on nodes.", len(running.leases)),
            "instances": ("Instances on this node.", len(node.pool.instances)),
            "dispatches_held": ("Dispatches on this node.", len(node.held)),
            "store_bytes": ("Size of the store.", stats.bytes_used),
            "store_writes_waiting": ("Writes waiting for a commit.", stats.waiting),
            "store_records_dropped": ("Best-effort records given up.", stats.dropped),
            "store_commits": ("Commits so far.", stats.commits),
            "store_writes": ("Writes so far.", stats.writes),
            "store_healthy": ("1 when the store takes writes.", float(stats.healthy)),
        }


def _as_json(payload: bytes) -> msgspec.Raw | str | None:
    if not payload:
        return None
    try:
        msgspec.json.decode(payload)
    except msgspec.DecodeError:
        return payload.decode("utf-8", "replace")
    return msgspec.Raw(payload)
