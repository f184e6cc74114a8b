"""Facts about the ledger of leases: one for each request, fenced by attempt, found by node."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import NOW, event

from pratai.core.leases import Lease, Leases


def lease(request_id: str, **changes: Any) -> Lease:
    values: dict[str, Any] = {
        "invoke": event(request_id),
        "attempt": 1,
        "node_id": "n1",
        "expires_at_ms": NOW + 100,
        "placed_at_ms": NOW,
    }
    return Lease(**(values | changes))


def ledger(*leases: Lease) -> Leases:
    made = Leases()
    for item in leases:
        made.open(item)
        made.check()
    return made


def test_a_request_has_one_lease_at_most() -> None:
    leases = ledger(lease("e1"))

    with pytest.raises(AssertionError, match="e1 is leased already"):
        leases.open(lease("e1", attempt=2))


def test_a_lease_is_closed_by_its_own_attempt_alone() -> None:
    leases = ledger(lease("e1", attempt=2))

    assert leases.close("e1", 1) is None
    assert leases.close("e1", 3) is None
    assert leases.close("e1", 2) == lease("e1", attempt=2)
    assert leases.close("e1", 2) is None
    leases.check()


def test_a_lease_is_closed_whatever_its_attempt_when_none_is_given() -> None:
    assert ledger(lease("e1", attempt=7)).close("e1") == lease("e1", attempt=7)


def test_leases_of_a_node_are_those_open_there() -> None:
    leases = ledger(lease("e2"), lease("e1"), lease("e3", node_id="n2"))
    leases.close("e2")

    assert leases.of_node("n1") == [lease("e1")]
    assert leases.of_node("n3") == []


def test_an_expired_lease_is_told_once_and_open_until_it_is_closed() -> None:
    leases = ledger(lease("e1"), lease("e2", expires_at_ms=NOW + 300))
    assert leases.next_expiry_ms() == NOW + 100

    assert leases.expired(NOW + 200) == [lease("e1")]
    assert leases.expired(NOW + 200) == []
    assert leases.get("e1") == lease("e1")
    assert leases.next_expiry_ms() == NOW + 300


def test_a_closed_lease_does_not_expire() -> None:
    leases = ledger(lease("e1"))
    leases.close("e1")

    assert (leases.expired(NOW + 1_000), len(leases)) == ([], 0)


def test_nothing_is_kept_of_nodes_without_leases() -> None:
    leases = ledger(*(lease(f"e{number}", node_id=f"n{number}") for number in range(20)))
    for number in range(20):
        leases.close(f"e{number}")

    assert leases._by_node == {}
