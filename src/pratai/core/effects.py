"""What a core asks its service to do. A core returns these; it never does them.

Effects are data, so that tests compare them and the simulator runs them against its own world.
"""

from __future__ import annotations

import msgspec

from pratai.model.invocation import Invocation, LogRecord
from pratai.model.node import NodeRecord, ProcessRecord
from pratai.wire.messages import Dispatch, Message, Result


class Effect(msgspec.Struct, frozen=True):
    """What all effects share."""


class Send(Effect, frozen=True):
    """Give `message` to the process at `to` (`scheduler`, `collector`, `node:ID`, `gateway:ID`)."""

    to: str
    message: Message


class Wake(Effect, frozen=True):
    """Hand the core a `Tick` at this time or soon after. Earlier wishes stay in force."""

    at_ms: int


class Disconnect(Effect, frozen=True):
    """Nothing more will be sent to this address: close what leads there, drop what waits for it."""

    address: str


class Count(Effect, frozen=True):
    """Add to a counter of `metrics.py` by its name."""

    name: str
    by: int = 1


# gateway


class Answer(Effect, frozen=True):
    """Give the waiting caller its result."""

    result: Result


class StreamChunk(Effect, frozen=True):
    """Give the waiting caller the next part of its result."""

    request_id: str
    payload: bytes
    content_type: str


# scheduler and collector


class RecordLease(Effect, frozen=True):
    """Write down that an attempt of a journalled invocation has begun. May be coalesced."""

    request_id: str
    namespace: str
    attempt: int
    node_id: str
    at_ms: int


class RecordRetry(Effect, frozen=True):
    """Write down that an attempt failed and another will follow at `available_at_ms`."""

    outcome: Message
    namespace: str
    available_at_ms: int


class RecordOutcome(Effect, frozen=True):
    """Write down how a journalled invocation ended. Exactly one is emitted for each."""

    outcome: Message
    namespace: str
    dead: bool
    queue_us: int = 0
    function: str = ""


class RecordLogs(Effect, frozen=True):
    """Keep what functions wrote."""

    records: list[LogRecord]


class Deliver(Effect, frozen=True):
    """Hand a journalled invocation's outcome to its function's destinations."""

    outcome: Message
    namespace: str
    function: str
    version_id: str


class RecordMember(Effect, frozen=True):
    """Write down who is in the cluster, or (`forgotten`) remove what was written. The newest of a
    member counts; older ones need not be written.
    """

    record: NodeRecord | ProcessRecord
    forgotten: bool = False


class RecordInvocation(Effect, frozen=True):
    """Keep the record of a sync call, when there is room; never waited for."""

    invocation: Invocation


# node


class Prepare(Effect, frozen=True):
    """Make a version startable: fetch package and layer, unpack, warm its zygote."""

    version_id: str


class Start(Effect, frozen=True):
    """Start an instance; answered by `InstanceReady`, `InstanceFailed` or `InstanceExited`."""

    instance_id: str
    version_id: str


class Run(Effect, frozen=True):
    """Give an instance its next event."""

    instance_id: str
    dispatch: Dispatch


class Stop(Effect, frozen=True):
    """End an instance and all it started. `grace_ms` 0 kills at once."""

    instance_id: str
    reason: str
    grace_ms: int = 0


class Drop(Effect, frozen=True):
    """Forget what was prepared for a version."""

    version_id: str


class Recall(Effect, frozen=True):
    """Ask an instance for the events it has not begun; answered by `Returned`."""

    instance_id: str
