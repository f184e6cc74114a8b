"""What tests say things with: messages with sensible defaults, cores that are checked at every step.

`Checked(core)` runs the core's `check()` after each message, so every test of a core also tests
its invariants. Nothing here decides or asserts anything about behaviour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from pratai.config import schema
from pratai.core.effects import Effect, Run, Send, Start, Wake
from pratai.core.leases import Leases
from pratai.core.machine import Machine
from pratai.model.invocation import Failure
from pratai.model.node import Capacity
from pratai.wire.messages import Dispatch, Freed, Invoke, Joined, Message, Outcome

C = TypeVar("C", bound=Machine)
E = TypeVar("E", bound=Effect)
M = TypeVar("M", bound=Message)

NOW = 1_000_000
TIMEOUT_MS = 10_000
GATEWAY = "gateway:g1"

FUNCTION_FAULT = Failure(code="function_error", fault="function", error_type="ValueError")
PLATFORM_FAULT = Failure(code="returned", fault="platform")


class Checked(Generic[C]):
    """A core whose invariants are asserted after every step."""

    def __init__(self, core: C) -> None:
        self.core = core

    def handle(self, message: Message, now_ms: int = NOW) -> list[Effect]:
        effects = self.core.handle(message, now_ms)
        self.core.check()
        return effects

    def __getattr__(self, name: str) -> Any:
        return getattr(self.core, name)


def invoke(request_id: str, function: str = "f", **changes: Any) -> Invoke:
    """A synchronous call."""
    values: dict[str, Any] = {
        "request_id": request_id,
        "namespace": "default",
        "function": function,
        "version_id": f"default/{function}/1",
        "reply_to": GATEWAY,
        "deadline_ms": NOW + TIMEOUT_MS,
        "timeout_ms": TIMEOUT_MS,
        "accepted_at_ms": NOW,
        "payload": b"{}",
    }
    return Invoke(**(values | changes))


def event(request_id: str, function: str = "f", **changes: Any) -> Invoke:
    """An asynchronous invocation: in the journal, nobody waits."""
    values: dict[str, Any] = {
        "reply_to": "",
        "journalled": True,
        "deadline_ms": NOW + 3_600_000,
        "attempts_max": 3,
    }
    return invoke(request_id, function, **(values | changes))


def dispatch(request_id: str, function: str = "f", **changes: Any) -> Dispatch:
    """An attempt of a synchronous call, as a node gets it."""
    values: dict[str, Any] = {
        "request_id": request_id,
        "attempt": 1,
        "namespace": "default",
        "function": function,
        "version_id": f"default/{function}/1",
        "reply_to": GATEWAY,
        "deadline_ms": NOW + TIMEOUT_MS,
        "timeout_ms": TIMEOUT_MS,
        "payload": b"{}",
    }
    return Dispatch(**(values | changes))


def event_dispatch(request_id: str, function: str = "f", **changes: Any) -> Dispatch:
    """An attempt of an asynchronous event, as a node gets it."""
    return dispatch(request_id, function, **({"reply_to": "", "journalled": True} | changes))


def outcome(request_id: str, attempt: int = 1, **changes: Any) -> Outcome:
    """How an attempt on node n1 ended: well, unless `changes` say otherwise."""
    values: dict[str, Any] = {
        "request_id": request_id,
        "attempt": attempt,
        "node_id": "n1",
        "outcome": "succeeded",
        "namespace": "default",
    }
    return Outcome(**(values | changes))


def joined(node_id: str = "n1", slots: int = 1, prefetch: int = 0) -> Joined:
    """A node with room for `slots` + `prefetch` dispatches."""
    return Joined(
        node_id=node_id,
        endpoint="memory",
        capacity=Capacity(slots=slots, prefetch=prefetch),
    )


def freed(
    leases: Leases, request_id: str, *, run_us: int = 0, function: str = "f", node_id: str = "n1"
) -> Freed:
    """The collector's word that a lease is over; closes it in the ledger as the collector does."""
    assert leases.close(request_id) is not None
    return Freed(
        request_id=request_id,
        node_id=node_id,
        namespace="default",
        function=function,
        run_us=run_us,
    )


def settings(**changes: Any) -> schema.Scheduler:
    return schema.Scheduler(**changes)


# reading effects


def of_kind(effects: Iterable[Effect], kind: type[E]) -> list[E]:
    """The effects of one kind."""
    return [effect for effect in effects if type(effect) is kind]


def sent(effects: Iterable[Effect], kind: type[M], to: str | None = None) -> list[M]:
    """The messages of one kind that are sent (to one address)."""
    return [
        effect.message
        for effect in of_kind(effects, Send)
        if type(effect.message) is kind and to in (None, effect.to)
    ]


def placed(effects: Iterable[Effect]) -> list[tuple[str, str]]:
    """(request id, node id) of what is dispatched."""
    return [
        (effect.message.request_id, effect.to.removeprefix("node:"))
        for effect in of_kind(effects, Send)
        if type(effect.message) is Dispatch
    ]


def dispatched(effects: Iterable[Effect]) -> list[str]:
    """Request ids of what is dispatched."""
    return [request_id for request_id, _ in placed(effects)]


def runs(effects: Iterable[Effect]) -> list[tuple[str, str]]:
    """(instance id, request id) of the events given to instances."""
    return [(run.instance_id, run.dispatch.request_id) for run in of_kind(effects, Run)]


def starts(effects: Iterable[Effect]) -> list[str]:
    """Ids of the instances that are started."""
    return [start.instance_id for start in of_kind(effects, Start)]


def wakes(effects: Iterable[Effect]) -> list[int]:
    """Times at which a tick is asked for."""
    return [wake.at_ms for wake in of_kind(effects, Wake)]


def ended(effects: Iterable[Effect]) -> list[tuple[str, str]]:
    """(request id, outcome) of what a node tells the collector."""
    return [(message.request_id, message.outcome) for message in sent(effects, Outcome)]


Handle = Callable[[Message, int], list[Effect]]
