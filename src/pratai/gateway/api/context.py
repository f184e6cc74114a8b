"""What the API needs of the rest of the gateway, handed in by whoever composes it.

Structs and protocols only. The API constructs none of these and knows no process but its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import msgspec

from pratai.config.schema import Config
from pratai.errors import PlatformError
from pratai.gateway.auth import KeyRing
from pratai.gateway.catalog import Catalog
from pratai.gateway.triggers import TriggerCatalog
from pratai.model.api import NodeView, RuntimeView
from pratai.model.function import FunctionConfig, Version
from pratai.model.invocation import Invocation
from pratai.store.base import Accepted, Store
from pratai.wire.messages import Result


class InvokeCall(msgspec.Struct, frozen=True, kw_only=True):
    """A sync call that the API makes for a caller (`/fn/...`)."""

    namespace: str
    name: str
    payload: bytes
    qualifier: str = ""
    content_type: str = "application/json"
    #: None = the function's own.
    timeout_ms: int | None = None
    idempotency_key: str = ""
    trace: str = ""
    #: The id to run it under, since the event tells it already; "" = a new one.
    request_id: str = ""
    #: Returns when the caller has hung up, whose call is then cancelled; None = it is not watched.
    gone: Callable[[], Awaitable[None]] | None = None


class InvokeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How a sync call ended, and the version that ran it."""

    result: Result
    version: Version


class AcceptCall(msgspec.Struct, frozen=True, kw_only=True):
    """An async event that the API accepts by itself: of a trigger."""

    namespace: str
    name: str
    payload: bytes
    qualifier: str = ""
    content_type: str = "application/json"
    #: The same key and event: the same invocation.
    idempotency_key: str = ""
    #: What caused it, e.g. `event:NAME`.
    trigger: str = ""
    trace: str = ""


class InspectedPackage(Protocol):
    """A package that was looked into, stored, and whose dependencies are resolved."""

    @property
    def digest(self) -> str:
        """SHA-256, hex."""
        ...

    @property
    def package_bytes(self) -> int:
        """Size as kept."""
        ...

    @property
    def layer(self) -> str:
        """Digest of its dependencies; "" for none."""
        ...

    @property
    def config(self) -> FunctionConfig:
        """The configuration, whole: given, found in the package, kept from before, defaults."""
        ...


class PackageInspector(Protocol):
    """What the API needs of `pratai.packages`."""

    async def inspect_package(
        self,
        data: bytes,
        config_given: Mapping[str, object],
        previous: FunctionConfig | None,
        on_progress: Callable[[object], None],
    ) -> InspectedPackage:
        """Check, store and prepare a package. Raises `CallerError` for what is wrong with it."""
        ...

    async def read(self, digest: str) -> bytes:
        """A package as it was uploaded. Raises `NotFound` when it is not kept any more."""
        ...


def nothing_changed(version: Version | None, version_id: str) -> None:
    """Hook of a gateway that need not know when versions change."""


async def no_node(node_id: str, drain: bool) -> None:
    """Hook of a gateway that has no nodes to drain."""


async def accepting_nothing(call: AcceptCall) -> Accepted:
    """Hook of a gateway that cannot accept events."""
    raise PlatformError(
        f"this gateway accepts no events for {call.name}",
        next_step="Send it to another gateway.",
    )


class ApiContext(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the handlers use."""

    config: Config
    store: Store
    catalog: Catalog
    keys: KeyRing
    packages: PackageInspector
    #: Accept a stored invocation (event included) anew; the new request id, durable on return.
    replay: Callable[[Invocation], Awaitable[str]]
    invoke: Callable[[InvokeCall], Awaitable[InvokeAnswer]]
    nodes: Callable[[], Awaitable[list[NodeView]]]
    runtimes: Callable[[], list[RuntimeView]]
    #: {component: "" or what is wrong with it, one sentence}.
    ready: Callable[[], dict[str, str]]
    #: The metrics page in Prometheus text format.
    metrics: Callable[[], bytes]
    #: URL of this gateway as callers reach it, without a slash at its end.
    base_url: str
    #: Told (version, its id) when `$LATEST` moves to it, and (None, id) when a version is gone.
    version_changed: Callable[[Version | None, str], None] = nothing_changed
    #: Stop (True) or resume (False) giving a node that is there calls; returns when `nodes` shows
    #: it, or soon after.
    drain_node: Callable[[str, bool], Awaitable[None]] = no_node
    #: Accept an event durably and have it run. Raises as `Catalog.resolve` and
    #: `GatewayService.accept` do.
    accept: Callable[[AcceptCall], Awaitable[Accepted]] = accepting_nothing
    #: None: `build_api` makes one over the store.
    triggers: TriggerCatalog | None = None
