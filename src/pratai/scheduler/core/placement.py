"""Where an attempt runs: a node with credit, warm for the version if there is one. Pure.

A node is warm for a version when it ran it lately. Otherwise the less loaded of two candidates is
taken (power of two choices; Mitzenmacher 2001), the candidates rotating instead of being drawn,
which needs no random number and keeps the core deterministic. A decision costs the same whatever
the number of functions.
"""

from __future__ import annotations

from pratai.model.node import Capacity, address_of

#: Versions a node is remembered to be warm for.
WARM_MAX = 4_096


class NodeLedger:
    """What the scheduler knows of one node."""

    __slots__ = (
        "address",
        "capacity",
        "draining",
        "endpoint",
        "node_id",
        "request_ids",
        "warm",
    )

    def __init__(self, node_id: str, endpoint: str, capacity: Capacity) -> None:
        self.node_id = node_id
        self.endpoint = endpoint
        #: Where its dispatches are sent.
        self.address = address_of("node", node_id, endpoint)
        self.capacity = capacity
        #: What was dispatched to it and has not ended.
        self.request_ids: set[str] = set()
        self.draining = False
        #: Versions it ran, oldest use first.
        self.warm: dict[str, None] = {}

    @property
    def held(self) -> int:
        """Dispatches it has now."""
        return len(self.request_ids)

    @property
    def credit(self) -> int:
        """Dispatches it still takes; 0 when it offers less than it holds."""
        capacity = self.capacity
        return max(0, capacity.slots + capacity.prefetch - len(self.request_ids))

    def spend(self, version_id: str, request_id: str) -> None:
        """Count a dispatch to it."""
        assert self.credit > 0, f"{self.node_id} has no credit"
        assert request_id not in self.request_ids, f"{self.node_id} has {request_id} already"
        self.request_ids.add(request_id)
        self.warm.pop(version_id, None)
        self.warm[version_id] = None
        if len(self.warm) > WARM_MAX:
            del self.warm[next(iter(self.warm))]

    def grant(self, request_id: str) -> None:
        """Count an attempt that ended; one of the node's former life counts for nothing."""
        self.request_ids.discard(request_id)


class Placement:
    """All nodes, and the choice among them."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeLedger] = {}
        self._order: list[NodeLedger] = []
        #: {version_id: node that ran it last}; a hint, checked before it is used.
        self._last: dict[str, NodeLedger] = {}
        self._turn = 0

    def join(self, node_id: str, endpoint: str, capacity: Capacity) -> NodeLedger:
        """Add a node, or update one that says again what it offers."""
        node = self.nodes.get(node_id)
        if node is None:
            node = self.nodes[node_id] = NodeLedger(node_id, endpoint, capacity)
            self._order.append(node)
        else:
            node.endpoint, node.capacity = endpoint, capacity
            node.address = address_of("node", node_id, endpoint)
        return node

    def hold(self, node_id: str, request_id: str) -> None:
        """A node has a dispatch that was not given to it just now; beyond its credit if need be."""
        node = self.nodes.get(node_id)
        if node is not None:
            node.request_ids.add(request_id)

    def drain(self, node_id: str, *, drain: bool) -> bool:
        """Choose a node no more, or again; whether that is a change for a node that is there."""
        node = self.nodes.get(node_id)
        if node is None or node.draining == drain:
            return False
        node.draining = drain
        return True

    def leave(self, node_id: str) -> NodeLedger | None:
        """Forget a node."""
        node = self.nodes.pop(node_id, None)
        if node is not None:
            self._order.remove(node)
            self._last = {key: value for key, value in self._last.items() if value is not node}
        return node

    def choose(self, version_id: str) -> NodeLedger | None:
        """A node with credit for this version, or None."""
        last = self._last.get(version_id)
        if last is not None and last.credit > 0 and not last.draining:
            return last
        node = self._two_choices(version_id)
        if node is not None:
            if len(self._last) >= WARM_MAX:
                del self._last[next(iter(self._last))]
            self._last[version_id] = node
        return node

    def has_credit(self) -> bool:
        """Whether any node takes another dispatch."""
        return any(node.credit > 0 and not node.draining for node in self._order)

    def _two_choices(self, version_id: str) -> NodeLedger | None:
        order = self._order
        best: NodeLedger | None = None
        found = 0
        for step in range(len(order)):
            node = order[(self._turn + step) % len(order)]
            if node.credit <= 0 or node.draining:
                continue
            if version_id in node.warm:
                best = node
                break
            if best is None or node.held < best.held:
                best = node
            found += 1
            if found == 2:
                break
        self._turn = (self._turn + 1) % max(1, len(order))
        return best

    def check(self) -> None:
        """The order has every node once."""
        assert len(self._order) == len(self.nodes)
        assert set(self._order) == set(self.nodes.values())
