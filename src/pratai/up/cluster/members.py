"""Who is in the cluster, as the scheduler wrote it down: what gateways answer and find by."""

from __future__ import annotations

import msgspec

from pratai.model.api import NodeView
from pratai.model.node import NODE_KIND, SYSTEM_NAMESPACE, NodeRecord
from pratai.store.base import Store

#: Nodes told in one answer.
NODES_MAX = 10_000

_decode = msgspec.json.Decoder(NodeRecord).decode


async def node_views(store: Store) -> list[NodeView]:
    """Nodes that are there, and those lost or left within the last day."""
    documents = await store.documents(NODE_KIND, SYSTEM_NAMESPACE, limit=NODES_MAX)
    return [_view(_decode(document.body)) for document in documents]


def _view(record: NodeRecord) -> NodeView:
    state: str = record.state
    if record.draining and state == "ready":
        state = "draining"
    return NodeView(
        node_id=record.node_id,
        state=state,
        driver=record.driver,
        runtimes=record.runtimes,
        slots=record.slots,
        slots_busy=record.slots_busy,
        memory_mb=record.memory_mb,
        instances=record.instances,
        architecture=record.architecture,
        degraded=record.degraded,
        joined_at_ms=record.joined_at_ms,
        heard_at_ms=record.heard_at_ms,
    )
