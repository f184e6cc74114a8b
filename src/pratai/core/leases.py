"""The ledger of leases in a scheduler process: the scheduler opens them, the collector closes them.

A lease is a node's right to run one attempt until a time. Its attempt number is the fencing token:
closing with an older number does nothing, which is how late results are kept out.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from pratai.core.deadlines import Deadlines
from pratai.wire.messages import Invoke


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt on one node."""

    invoke: Invoke
    attempt: int
    node_id: str
    expires_at_ms: int
    placed_at_ms: int
    #: Opened again by a scheduler that found it in the journal.
    resumed: bool = False
    #: Of a resumed one: its node has said that it has the attempt.
    confirmed: bool = False


class Leases:
    """{request_id: Lease}, by node and by expiry."""

    def __init__(self) -> None:
        #: Open leases. At most one for each request id.
        self._leases: dict[str, Lease] = {}
        #: {node_id: request ids leased to it}. Agrees with `_leases`.
        self._by_node: dict[str, set[str]] = {}
        #: Nodes whose set is kept although it is empty.
        self._watched: set[str] = set()
        self._expiry = Deadlines()
        #: Leases of a former scheduler are still being read from the journal.
        self.recovering = False

    def __len__(self) -> int:
        return len(self._leases)

    def open(self, lease: Lease) -> bool:
        """Open a lease; the request must have none. True when its expiry is now the earliest."""
        request_id = lease.invoke.request_id
        assert request_id not in self._leases, f"{request_id} is leased already"
        self._leases[request_id] = lease
        self._by_node.setdefault(lease.node_id, set()).add(request_id)
        return self._expiry.add(request_id, lease.expires_at_ms)

    def get(self, request_id: str) -> Lease | None:
        """The open lease of a request, if any."""
        return self._leases.get(request_id)

    def close(self, request_id: str, attempt: int | None = None) -> Lease | None:
        """Close a lease and return it; None when there is none with this attempt number."""
        lease = self._leases.get(request_id)
        if lease is None or (attempt is not None and lease.attempt != attempt):
            return None
        del self._leases[request_id]
        of_node = self._by_node[lease.node_id]
        of_node.discard(request_id)
        if not of_node and lease.node_id not in self._watched:
            del self._by_node[lease.node_id]
        self._expiry.discard(request_id)
        return lease

    def confirm(self, request_id: str, expires_at_ms: int) -> None:
        """The node of a resumed lease has the attempt: the lease lasts until it would anyway."""
        lease = self._leases[request_id]
        self._leases[request_id] = replace(lease, expires_at_ms=expires_at_ms, confirmed=True)
        self._expiry.add(request_id, expires_at_ms)

    def expired(self, now_ms: int) -> list[Lease]:
        """Leases whose time is over. They stay open until closed."""
        return [self._leases[request_id] for request_id in self._expiry.due(now_ms)]

    def of_node(self, node_id: str) -> list[Lease]:
        """Every open lease of a node."""
        return [self._leases[request_id] for request_id in sorted(self._by_node.get(node_id, ()))]

    def watch(self, node_id: str) -> set[str]:
        """The request ids leased to a node: a set that changes with the leases, until `unwatch`.
        Only to be read.
        """
        self._watched.add(node_id)
        return self._by_node.setdefault(node_id, set())

    def unwatch(self, node_id: str) -> None:
        """Nobody reads the set of a node any more."""
        self._watched.discard(node_id)
        if not self._by_node.get(node_id, True):
            del self._by_node[node_id]

    def count_of(self, node_id: str) -> int:
        """How many leases a node has."""
        return len(self._by_node.get(node_id, ()))

    def next_expiry_ms(self) -> int | None:
        """When the next lease expires."""
        return self._expiry.next_ms()

    def check(self) -> None:
        """Both indexes agree with the leases."""
        indexed = {request_id for ids in self._by_node.values() for request_id in ids}
        assert indexed == set(self._leases)
        for node_id, request_ids in self._by_node.items():
            assert all(self._leases[request_id].node_id == node_id for request_id in request_ids)
        empty = {node_id for node_id, request_ids in self._by_node.items() if not request_ids}
        assert empty <= self._watched
        self._expiry.check()
