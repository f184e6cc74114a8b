"""What a gateway's API is handed: calls, events, deployments, figures.

Glue between parts that do not know each other; decisions are elsewhere. The embedded platform and
the gateway process each hand in what is different about them (`Parts`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from pratai import ids
from pratai.config.schema import Config
from pratai.errors import NotFound
from pratai.gateway.api.app import build_api
from pratai.gateway.api.context import AcceptCall, ApiContext, InvokeAnswer, InvokeCall
from pratai.model.api import NodeView, RuntimeView
from pratai.model.function import Version
from pratai.model.invocation import Invocation
from pratai.runtimes.catalog import runtimes
from pratai.store.base import Accepted, Store
from pratai.transport.base import Transport
from pratai.wire.messages import Forget, Provision

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from pratai.gateway.auth import KeyRing
    from pratai.gateway.catalog import Catalog
    from pratai.gateway.service import GatewayService
    from pratai.gateway.triggers import TriggerCatalog
    from pratai.metrics import Scrape
    from pratai.packages.directory import Packages

#: Functions made ready at start, newest change first; further ones at their first call.
PROVISIONED_MAX = 200


class Parts(Protocol):
    """What the API needs of the process that it is in."""

    config: Config
    store: Store
    transport: Transport
    catalog: Catalog
    keys: KeyRing
    packages: Packages
    triggers: TriggerCatalog
    gateway: GatewayService
    scrape: Scrape
    url: str

    async def nodes(self) -> list[NodeView]:
        """Nodes that are there."""
        ...

    async def drain_node(self, node_id: str, drain: bool) -> None:
        """Stop or resume giving a node work."""
        ...

    def ready(self) -> dict[str, str]:
        """{component: what is wrong with it, or ""}."""
        ...


class ApiHooks:
    """The API's view of a process."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        #: {function: version id} of what `$LATEST` meant at the last deployment.
        self._latest: dict[tuple[str, str], str] = {}

    def build_api(self) -> ASGIApp:
        """The Starlette application."""
        parts = self._parts
        return build_api(
            ApiContext(
                config=parts.config,
                store=parts.store,
                catalog=parts.catalog,
                keys=parts.keys,
                packages=parts.packages,
                triggers=parts.triggers,
                replay=self.replay,
                invoke=self.invoke,
                nodes=parts.nodes,
                runtimes=runtime_views,
                ready=parts.ready,
                metrics=parts.scrape.text,
                base_url=parts.url,
                version_changed=self.version_changed,
                drain_node=parts.drain_node,
                accept=self.accept,
            )
        )

    # calls

    async def invoke(self, call: InvokeCall) -> InvokeAnswer:
        """Make a sync call for the API."""
        parts = self._parts
        version = await parts.catalog.resolve(call.namespace, call.name, call.qualifier, 0.5)
        made = parts.gateway.begin(
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
            parts.gateway.watch(made, call.gone)
        result = await parts.gateway.whole(made)
        parts.gateway.finish(made, result, parts.gateway.elapsed_us(made))
        return InvokeAnswer(result=result, version=version)

    async def replay(self, invocation: Invocation) -> str:
        """Run a kept event again, asynchronously, by the version that its qualifier means now."""
        parts = self._parts
        qualifier = invocation.qualifier
        version = await parts.catalog.resolve(
            invocation.namespace, invocation.function, qualifier, 0.5
        )
        accepted = await parts.gateway.acceptor.accept(
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
        parts = self._parts
        version = await parts.catalog.resolve(
            call.namespace, call.name, call.qualifier, ids.chance()
        )
        return await parts.gateway.acceptor.accept(
            version,
            call.payload,
            content_type=call.content_type,
            qualifier=call.qualifier,
            idempotency_key=call.idempotency_key,
            trace=call.trace,
            trigger=call.trigger,
        )

    # versions

    def version_changed(self, version: Version | None, version_id: str) -> None:
        """`$LATEST` moved to a version, or (None) a version is gone."""
        send = self._parts.transport.send
        if version is None:
            send("scheduler", Forget(version_id=version_id))
            return
        key = (version.namespace, version.name)
        replaced = self._latest.get(key, "")
        self._latest[key] = version_id
        send("scheduler", Provision(version_id=version_id, count=version.config.keep_warm))
        if replaced and replaced != version_id:
            send("scheduler", Provision(version_id=replaced, count=0))

    async def provision_all(self) -> None:
        """Make the functions that exist ready, so that first calls after a restart are fast."""
        parts = self._parts
        documents = await parts.store.documents("function", None, limit=PROVISIONED_MAX)
        for document in documents:
            try:
                version = await parts.catalog.resolve(document.namespace, document.id, "", 0.5)
            except NotFound:
                continue
            self.version_changed(version, version.version_id)
            await asyncio.sleep(0)


def runtime_views() -> list[RuntimeView]:
    """Runtimes that there are."""
    return [
        RuntimeView(
            name=runtime.name,
            language=runtime.language,
            version=runtime.version,
            default=runtime.default,
        )
        for runtime in runtimes()
    ]


def store_gauges(store: Store) -> dict[str, tuple[str, float]]:
    """Figures of a store for `/metrics`."""
    stats = store.stats()
    return {
        "store_bytes": ("Size of the store.", stats.bytes_used),
        "store_writes_waiting": ("Writes waiting for a commit.", stats.waiting),
        "store_records_dropped": ("Best-effort records given up.", stats.dropped),
        "store_commits": ("Commits so far.", stats.commits),
        "store_writes": ("Writes so far.", stats.writes),
        "store_healthy": ("1 when the store takes writes.", float(stats.healthy)),
    }


def store_trouble(store: Store) -> str:
    """What is wrong with a store, for `/readyz`; "" when nothing is."""
    return "" if store.stats().healthy else "the store cannot be written"
