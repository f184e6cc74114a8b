"""Where an attempt runs: a node with credit, warm for the version if there is one. Pure.

A decision costs the same whatever the number of functions and nodes. Nodes that take another
dispatch are kept in one list, from which a node is taken out when its last credit is spent and put
back when one is free again; what it holds is read from the ledger of leases. For each version the
few nodes that ran it lately, or were told to make it ready, are remembered. First comes the least
loaded of those with a free slot, unless a node drawn at random is far less loaded (bounded loads;
Mirrokni, Thorup and Zadimoghaddam 2018); then the less loaded of two nodes of the list (power of
two choices; Mitzenmacher 2001), nodes short of memory for it left aside where others are found in a
few probes; then one of those that only take it ahead of a slot. Candidates are drawn by a small
generator of this object's own, so that the core stays deterministic.
"""

from __future__ import annotations

from pratai.core.leases import Leases
from pratai.model.node import Capacity, address_of

#: Nodes remembered for one version.
PLACES_MAX = 4
#: Versions whose nodes are remembered; a further one takes the place of the oldest.
VERSIONS_MAX = 200_000
#: Nodes looked at to find two that have the memory.
PROBES_MAX = 4

#: Versions that some nodes cannot run; a further one takes the place of the oldest.
UNFIT_MAX = 10_000
#: A warm node of which less than this part of the slots is used is not compared with others.
CROWD_SHARE = 16

#: A linear congruential generator (Numerical Recipes); its high bits are used.
_FACTOR, _STEP, _MASK = 1_664_525, 1_013_904_223, 0xFFFFFFFF


class NodeLedger:
    """What the scheduler knows of one node."""

    __slots__ = (
        "_free",
        "address",
        "capacity",
        "draining",
        "memory_used_mb",
        "node_id",
        "place",
        "request_ids",
        "room",
        "slots",
    )

    def __init__(self, free: list[NodeLedger], node_id: str, request_ids: set[str]) -> None:
        self.node_id = node_id
        #: Where its dispatches are sent.
        self.address = ""
        self.capacity = Capacity(slots=0)
        #: Calls it runs at one time; with those that it takes ahead of a slot.
        self.slots = self.room = 0
        #: What is leased to it; changes with the ledger of leases.
        self.request_ids = request_ids
        self.draining = False
        #: As it said last, and what was placed there cold since.
        self.memory_used_mb = 0
        #: All nodes that take another dispatch, and where among them this one is; -1 = not there.
        self._free = free
        self.place = -1

    @property
    def held(self) -> int:
        """Dispatches it has now."""
        return len(self.request_ids)

    @property
    def credit(self) -> int:
        """Dispatches it still takes; 0 when it offers less than it holds."""
        return max(0, self.room - len(self.request_ids))

    def offer(self, endpoint: str, capacity: Capacity) -> None:
        """Take note of what it says that it offers."""
        self.address = address_of("node", self.node_id, endpoint)
        self.capacity = capacity
        self.slots = capacity.slots
        self.room = capacity.slots + capacity.prefetch
        self.settle()

    def drain(self, *, drain: bool) -> None:
        """Give it nothing more, or something again."""
        self.draining = drain
        self.settle()

    def leave(self) -> None:
        """Take no part any more; memories of it become worthless."""
        self.room = 0
        self.settle()

    def is_short_of(self, memory_mb: int) -> bool:
        """Whether one more instance would not fit into its memory, as far as is known."""
        memory_max_mb = self.capacity.memory_mb
        return 0 < memory_max_mb < self.memory_used_mb + memory_mb

    def settle(self) -> None:
        """Be among the free nodes exactly when there is credit; after every change of leases."""
        free, place = self._free, self.place
        takes = len(self.request_ids) < self.room and not self.draining
        if takes and place < 0:
            self.place = len(free)
            free.append(self)
        elif not takes and place >= 0:
            last = free.pop()
            if last is not self:
                free[place] = last
                last.place = place
            self.place = -1


class Placement:
    """All nodes, and the choice among them."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self.nodes: dict[str, NodeLedger] = {}
        #: Nodes that take another dispatch, in no order.
        self._free: list[NodeLedger] = []
        #: {version_id: nodes that ran it lately, the newest first}; may hold nodes that left.
        self._places: dict[str, tuple[NodeLedger, ...]] = {}
        self._drawn = 1
        #: {version_id: ids of nodes that cannot run it}. At most `UNFIT_MAX`, few nodes each: a
        #: choice among the others looks at them all.
        self._unfit: dict[str, set[str]] = {}

    def join(self, node_id: str, endpoint: str, capacity: Capacity) -> NodeLedger:
        """Add a node, or update one that says again what it offers."""
        node = self.nodes.get(node_id)
        if node is None:
            request_ids = self._leases.watch(node_id)
            node = self.nodes[node_id] = NodeLedger(self._free, node_id, request_ids)
        node.offer(endpoint, capacity)
        return node

    def drain(self, node_id: str, *, drain: bool) -> bool:
        """Choose a node no more, or again; whether that is a change for a node that is there."""
        node = self.nodes.get(node_id)
        if node is None or node.draining == drain:
            return False
        node.drain(drain=drain)
        return True

    def leave(self, node_id: str) -> NodeLedger | None:
        """Forget a node."""
        node = self.nodes.pop(node_id, None)
        if node is not None:
            node.leave()
            self._leases.unwatch(node_id)
        return node

    def exclude(self, version_id: str, node_id: str) -> None:
        """A node cannot run a version: choose it no more, unless no other node is there."""
        if len(self._unfit) >= UNFIT_MAX and version_id not in self._unfit:
            del self._unfit[next(iter(self._unfit))]
        unfit = self._unfit.setdefault(version_id, set())
        unfit.intersection_update(self.nodes)
        unfit.add(node_id)
        places = self._places.pop(version_id, ())
        kept = tuple(node for node in places if node.node_id not in unfit)
        if kept:
            self._places[version_id] = kept

    def is_movable(self, version_id: str, node_id: str) -> bool:
        """Whether another node may be able to run a version."""
        unfit = self._unfit.get(version_id) if self._unfit else None
        if unfit is None:
            return len(self.nodes) > 1
        return any(name != node_id and name not in unfit for name in self.nodes)

    def choose(self, version_id: str, memory_mb: int = 0) -> NodeLedger | None:
        """A node with credit for this version, or None."""
        unfit = self._unfit.get(version_id) if self._unfit else None
        if unfit is not None and not unfit.issuperset(self.nodes):
            fit = [node for node in self._free if node.node_id not in unfit]
            return min(fit, key=_share, default=None)
        ahead = best = None
        places = self._places.get(version_id)
        if places is not None:
            for node in places:
                if node.place >= 0:
                    if len(node.request_ids) >= node.slots:
                        ahead = ahead or node
                    elif best is None or _load(node, best) < _load(best, node):
                        best = node
        if best is not None:
            return self._relieved(version_id, best, memory_mb)
        chosen = self._two_choices(memory_mb)
        if chosen is None or (ahead is not None and len(chosen.request_ids) >= chosen.slots):
            return ahead
        chosen.memory_used_mb += memory_mb
        self.remember(version_id, chosen)
        return chosen

    def remember(self, version_id: str, node: NodeLedger) -> None:
        """A node has, or will have, what a version needs to start."""
        places = self._places.get(version_id)
        if places is None:
            if len(self._places) >= VERSIONS_MAX:
                del self._places[next(iter(self._places))]
            self._places[version_id] = (node,)
        elif node not in places:
            self._places[version_id] = (node, *places[: PLACES_MAX - 1])

    def forget(self, version_id: str) -> None:
        """A version was deleted."""
        self._places.pop(version_id, None)
        self._unfit.pop(version_id, None)

    def has_credit(self) -> bool:
        """Whether any node takes another dispatch."""
        return bool(self._free)

    def _relieved(self, version_id: str, warm: NodeLedger, memory_mb: int) -> NodeLedger:
        """A warm node, or another one where far less runs: instances start in milliseconds, and
        one node shall not be full while the next one sleeps.
        """
        if len(warm.request_ids) * CROWD_SHARE <= warm.slots:
            return warm
        drawn = self._drawn = (self._drawn * _FACTOR + _STEP) & _MASK
        other = self._free[(drawn >> 16) % len(self._free)]
        crowded = len(warm.request_ids) * other.slots * CROWD_SHARE
        if crowded <= 2 * warm.slots * (len(other.request_ids) * CROWD_SHARE + other.slots):
            return warm
        if other.is_short_of(memory_mb):
            return warm
        self.remember(version_id, other)
        return other

    def _two_choices(self, memory_mb: int) -> NodeLedger | None:
        free = self._free
        count = len(free)
        if count < 2:
            return free[0] if count else None
        drawn = self._drawn = (self._drawn * _FACTOR + _STEP) & _MASK
        at, step = (drawn >> 16) % count, 1 + (drawn >> 8) % (count - 1)
        best = short = None
        for _ in range(PROBES_MAX):
            node = free[at]
            at = (at + step) % count
            if node.is_short_of(memory_mb):
                short = short or node
            elif best is None:
                best = node
            else:
                loads = len(node.request_ids) * best.slots, len(best.request_ids) * node.slots
                return node if loads[0] < loads[1] else best
        return best or short

    def check(self) -> None:
        """The list has only nodes that take another dispatch, each at its place. One whose lease
        was closed a moment ago may not be in it yet.
        """
        assert len(self._free) == len(set(self._free))
        for node in self.nodes.values():
            takes = node.credit > 0 and not node.draining
            assert node.place < 0 or takes, f"{node.node_id} is offered and takes nothing"
            assert node.place < 0 or self._free[node.place] is node
            assert node.request_ids is self._leases.watch(node.node_id)
        assert set(self._free) <= set(self.nodes.values())
        assert all(0 < len(places) <= PLACES_MAX for places in self._places.values())
        assert len(self._places) <= VERSIONS_MAX


def _load(node: NodeLedger, other: NodeLedger) -> int:
    """A node's share of slots in use, as a number to be compared with that of another one."""
    return len(node.request_ids) * other.slots


def _share(node: NodeLedger) -> float:
    return len(node.request_ids) / max(1, node.slots)
