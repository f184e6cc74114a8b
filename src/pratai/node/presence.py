"""What a node says of itself to the scheduler, and what it is told in return. Pure.

With every heartbeat a node says what it offers and where it is reached. So a scheduler that was
started anew, or that gave the node up while the network was gone, knows it again without any
question back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from pratai.model.node import MEMORY, Capacity
from pratai.node.pool import Held, Pool
from pratai.wire.messages import Heartbeat, Join, Roster


class Presence:
    """Who a node is. Without `capacity` its heartbeats say only that it lives."""

    def __init__(
        self,
        node_id: str,
        *,
        endpoint: str = MEMORY,
        capacity: Capacity | None = None,
        degraded: Iterable[str] = (),
    ) -> None:
        self.node_id = node_id
        self._endpoint = endpoint
        self._capacity = capacity
        self._degraded = list(degraded)
        #: The newest answer of the scheduler; None = none yet.
        self.roster: Roster | None = None

    def join(self, held: Mapping[str, Held]) -> Join:
        """Said once, when the node starts."""
        assert self._capacity is not None, "a node that joins says what it offers"
        return Join(
            node_id=self.node_id,
            endpoint=self._endpoint,
            capacity=self._capacity,
            held=_attempts(held),
            degraded=self._degraded,
        )

    def heartbeat(self, held: Mapping[str, Held], pool: Pool, *, draining: bool) -> Heartbeat:
        """Said now and then. A node that drains offers no place any more, unless its scheduler is
        in the same process and drains with it.
        """
        used = sum(instance.memory_bytes for instance in pool.instances.values())
        capacity = self._capacity
        if draining and capacity is not None and self._endpoint != MEMORY:
            capacity = replace(capacity, slots=0, prefetch=0)
        return Heartbeat(
            node_id=self.node_id,
            instances=len(pool.instances),
            held=_attempts(held),
            memory_used_mb=used >> 20,
            endpoint=self._endpoint if capacity is not None else "",
            capacity=capacity,
            degraded=self._degraded,
        )


def _attempts(held: Mapping[str, Held]) -> list[tuple[str, int]]:
    return [(request_id, item.dispatch.attempt) for request_id, item in held.items()]
