"""Every message between processes, grouped by conversation, with who sends it to whom.

Rules of growth: new fields have defaults; a type never changes. `payload` fields hold the bytes
of an event or result: a network transport sends them as a frame of their own and never decodes
them; None means "kept in the journal, fetch it there".
"""

from __future__ import annotations

from typing import Literal

import msgspec

from pratai.model.invocation import Failure, LogRecord, OutcomeKind, StartKind
from pratai.model.node import Capacity

#: Version of this page. Processes of another one are refused when they join or announce.
PROTOCOL = 2


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What all messages share: a tag, so that one decoder serves a whole conversation."""


class Tick(Message, frozen=True, kw_only=True):
    """A service to its own core: time that a `Wake` asked for has come."""


# gateway -> scheduler


class Invoke(Message, frozen=True, kw_only=True):
    """Run this. Answered by `Result` to `reply_to` for a sync call; recorded for an async one."""

    request_id: str
    namespace: str
    function: str
    version_id: str
    #: Address of the gateway that waits for the result; "" when nobody does.
    reply_to: str
    #: When the caller (sync) or the event (async: its age limit) gives up.
    deadline_ms: int
    timeout_ms: int
    accepted_at_ms: int
    payload: bytes | None
    content_type: str = "application/json"
    #: In the journal: must end in a recorded outcome.
    journalled: bool = False
    attempts_max: int = 1
    backoff_ms: int = 1_000
    #: 0 = bounded by the nodes alone.
    concurrency_max: int = 0
    memory_mb: int = 256
    #: Attempts begun before (recovery); the next is one higher.
    attempt: int = 0
    #: Attempts that the platform lost; they do not count against `attempts_max`.
    recoveries: int = 0
    available_at_ms: int = 0
    trace: str = ""
    idempotency_key: str = ""
    trigger: str = "http"
    #: Said before, to a scheduler that has ended since: it may be on a node already.
    resent: bool = False


class Cancel(Message, frozen=True, kw_only=True):
    """The caller of a sync call has gone; free its place, wherever it is."""

    request_id: str


# scheduler -> gateway


#: What is full is said again at this interval, and believed for so long after it was said last: a
#: scheduler that ends, or whose word that there is room is lost, keeps nobody out for ever.
BACKLOG_REPEAT_MS = 5_000
BACKLOG_LASTS_MS = 3 * BACKLOG_REPEAT_MS


class Backlog(Message, frozen=True, kw_only=True):
    """A backlog of asynchronous events became full, or has room again: a function's, or with
    neither namespace nor function, that of all together. Repeated while it is full.
    """

    namespace: str
    function: str
    full: bool
    retry_after_s: int = 1


# scheduler -> node


class Dispatch(Message, frozen=True, kw_only=True):
    """Run this attempt. Answered by `Result` (to `reply_to`) and `Outcome` (to the collector)."""

    request_id: str
    attempt: int
    namespace: str
    function: str
    version_id: str
    reply_to: str
    #: The attempt is killed at this time.
    deadline_ms: int
    timeout_ms: int
    payload: bytes | None
    content_type: str = "application/json"
    journalled: bool = False
    memory_mb: int = 256
    trace: str = ""
    idempotency_key: str = ""
    trigger: str = "http"
    dispatched_at_ms: int = 0
    #: Whether there are other nodes to try should this one not be able to run it at all.
    movable: bool = False


class Withdraw(Message, frozen=True, kw_only=True):
    """Stop this attempt, running or not; nobody waits for it any more."""

    request_id: str
    attempt: int


class Provision(Message, frozen=True, kw_only=True):
    """Make a version ready ahead of its first call and keep `count` instances of it started.

    Gateways say it to the scheduler, of the whole platform; the scheduler to nodes, their share.
    """

    version_id: str
    count: int = 0


class Forget(Message, frozen=True, kw_only=True):
    """A version was deleted: stop its instances when idle and drop what was prepared.

    Gateways say it to the scheduler, which tells every node.
    """

    version_id: str


# node -> gateway


class Result(Message, frozen=True, kw_only=True):
    """How a sync call ended. Also sent by the scheduler for calls that never reached a node."""

    request_id: str
    outcome: OutcomeKind
    payload: bytes = b""
    content_type: str = "application/json"
    failure: Failure | None = None
    attempt: int = 0
    node_id: str = ""
    instance_id: str = ""
    start_kind: StartKind = ""
    cold_reason: str = ""
    #: Waiting for an instance to start, in the node.
    start_us: int = 0
    run_us: int = 0
    placed_at_ms: int = 0
    started_at_ms: int = 0
    retry_after_s: int = 0
    #: The payload was sent before, in `Chunk`s.
    streamed: bool = False


class Chunk(Message, frozen=True, kw_only=True):
    """A part of a streamed result, in order, before the `Result`."""

    request_id: str
    payload: bytes
    content_type: str = ""


# node -> collector


class Join(Message, frozen=True, kw_only=True):
    """A node offers itself. Answered by `Roster`. Grants `slots + prefetch` credits."""

    node_id: str
    #: Where its dispatches are sent, e.g. `tcp://10.0.0.7:5558`; `memory` within one process.
    endpoint: str
    capacity: Capacity
    #: Dispatches that it still has: (request_id, attempt).
    held: list[tuple[str, int]] = []
    protocol: int = PROTOCOL
    #: What its sandboxes lack, one sentence each.
    degraded: list[str] = []


class Heartbeat(Message, frozen=True, kw_only=True):
    """A node lives. `held`: (request_id, attempt) of every dispatch it still has.

    With `endpoint` and `capacity` it serves as a `Join` to a scheduler that does not know the node
    (any more).
    """

    node_id: str
    instances: int = 0
    held: list[tuple[str, int]] = []
    memory_used_mb: int = 0
    endpoint: str = ""
    capacity: Capacity | None = None
    protocol: int = PROTOCOL
    degraded: list[str] = []


class Leave(Message, frozen=True, kw_only=True):
    """A node goes; it takes no further dispatch."""

    node_id: str


class Outcome(Message, frozen=True, kw_only=True):
    """How an attempt ended. `payload` holds the result of a journalled invocation."""

    request_id: str
    attempt: int
    node_id: str
    outcome: OutcomeKind
    namespace: str = ""
    #: Said by the scheduler, of what ended in its queue and so has no lease to look them up in.
    function: str = ""
    version_id: str = ""
    payload: bytes = b""
    content_type: str = "application/json"
    failure: Failure | None = None
    instance_id: str = ""
    start_kind: StartKind = ""
    cold_reason: str = ""
    start_us: int = 0
    run_us: int = 0
    placed_at_ms: int = 0
    received_at_ms: int = 0
    started_at_ms: int = 0
    finished_at_ms: int = 0


class Logs(Message, frozen=True, kw_only=True):
    """Records that functions wrote, in order of arrival at the node."""

    node_id: str
    records: list[LogRecord]


# gateway, agent -> collector


class Announce(Message, frozen=True, kw_only=True):
    """A gateway or an agent lives; said every `[gateway] announce_ms`. Answered by `Roster`."""

    process_id: str
    kind: Literal["gateway", "agent"]
    #: Where its PULL socket is: results and backlogs are sent there.
    endpoint: str
    #: Where its HTTP API is reached by nodes and other gateways; "" = it has none.
    url: str = ""
    protocol: int = PROTOCOL


# scheduler -> gateways, agents, nodes


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """A gateway of the cluster, as the others need it."""

    process_id: str
    endpoint: str
    url: str = ""


class Roster(Message, frozen=True, kw_only=True):
    """Who is there; the answer to `Announce`, `Join` and `Heartbeat`. A new `scheduler_id` tells
    that the scheduler was started anew and has forgotten what it said before.
    """

    scheduler_id: str
    gateways: list[Peer]
    nodes: int
    #: Why the sender is not taken in, one sentence; "" = it is.
    refused: str = ""


# gateway -> gateways


class Changed(Message, frozen=True, kw_only=True):
    """A function or trigger was changed, or a key revoked, through another gateway: read it again.
    Answered by `ChangeSeen`.
    """

    change_id: str
    namespace: str = ""
    #: A function.
    name: str = ""
    #: A trigger, and the revision that its document has, or had when it was deleted.
    trigger: str = ""
    revision: int = 0
    #: Ids of keys that were revoked.
    revoked: list[str] = []
    reply_to: str = ""


class ChangeSeen(Message, frozen=True, kw_only=True):
    """A gateway has forgotten what it knew of what was changed."""

    change_id: str
    process_id: str


# recovery -> scheduler (same process)


class Resume(Message, frozen=True, kw_only=True):
    """An attempt was on a node when the scheduler before this one ended; it may still be there.
    Its lease is opened again until the node says whether it has it.
    """

    invoke: Invoke
    attempt: int
    node_id: str


# collector -> scheduler (same process)


class Freed(Message, frozen=True, kw_only=True):
    """A lease was closed: its node has a credit more, its function a place."""

    request_id: str
    node_id: str
    namespace: str
    function: str
    run_us: int = 0


class Unfit(Message, frozen=True, kw_only=True):
    """A node cannot run a version at all (its driver, its machine): try another one."""

    node_id: str
    invoke: Invoke
    attempt: int


class Joined(Message, frozen=True, kw_only=True):
    """A node was admitted or said again what it offers."""

    node_id: str
    endpoint: str
    capacity: Capacity


class NodeUsed(Message, frozen=True, kw_only=True):
    """What a node uses of its memory, with each of its heartbeats."""

    node_id: str
    memory_used_mb: int


class Peers(Message, frozen=True, kw_only=True):
    """Which gateways there are now."""

    gateways: list[Peer]


class Unreachable(Message, frozen=True, kw_only=True):
    """The connection to a node broke and cannot be made again: its process is gone."""

    node_id: str


class DrainNode(Message, frozen=True, kw_only=True):
    """An operator, through a gateway: give this node no further dispatch (`drain`), or give it work
    again. Remembered over joins and restarts.
    """

    node_id: str
    drain: bool


class Gone(Message, frozen=True, kw_only=True):
    """A node left or is lost; its leases were closed."""

    node_id: str
