"""The store that keeps nothing beyond its process: for tests, the simulator and trying things out.

The same contract as every other store (`store/base.py`), done at once and without a thread. What it
holds is bounded by `sweep` alone.
"""

from __future__ import annotations

import msgspec

from pratai.config import schema
from pratai.errors import Conflict, StoreUnavailable
from pratai.model.invocation import Invocation, LogRecord
from pratai.store import words
from pratai.store.base import (
    Accepted,
    Document,
    InvocationPage,
    InvocationQuery,
    LeaseRecord,
    LogQuery,
    OutcomeRecord,
    Retention,
    RetryRecord,
    StoreStats,
    Swept,
)

#: What a record is reckoned to cost beside its event, result or text.
RECORD_BYTES = 500

_Key = tuple[str, str]
_DEFAULTS = schema.Store(name="memory")


class MemoryStore:
    """Everything in dicts of this process."""

    def __init__(self, config: schema.Store = _DEFAULTS) -> None:
        self._config = config
        self._is_open = False
        #: {(kind, namespace, id): document}.
        self._documents: dict[tuple[str, str, str], Document] = {}
        self._revision = 0
        #: {(namespace, request id): invocation}, in order of arrival.
        self._invocations: dict[_Key, Invocation] = {}
        #: {(namespace, function, idempotency key): request id} of journalled invocations kept.
        self._keys: dict[tuple[str, str, str], str] = {}
        #: Keys of `_invocations` that are done, in the order in which they ended.
        self._finished: dict[_Key, None] = {}
        self._logs: dict[int, LogRecord] = {}
        self._sequence = 0
        self._bytes_used = 0
        self._writes = 0

    # life

    async def open(self) -> None:
        """Ready at once."""
        self._is_open = True

    async def close(self) -> None:
        """What was written stays until this object goes."""
        self._is_open = False

    # documents

    async def get(self, kind: str, namespace: str, id: str) -> Document | None:  # noqa: A002
        """One document, as last put."""
        self._check_open()
        return self._documents.get((kind, namespace, id))

    async def put(self, document: Document) -> int:
        """Create or replace; the new revision."""
        self._check_open()
        key = (document.kind, document.namespace, document.id)
        current = self._documents.get(key)
        if (current.revision if current else 0) != document.revision:
            raise _changed_meanwhile(document)
        self._revision += 1
        self._writes += 1
        self._documents[key] = msgspec.structs.replace(document, revision=self._revision)
        return self._revision

    async def delete(self, document: Document) -> bool:
        """Remove."""
        self._check_open()
        key = (document.kind, document.namespace, document.id)
        current = self._documents.get(key)
        if current is None:
            return False
        if document.revision not in (0, current.revision):
            raise _changed_meanwhile(document)
        self._writes += 1
        del self._documents[key]
        return True

    async def documents(
        self,
        kind: str,
        namespace: str | None,
        *,
        prefix: str = "",
        after: str = "",
        limit: int = 100,
    ) -> list[Document]:
        """Documents of a kind in order of (namespace, id)."""
        self._check_open()
        above = (namespace, after)
        if namespace is None:
            after_namespace, _, after_id = after.partition("/")
            above = (after_namespace, after_id)
        found = [
            document
            for document in self._documents.values()
            if document.kind == kind
            and namespace in (None, document.namespace)
            and document.id.startswith(prefix)
            and (document.namespace, document.id) > above
        ]
        found.sort(key=lambda document: (document.namespace, document.id))
        return found[: max(limit, 1)]

    # journal

    async def accept(self, invocation: Invocation) -> Accepted:
        """Keep an accepted invocation."""
        self._check_open()
        event = invocation.event or b""
        key = (invocation.namespace, invocation.function, invocation.idempotency_key)
        known = self._invocations.get((invocation.namespace, invocation.request_id))
        if known is None and invocation.idempotency_key and key in self._keys:
            before = self._invocations[invocation.namespace, self._keys[key]]
            if before.event != event:
                raise _key_reused(invocation, before.request_id)
            return Accepted(request_id=before.request_id, created=False)
        if known is not None:
            if known.event != event:
                raise Conflict(
                    f"Request id {invocation.request_id} was used with another event.",
                    next_step="Send the call again without choosing its request id.",
                )
            return Accepted(request_id=known.request_id, created=False)
        if invocation.idempotency_key:
            self._keys[key] = invocation.request_id
        self._keep(msgspec.structs.replace(invocation, state="queued", event=event))
        return Accepted(request_id=invocation.request_id, created=True)

    def record_lease(self, record: LeaseRecord) -> None:
        """Note an attempt."""
        self._check_open()
        known = self._invocations.get((record.namespace, record.request_id))
        if known is not None and known.state != "done" and known.attempt < record.attempt:
            self._keep(
                msgspec.structs.replace(
                    known, state="leased", attempt=record.attempt, node_id=record.node_id
                )
            )

    async def record_retry(self, record: RetryRecord) -> None:
        """Back to `queued`."""
        self._check_open()
        known = self._invocations.get((record.namespace, record.request_id))
        if known is not None and known.state != "done" and known.attempt <= record.attempt:
            self._keep(
                msgspec.structs.replace(
                    known,
                    state="queued",
                    attempt=record.attempt,
                    available_at_ms=record.available_at_ms,
                    failure=record.failure,
                    timeline=known.timeline + record.marks,
                )
            )

    async def record_outcome(self, record: OutcomeRecord) -> bool:
        """`done`, once."""
        self._check_open()
        known = self._invocations.get((record.namespace, record.request_id))
        if known is None or known.state == "done":
            return False
        self._keep(
            msgspec.structs.replace(
                known,
                state="done",
                attempt=max(known.attempt, record.attempt),
                outcome=record.outcome,
                dead=record.dead,
                failure=record.failure,
                result=record.result,
                result_content_type=record.result_content_type,
                start_kind=record.start_kind,
                cold_reason=record.cold_reason,
                node_id=record.node_id or known.node_id,
                instance_id=record.instance_id,
                queue_us=record.queue_us,
                start_us=record.start_us,
                run_us=record.run_us,
                finished_at_ms=record.finished_at_ms,
                timeline=known.timeline + record.marks,
            )
        )
        return True

    def wants_success(self) -> bool:
        """True unless successes are not recorded at all."""
        return self._config.record_sync == "all"

    def record(self, invocation: Invocation) -> None:
        """Keep the record of a finished sync call."""
        self._check_open()
        if invocation.outcome == "succeeded" and self._config.record_sync == "failures":
            return
        if (invocation.namespace, invocation.request_id) not in self._invocations:
            self._keep(
                msgspec.structs.replace(
                    invocation,
                    state="done",
                    event=invocation.event or b"",
                    result=invocation.result or b"",
                )
            )

    async def event(self, namespace: str, request_id: str) -> bytes | None:
        """The event's bytes."""
        self._check_open()
        known = self._invocations.get((namespace, request_id))
        return known.event if known else None

    async def pending(self, *, after: str = "", limit: int = 1000) -> list[Invocation]:
        """Unfinished invocations in order of request id."""
        self._check_open()
        found = [
            _without_payloads(invocation)
            for key, invocation in self._invocations.items()
            if key not in self._finished and invocation.request_id > after
        ]
        found.sort(key=lambda invocation: invocation.request_id)
        return found[: max(limit, 1)]

    async def invocation(self, namespace: str, request_id: str) -> Invocation | None:
        """One invocation whole."""
        self._check_open()
        return self._invocations.get((namespace, request_id))

    async def invocations(self, query: InvocationQuery) -> InvocationPage:
        """A page of invocations, newest first."""
        self._check_open()
        wanted = words.words(query.search)
        found = [
            invocation
            for invocation in self._invocations.values()
            if _matches(invocation, query) and (wanted is None or _has_words(invocation, wanted))
        ]
        found.sort(key=lambda invocation: invocation.request_id, reverse=True)
        items = [_without_payloads(invocation) for invocation in found[: max(query.limit, 1)]]
        more = len(found) > len(items)
        return InvocationPage(items=items, next_cursor=items[-1].request_id if more else "")

    async def purge(self, namespace: str, request_ids: list[str]) -> int:
        """Remove finished invocations."""
        self._check_open()
        keys = [(namespace, request_id) for request_id in dict.fromkeys(request_ids)]
        return self._remove([key for key in keys if key in self._finished])

    # logs

    def append_logs(self, records: list[LogRecord]) -> None:
        """Keep log records."""
        self._check_open()
        for record in records:
            self._sequence += 1
            self._logs[self._sequence] = msgspec.structs.replace(record, sequence=self._sequence)
            self._bytes_used += _log_bytes(record)
        self._writes += len(records)

    async def logs(self, query: LogQuery) -> list[LogRecord]:
        """Log records, oldest first."""
        self._check_open()
        wanted = words.words(query.grep)
        found = [
            record
            for record in self._logs.values()
            if record.namespace == query.namespace
            and query.function in ("", record.function)
            and query.request_id in ("", record.request_id)
            and record.at_ms >= query.since_ms
            and record.sequence > query.after
            and (wanted is None or _occur(wanted, words.tokens(record.text)))
        ]
        limit = max(query.limit, 1)
        return found[-limit:] if query.tail else found[:limit]

    # upkeep

    async def flush(self) -> None:
        """Everything is written and searchable at once."""
        self._check_open()

    async def sweep(self, now_ms: int, retention: Retention) -> Swept:
        """Remove what is beyond the bounds."""
        self._check_open()
        invocations = self._remove(
            [
                key
                for key in self._finished
                if self._invocations[key].finished_at_ms
                < now_ms
                - (
                    retention.dead_age_max_ms
                    if self._invocations[key].dead
                    else retention.invocations_age_max_ms
                )
            ]
        )
        logs = 0
        for sequence, record in list(self._logs.items()):
            if record.at_ms < now_ms - retention.logs_age_max_ms:
                self._remove_log(sequence)
                logs += 1
        by_size = self._sweep_by_size(retention.bytes_max)
        return Swept(invocations=invocations + by_size.invocations, logs=logs + by_size.logs)

    async def verify(self) -> list[str]:
        """Check that the indexes agree with the invocations."""
        self._check_open()
        done = {key for key, known in self._invocations.items() if known.state == "done"}
        found = []
        if done != set(self._finished):
            found.append("The list of finished invocations differs from their states.")
        if any((key[0], id_) not in self._invocations for key, id_ in self._keys.items()):
            found.append("An idempotency key belongs to no invocation.")
        return found

    def stats(self) -> StoreStats:
        """Figures, at once."""
        return StoreStats(
            healthy=self._is_open,
            bytes_used=self._bytes_used,
            waiting=0,
            dropped=0,
            commits=self._writes,
            writes=self._writes,
        )

    def _check_open(self) -> None:
        if not self._is_open:
            raise StoreUnavailable(
                "The store is closed.", next_step="Start the platform again.", retry_after_s=1
            )

    def _keep(self, invocation: Invocation) -> None:
        key = (invocation.namespace, invocation.request_id)
        before = self._invocations.get(key)
        self._bytes_used += _bytes(invocation) - (_bytes(before) if before else 0)
        self._invocations[key] = invocation
        if invocation.state == "done":
            self._finished[key] = None
        self._writes += 1

    def _remove(self, keys: list[_Key]) -> int:
        for key in keys:
            del self._finished[key]
            invocation = self._invocations.pop(key)
            self._bytes_used -= _bytes(invocation)
            by = (invocation.namespace, invocation.function, invocation.idempotency_key)
            if self._keys.get(by) == invocation.request_id:
                del self._keys[by]
        return len(keys)

    def _remove_log(self, sequence: int) -> None:
        self._bytes_used -= _log_bytes(self._logs.pop(sequence))

    def _sweep_by_size(self, bytes_max: int) -> Swept:
        """Remove the older of the oldest finished invocation and log record until it fits."""
        keys = [key for key in self._finished if not self._invocations[key].dead]
        sequences = list(self._logs)
        at = logs = 0
        while self._bytes_used > bytes_max and (at < len(keys) or logs < len(sequences)):
            ended = self._invocations[keys[at]].finished_at_ms if at < len(keys) else None
            written = self._logs[sequences[logs]].at_ms if logs < len(sequences) else None
            if ended is not None and (written is None or ended <= written):
                self._remove([keys[at]])
                at += 1
            else:
                self._remove_log(sequences[logs])
                logs += 1
        return Swept(invocations=at, logs=logs)


def _matches(invocation: Invocation, query: InvocationQuery) -> bool:
    return (
        invocation.namespace == query.namespace
        and query.function in ("", invocation.function)
        and query.outcome in ("", invocation.outcome)
        and query.state in ("", invocation.state)
        and query.dead in (None, invocation.dead)
        and invocation.accepted_at_ms >= query.since_ms
        and (not query.until_ms or invocation.accepted_at_ms <= query.until_ms)
        and (not query.cursor or invocation.request_id < query.cursor)
    )


def _has_words(invocation: Invocation, wanted: list[str]) -> bool:
    texts = [words.plain(invocation.event or b""), words.plain(invocation.result or b"")]
    failure = invocation.failure
    if failure is not None:
        texts += [failure.code, failure.error_type, failure.error_message]
    return _occur(wanted, [token for text in texts for token in words.tokens(text)])


def _occur(wanted: list[str], haystack: list[str]) -> bool:
    return bool(wanted) and all(words.occurs(word, haystack) for word in wanted)


def _without_payloads(invocation: Invocation) -> Invocation:
    return msgspec.structs.replace(invocation, event=None, result=None)


def _bytes(invocation: Invocation) -> int:
    return RECORD_BYTES + len(invocation.event or b"") + len(invocation.result or b"")


def _log_bytes(record: LogRecord) -> int:
    return RECORD_BYTES + len(record.text)


def _changed_meanwhile(document: Document) -> Conflict:
    return Conflict(
        f"{document.kind} {document.namespace}/{document.id} was changed by somebody else first.",
        next_step="Read it again and repeat.",
    )


def _key_reused(invocation: Invocation, request_id: str) -> Conflict:
    return Conflict(
        f"This idempotency key was used with another event, by request {request_id}.",
        next_step="Use a new key for a new event, or send the same event again.",
        code="idempotency_key_reused",
        field="Idempotency-Key",
        value=invocation.idempotency_key,
    )
