"""An invocation: one accepted request to run a function, from acceptance to its outcome.

States move `queued -> leased -> done`, or `leased -> queued` when an attempt is to be repeated;
`MOVES` is the whole table.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Mode = Literal["sync", "async"]
State = Literal["queued", "leased", "done"]
OutcomeKind = Literal["succeeded", "failed", "timed_out", "crashed", "throttled", "discarded"]
StartKind = Literal["", "cold", "warm", "provisioned"]
FaultKind = Literal["", "caller", "function", "platform"]

MOVES: frozenset[tuple[State, State]] = frozenset(
    {("queued", "leased"), ("leased", "queued"), ("leased", "done"), ("queued", "done")}
)


class Failure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why an attempt did not succeed, in words for its owner.

    `code` is stable (`docs/reference/errors.md`); `fault` says whose it is. `error_type`,
    `error_message` and `stack` are the function's own; `stack` has the user's files only.
    """

    code: str
    fault: FaultKind
    error_type: str = ""
    error_message: str = ""
    stack: list[str] = []
    #: Of a passed deadline: where it was late (queue, start, run).
    stage: str = ""
    #: What to do about it, one sentence.
    next: str = ""


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """A point on an invocation's timeline."""

    #: accepted, queued, placed, started, ran, answered, retried, recovered, ...
    name: str
    at_ms: int
    attempt: int = 0
    detail: str = ""


class Invocation(msgspec.Struct, frozen=True, kw_only=True):
    """The record of one invocation, as the store keeps it."""

    namespace: str
    request_id: str
    function: str
    #: Version number as text, as it was resolved at acceptance.
    version: str
    qualifier: str = ""
    mode: Mode = "sync"
    #: http, api, replay, destination, timer ...
    trigger: str = "http"
    content_type: str = "application/json"
    #: The event's bytes; None when a listing left them out.
    event: bytes | None = b""
    idempotency_key: str = ""
    #: W3C `traceparent`, passed on as it came.
    trace: str = ""
    accepted_at_ms: int = 0
    timeout_ms: int = 30_000
    #: Attempts in all, the first included.
    attempts_max: int = 1
    backoff_ms: int = 1_000
    #: When an event that has not run is given up.
    expires_at_ms: int = 0
    concurrency_max: int = 0
    memory_mb: int = 256
    #: Request id of the invocation that this one replays; "" for none.
    replay_of: str = ""

    state: State = "queued"
    #: Attempts begun so far; also the fencing token of the current one.
    attempt: int = 0
    #: Not before this time (a retry waits).
    available_at_ms: int = 0
    outcome: OutcomeKind | Literal[""] = ""
    failure: Failure | None = None
    result: bytes | None = b""
    result_content_type: str = ""
    timeline: list[Mark] = []
    start_kind: StartKind = ""
    cold_reason: str = ""
    node_id: str = ""
    instance_id: str = ""
    queue_us: int = 0
    start_us: int = 0
    run_us: int = 0
    finished_at_ms: int = 0
    #: An asynchronous event that ended without success and waits for its owner.
    dead: bool = False

    @property
    def version_id(self) -> str:
        """The version that runs it, as `Version.version_id`."""
        return f"{self.namespace}/{self.function}/{self.version}"


class LogRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One record a function wrote while it ran (print, logging, a traceback)."""

    namespace: str
    function: str
    version: str
    request_id: str
    instance_id: str
    at_ms: int
    #: DEBUG, INFO, WARNING, ERROR, CRITICAL; STDOUT and STDERR for what was not logged.
    level: str
    #: Text as written, possibly of several lines; never empty.
    text: str
    #: Position in the store, set by it; grows within a namespace.
    sequence: int = 0
