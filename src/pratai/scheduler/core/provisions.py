"""Which nodes keep how many instances of a version started ahead of its calls. Pure.

The number that a gateway asks for is shared between nodes: a version has its own order of the nodes
(rendezvous hashing; Thaler and Ravishankar 1996), the first of them get the shares. So a node that
joins or goes moves only the shares that concern it, and no table of places is kept. A version to be
made ready without any instance kept is prepared on a few nodes and not remembered.
"""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

from pratai.wire.messages import Provision

#: Versions whose shares are remembered; a further one takes the place of the oldest.
PROVISIONS_MAX = 10_000
#: Nodes on which a version is prepared that asks for fewer instances than this.
PREPARED_MAX = 3

#: (node_id, message) pairs to be sent.
Told = list[tuple[str, Provision]]


class Provisions:
    """Counts asked for, and their shares by node."""

    def __init__(self) -> None:
        #: {version_id: instances wanted on all nodes together}, above 0 each; oldest first.
        self.wanted: dict[str, int] = {}
        #: {version_id: {node_id: its share}}; 0 = prepared only.
        self._shares: dict[str, dict[str, int]] = {}
        #: {node_id: versions that it has a share of}. Agrees with `_shares`.
        self._of_node: dict[str, set[str]] = {}

    def want(self, version_id: str, count: int, nodes: Iterable[str]) -> Told:
        """Keep so many instances of a version from now on."""
        if count:
            self.wanted.pop(version_id, None)
            self.wanted[version_id] = count
            told = self._spread(version_id, nodes)
            if len(self.wanted) > PROVISIONS_MAX:
                oldest = next(iter(self.wanted))
                told += self._end(oldest)
            return told
        if version_id in self.wanted:
            return self._end(version_id)
        few = _order(version_id, nodes)[:PREPARED_MAX]
        return [(node_id, Provision(version_id=version_id)) for node_id in few]

    def forget(self, version_id: str) -> None:
        """A version was deleted."""
        self.wanted.pop(version_id, None)
        self._set(version_id, {})

    def join(self, node_id: str, nodes: list[str]) -> Told:
        """A node may get shares from now on; all that it has are said to it (again)."""
        told: Told = []
        for version_id, count in self.wanted.items():
            shares = self._shares.get(version_id, {})
            first = max(count, PREPARED_MAX)
            if node_id in shares:
                share = Provision(version_id=version_id, count=shares[node_id])
                told.append((node_id, share))
            elif len(shares) < first or _rank(version_id, node_id) > min(
                _rank(version_id, other) for other in shares
            ):
                told += self._spread(version_id, nodes)
        return told

    def leave(self, node_id: str, nodes: list[str]) -> Told:
        """A node gets no shares any more; others take what it had."""
        told: Told = []
        for version_id in sorted(self._of_node.get(node_id, ())):
            told += self._spread(version_id, nodes)
        return told

    def _spread(self, version_id: str, nodes: Iterable[str]) -> Told:
        """Share out anew; only changes are said."""
        count = self.wanted[version_id]
        order = _order(version_id, nodes)[: max(count, PREPARED_MAX)]
        each, more = divmod(count, len(order)) if order else (0, 0)
        shares = {node_id: each + (place < more) for place, node_id in enumerate(order)}
        before = self._shares.get(version_id, {})
        self._set(version_id, shares)
        told = [
            (node_id, Provision(version_id=version_id, count=share))
            for node_id, share in shares.items()
            if before.get(node_id) != share
        ]
        return told + self._ended(version_id, before.keys() - shares.keys())

    def _end(self, version_id: str) -> Told:
        del self.wanted[version_id]
        before = self._shares.get(version_id, {})
        self._set(version_id, {})
        return self._ended(version_id, set(before))

    def _ended(self, version_id: str, node_ids: set[str]) -> Told:
        provision = Provision(version_id=version_id)
        return [(node_id, provision) for node_id in sorted(node_ids)]

    def _set(self, version_id: str, shares: dict[str, int]) -> None:
        before = self._shares.pop(version_id, {})
        for node_id in before.keys() - shares.keys():
            of_node = self._of_node[node_id]
            of_node.discard(version_id)
            if not of_node:
                del self._of_node[node_id]
        for node_id in shares.keys() - before.keys():
            self._of_node.setdefault(node_id, set()).add(version_id)
        if shares:
            self._shares[version_id] = shares

    def check(self) -> None:
        """Shares add up to what is wanted, and both indexes agree."""
        assert len(self.wanted) <= PROVISIONS_MAX
        for version_id, shares in self._shares.items():
            assert sum(shares.values()) == self.wanted[version_id]
        pairs = {(node_id, name) for name, shares in self._shares.items() for node_id in shares}
        assert pairs == {(node, name) for node, names in self._of_node.items() for name in names}


def _rank(version_id: str, node_id: str) -> tuple[int, str]:
    """Where a node stands in a version's own order of nodes; the highest comes first. A checksum
    alone is linear, so that orders of versions would resemble each other: it is mixed.
    """
    mixed = (crc32(version_id.encode()) ^ (crc32(node_id.encode()) * 0x9E3779B1)) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    return mixed ^ (mixed >> 15), node_id


def _order(version_id: str, nodes: Iterable[str]) -> list[str]:
    return sorted(nodes, key=lambda node_id: _rank(version_id, node_id), reverse=True)
