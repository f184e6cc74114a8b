"""What the agent's core is told and what it asks for. Shapes only; nothing here leaves the process.

`Emission` is what the agent gives away: an event that a function is to run, with a key by which it
is accepted once however often it is offered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from pratai.core.effects import Effect
from pratai.model.trigger import Trigger, TriggerState
from pratai.wire.messages import Message


class Emission(msgspec.Struct, frozen=True, kw_only=True):
    """An event for a function."""

    namespace: str
    function: str
    #: Version or alias; "" = `$LATEST`.
    qualifier: str = ""
    event: bytes
    content_type: str = "application/json"
    #: What caused it: `timer:NAME`, `folder:NAME`, `destination`.
    trigger: str
    #: An emission whose key was accepted already is the same one.
    idempotency_key: str


#: Accepts an emission durably and returns its request id; raises `PrataiError` when it cannot.
Emit = Callable[[Emission], Awaitable[str]]


# service -> core


class TriggerSeen(Message, frozen=True, kw_only=True):
    """A trigger is new or was changed; what is known of its runs."""

    trigger: Trigger
    state: TriggerState


class TriggerGone(Message, frozen=True, kw_only=True):
    """A trigger was deleted."""

    key: str


class StateSeen(Message, frozen=True, kw_only=True):
    """What the store says of a trigger's runs: another agent may have been faster."""

    state: TriggerState
    #: It is why a `KeepState` was not done.
    refused: bool = False


class StateKept(Message, frozen=True, kw_only=True):
    """What `KeepState` asked for is durable."""

    state: TriggerState


class RunAccepted(Message, frozen=True, kw_only=True):
    """The run of `due_ms` is in the journal."""

    key: str
    due_ms: int
    request_id: str


class RunRefused(Message, frozen=True, kw_only=True):
    """The run of `due_ms` can never be accepted (no such function, ...): it failed."""

    key: str
    due_ms: int
    failure: str


class RunPostponed(Message, frozen=True, kw_only=True):
    """The run of `due_ms` was not accepted just now; it has to be offered again."""

    key: str
    due_ms: int
    failure: str
    retry_after_ms: int = 0


# core -> service


class Fire(Effect, frozen=True):
    """Offer a run; answered by `RunAccepted`, `RunRefused`, `RunPostponed`, or by a `StateSeen`
    that says the run is settled.
    """

    key: str
    trigger: Trigger
    due_ms: int


class KeepState(Effect, frozen=True):
    """Write this down unless the store's own moved on; answered by `StateKept` or `StateSeen`."""

    state: TriggerState


def key_of(item: Trigger | TriggerState) -> str:
    """The name of a trigger among those of all namespaces."""
    return f"{item.namespace}/{item.name}"
