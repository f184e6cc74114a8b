"""The contract of stores. One suite, `tests/contract/test_store.py`, runs over every one of them.

Made so that SQLite and a search engine can both keep it: single documents are atomic, there are no
joins and no transaction spans two calls. Everything is keyed by namespace. Durable calls return
only after the data is on disk; how many calls share one commit is the store's affair (what arrives
during a commit forms the next batch). Every method raises `StoreUnavailable` when the store cannot
be reached or written.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from pratai.model.invocation import Failure, Invocation, LogRecord, Mark, OutcomeKind, StartKind


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A small JSON document (function, version, trigger, key, member ...) with a revision."""

    kind: str
    namespace: str
    id: str
    body: bytes
    #: Rises with every change; given back to `put` and `delete` for compare-and-set.
    revision: int = 0


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """What `accept` did: a new invocation, or the one that has this idempotency key already."""

    request_id: str
    created: bool


class LeaseRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt began."""

    namespace: str
    request_id: str
    attempt: int
    node_id: str
    at_ms: int


class RetryRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt ended without success; another follows."""

    namespace: str
    request_id: str
    attempt: int
    available_at_ms: int
    failure: Failure | None
    marks: list[Mark]


class OutcomeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How a journalled invocation ended."""

    namespace: str
    request_id: str
    attempt: int
    outcome: OutcomeKind
    dead: bool
    failure: Failure | None = None
    result: bytes = b""
    result_content_type: str = ""
    start_kind: StartKind = ""
    cold_reason: str = ""
    node_id: str = ""
    instance_id: str = ""
    queue_us: int = 0
    start_us: int = 0
    run_us: int = 0
    finished_at_ms: int = 0
    marks: list[Mark] = []


class InvocationQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which invocations to list, newest first. "" and 0 mean "any"."""

    namespace: str
    function: str = ""
    outcome: str = ""
    state: str = ""
    dead: bool | None = None
    since_ms: int = 0
    until_ms: int = 0
    #: Full text over event, result and failure: every word must occur (prefix of a word counts).
    search: str = ""
    limit: int = 50
    #: `next_cursor` of the page before.
    cursor: str = ""


class LogQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which log records to list, oldest first."""

    namespace: str
    function: str = ""
    request_id: str = ""
    since_ms: int = 0
    #: Full text: every word must occur (prefix of a word counts).
    grep: str = ""
    #: Only records with a higher `sequence`.
    after: int = 0
    limit: int = 500
    #: The newest `limit` records instead of the oldest (still listed oldest first).
    tail: bool = False


class InvocationPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of invocations, `event` and `result` left out (None)."""

    items: list[Invocation]
    next_cursor: str = ""


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of what is kept; unfinished invocations and dead letters are never swept by size."""

    invocations_age_max_ms: int
    dead_age_max_ms: int
    logs_age_max_ms: int
    bytes_max: int


class Swept(msgspec.Struct, frozen=True, kw_only=True):
    """What a sweep removed."""

    invocations: int = 0
    logs: int = 0


class StoreStats(msgspec.Struct, frozen=True, kw_only=True):
    """Figures for metrics and `/readyz`."""

    healthy: bool
    bytes_used: int
    #: Writes waiting for the next commit.
    waiting: int
    #: Best-effort records given up because their buffer was full.
    dropped: int
    #: Commits so far and writes in them: their quotient is the mean batch.
    commits: int
    writes: int


class Store(Protocol):
    """Everything durable."""

    async def open(self) -> None:
        """Open and migrate to the current schema.

        Raises:
            PlatformError: in use by another process, or written by a newer version.

        """
        ...

    async def close(self) -> None:
        """Write what is buffered and let go."""
        ...

    # documents

    async def get(self, kind: str, namespace: str, id: str) -> Document | None:  # noqa: A002
        """One document, as last put (real time)."""
        ...

    async def put(self, document: Document) -> int:
        """Create (`revision` 0) or replace (the revision read). Durable. Returns the new revision.

        Raises:
            Conflict: it exists already, or has another revision by now.

        """
        ...

    async def delete(self, document: Document) -> bool:
        """Remove; False when it was not there. Raises `Conflict` like `put` (revision 0: any)."""
        ...

    async def documents(
        self,
        kind: str,
        namespace: str | None,
        *,
        prefix: str = "",
        after: str = "",
        limit: int = 100,
    ) -> list[Document]:
        """Documents of a kind in order of (namespace, id); ids start with `prefix` and are above
        `after`. `namespace` None lists every namespace; `after` is then `NAMESPACE/ID` of the last.
        """
        ...

    # journal

    async def accept(self, invocation: Invocation) -> Accepted:
        """Keep an accepted invocation. Durable on return: the moment of 202.

        Raises:
            Conflict: (code `idempotency_key_reused`) the key was used with another event.

        """
        ...

    def record_lease(self, record: LeaseRecord) -> None:
        """Note an attempt; written within tens of ms, dropped if its outcome comes first."""
        ...

    async def record_retry(self, record: RetryRecord) -> None:
        """Back to `queued`, not before `available_at_ms`. Durable. Ignored for older attempts."""
        ...

    async def record_outcome(self, record: OutcomeRecord) -> bool:
        """`done`. Durable. False, and nothing changed, when it was done already."""
        ...

    def wants_success(self) -> bool:
        """Whether the record of a further successful sync call would be kept; asked before it is
        made, since making it costs more than everything else. Samples when the buffer fills;
        what is not wanted is counted.
        """
        ...

    def record(self, invocation: Invocation) -> None:
        """Keep the record of a finished sync call, best effort: bounded, sampled when full,
        failures always kept.
        """
        ...

    async def event(self, namespace: str, request_id: str) -> bytes | None:
        """The event's bytes of an invocation."""
        ...

    async def pending(self, *, after: str = "", limit: int = 1000) -> list[Invocation]:
        """Unfinished invocations of all namespaces in order of request id, without events."""
        ...

    async def invocation(self, namespace: str, request_id: str) -> Invocation | None:
        """One invocation whole, as last written (real time)."""
        ...

    async def invocations(self, query: InvocationQuery) -> InvocationPage:
        """Search. May lag behind writes by a second."""
        ...

    async def purge(self, namespace: str, request_ids: list[str]) -> int:
        """Remove finished invocations; how many were."""
        ...

    # logs

    def append_logs(self, records: list[LogRecord]) -> None:
        """Keep log records, best effort within a bounded buffer."""
        ...

    async def logs(self, query: LogQuery) -> list[LogRecord]:
        """Log records. May lag behind writes by a second."""
        ...

    # upkeep

    async def flush(self) -> None:
        """Return once everything given before this call is written and searchable."""
        ...

    async def sweep(self, now_ms: int, retention: Retention) -> Swept:
        """Remove what is beyond the bounds, oldest first, in small steps."""
        ...

    async def verify(self) -> list[str]:
        """Check the store's integrity; problems found, one sentence each."""
        ...

    def stats(self) -> StoreStats:
        """Figures, at once."""
        ...
