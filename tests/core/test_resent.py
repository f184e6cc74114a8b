"""Sync calls said again after a restart of the scheduler."""

from __future__ import annotations

from pratai.collector.membership import Member
from pratai.model.node import Capacity
from pratai.up.cluster.resent import Resent
from pratai.wire.messages import Cancel, Invoke


def call(request_id: str, *, resent: bool = True) -> Invoke:
    return Invoke(
        request_id=request_id,
        namespace="default",
        function="f",
        version_id="default/f/1",
        reply_to="gateway:g",
        deadline_ms=9_000,
        timeout_ms=1_000,
        accepted_at_ms=0,
        payload=b"{}",
        resent=resent,
    )


def member(*request_ids: str) -> Member:
    return Member(
        node_id="n",
        endpoint="memory",
        capacity=Capacity(slots=1),
        joined_at_ms=0,
        heard_at_ms=0,
        held=frozenset((request_id, 1) for request_id in request_ids),
    )


def test_a_call_waits_until_the_nodes_have_spoken() -> None:
    queued: list[Invoke] = []
    resent = Resent(queued.append, {})
    assert resent.takes(call("a"))
    assert queued == []
    resent.release()
    assert queued == [call("a", resent=False)]


def test_a_call_that_a_node_has_is_not_run_again() -> None:
    queued: list[Invoke] = []
    members: dict[str, Member] = {}
    resent = Resent(queued.append, members)
    resent.takes(call("a"))
    resent.takes(call("b"))
    members["n"] = member("a")
    resent.release()
    assert [invoke.request_id for invoke in queued] == ["b"]


def test_a_call_that_was_answered_meanwhile_is_dropped() -> None:
    queued: list[Invoke] = []
    resent = Resent(queued.append, {})
    resent.takes(call("a"))
    assert resent.takes(Cancel(request_id="a"))
    resent.release()
    assert queued == []


def test_a_call_said_again_late_is_decided_at_once() -> None:
    queued: list[Invoke] = []
    resent = Resent(queued.append, {"n": member("a")})
    resent.release()
    assert resent.takes(call("a"))
    assert resent.takes(call("b"))
    assert [invoke.request_id for invoke in queued] == ["b"]


def test_other_messages_are_left_to_the_scheduler() -> None:
    resent = Resent(lambda invoke: None, {})
    assert not resent.takes(call("a", resent=False))
    assert not resent.takes(Cancel(request_id="b"))
