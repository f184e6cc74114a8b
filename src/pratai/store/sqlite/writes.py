"""What each kind of write does inside the writer's transaction. Blocking; the writer's thread only.

One method a kind; each takes all items of its kind of one batch and answers one result for each.
A result that is an exception goes to that item's caller alone and undoes nothing.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from pratai.errors import Conflict
from pratai.model.invocation import Invocation, LogRecord
from pratai.store.base import Accepted, Document, LeaseRecord, OutcomeRecord, RetryRecord
from pratai.store.sqlite import rows
from pratai.store.sqlite.positions import Positions
from pratai.store.sqlite.statements import ROWS_MAX, Bulk, Row

#: Kinds of writes in the order in which they are applied within a batch. A retry comes before a
#: lease because the lease of the next attempt is the later of the two.
ACCEPT, RETRY, LEASE, FINISH, PUT_OR_DELETE, RECORD, LOG = range(7)
KINDS = 7

_Key = tuple[str, str, str]


class Writes:
    """Applies items to the writer's connection."""

    def __init__(
        self, connection: sqlite3.Connection, sql: dict[str, str], positions: Positions
    ) -> None:
        self._connection = connection
        self._sql = sql
        self._positions = positions
        names = (
            "find_idempotency_keys",
            "accept",
            "keep_event",
            "record",
            "lease",
            "finish",
            "append_log",
        )
        self._bulk = {name: Bulk(sql[name]) for name in names}
        self._methods: tuple[Callable[[Sequence[Any]], Sequence[Any]], ...] = (
            self._accept,
            self._retry,
            self._lease,
            self._finish,
            self._documents,
            self._record,
            self._append_logs,
        )

    def apply(self, kind: int, items: Sequence[Any]) -> Sequence[Any]:
        """Do all `items` of a kind; a result for each. Raises when any of them is bad.

        A few at a time, so that the interpreter's lock is never held for long.
        """
        method = self._methods[kind]
        results: list[Any] = []
        for at in range(0, len(items), ROWS_MAX):
            results += method(items[at : at + ROWS_MAX])
        return results

    def apply_one(self, kind: int, item: Any) -> Any:
        """Do one item on the slow path, where a request id may turn out to exist already."""
        if kind == ACCEPT:
            known = self._accepted_before(item)
            if known is not None:
                return known
        return self._methods[kind]([item])[0]

    def _run(self, name: str, items: Sequence[Row]) -> list[Row]:
        return self._bulk[name].run(self._connection, items)

    def _change(self, name: str, items: Sequence[Row]) -> int:
        return self._bulk[name].change(self._connection, items)

    # journal

    def _accept(self, items: Sequence[Invocation]) -> list[Accepted | Conflict]:
        used = self._used_keys(items)
        results: list[Accepted | Conflict] = []
        invocations: list[Row] = []
        events: list[Row] = []
        for invocation in items:
            digest = None
            if invocation.idempotency_key:
                digest = rows.digest_of(invocation.event)
                key = (invocation.namespace, invocation.function, invocation.idempotency_key)
                before = used.setdefault(key, (invocation.request_id, digest))
                if before[0] != invocation.request_id or before[1] != digest:
                    results.append(_same_key(invocation, before, digest))
                    continue
            id_ = self._positions.next("events")
            invocations.append(rows.accept_row(invocation, id_, digest))
            events.append((id_, invocation.event or b""))
            results.append(Accepted(request_id=invocation.request_id, created=True))
        self._run("accept", invocations)
        self._run("keep_event", events)
        return results

    def _used_keys(self, items: Sequence[Invocation]) -> dict[_Key, tuple[str, bytes]]:
        keys = {(i.namespace, i.function, i.idempotency_key) for i in items if i.idempotency_key}
        found = self._run("find_idempotency_keys", list(keys)) if keys else []
        return {(row[0], row[1], row[2]): (row[3], row[4]) for row in found}

    def _accepted_before(self, invocation: Invocation) -> Accepted | Conflict | None:
        found = self._connection.execute(
            self._sql["find_event"],
            {"namespace": invocation.namespace, "request_id": invocation.request_id},
        ).fetchone()
        if found is None:
            return None
        if found[0] == (invocation.event or b""):
            return Accepted(request_id=invocation.request_id, created=False)
        return Conflict(
            f"Request id {invocation.request_id} was used with another event.",
            next_step="Send the call again without choosing its request id.",
        )

    def _retry(self, items: Sequence[RetryRecord]) -> list[None]:
        for record in items:
            self._connection.execute(
                self._sql["retry"],
                {
                    "namespace": record.namespace,
                    "request_id": record.request_id,
                    "attempt": record.attempt,
                    "available_at_ms": record.available_at_ms,
                    "failure": rows.failure_text(record.failure),
                    "timeline": rows.timeline_of(record.marks),
                },
            )
        return [None] * len(items)

    def _lease(self, items: Sequence[LeaseRecord]) -> list[None]:
        newest = {(item.namespace, item.request_id): item for item in items}
        self._run(
            "lease",
            [(i.namespace, i.request_id, i.attempt, i.node_id) for i in newest.values()],
        )
        return [None] * len(items)

    def _finish(self, items: Sequence[OutcomeRecord]) -> list[bool]:
        first: dict[tuple[str, str], Row] = {}
        orders: list[int] = []
        is_first: list[bool] = []
        for record in items:
            key = (record.namespace, record.request_id)
            is_first.append(key not in first)
            if key not in first:
                orders.append(self._positions.next("outcomes"))
                first[key] = rows.finish_row(record, orders[-1])
        if self._change("finish", list(first.values())) == len(first):
            return is_first
        changed = set(
            self._connection.execute(self._sql["finished_now"], {"orders": json.dumps(orders)})
        )
        return [
            counts and (record.namespace, record.request_id) in changed
            for counts, record in zip(is_first, items, strict=True)
        ]

    def _record(self, items: Sequence[Invocation]) -> list[None]:
        newest = {(item.namespace, item.request_id): item for item in items}
        events: dict[int, bytes] = {}
        invocations: list[Row] = []
        for invocation in newest.values():
            id_ = self._positions.next("events")
            events[id_] = invocation.event or b""
            order = self._positions.next("outcomes")
            invocations.append(rows.record_row(invocation, id_, order))
        if self._change("record", invocations) < len(invocations):
            kept = self._connection.execute(
                self._sql["recorded"], {"ids": json.dumps(list(events))}
            ).fetchall()
            events = {id_: events[id_] for (id_,) in kept}
        self._run("keep_event", list(events.items()))
        return [None] * len(items)

    # documents and logs

    def _documents(self, items: Sequence[tuple[str, Document]]) -> list[int | bool | Conflict]:
        return [
            self._put(document) if verb == "put" else self._delete(document)
            for verb, document in items
        ]

    def _put(self, document: Document) -> int | Conflict:
        revision = self._revision_of(document)
        if revision != document.revision:
            return changed_meanwhile(document, revision)
        new = self._positions.next_revision()
        self._connection.execute(
            self._sql["put_document"],
            {
                "namespace": document.namespace,
                "kind": document.kind,
                "id": document.id,
                "revision": new,
                "body": document.body,
            },
        )
        return new

    def _delete(self, document: Document) -> bool | Conflict:
        revision = self._revision_of(document)
        if revision == 0:
            return False
        if document.revision not in (0, revision):
            return changed_meanwhile(document, revision)
        self._connection.execute(
            self._sql["delete_document"],
            {"namespace": document.namespace, "kind": document.kind, "id": document.id},
        )
        self._connection.execute(
            self._sql["raise_watermark"],
            {"name": "revision", "position": self._positions.revision},
        )
        return True

    def _revision_of(self, document: Document) -> int:
        row = self._connection.execute(
            self._sql["document"],
            {"namespace": document.namespace, "kind": document.kind, "id": document.id},
        ).fetchone()
        return row[4] if row else 0

    def _append_logs(self, items: Sequence[LogRecord]) -> list[None]:
        self._run(
            "append_log", [rows.log_row(item, self._positions.next("logs")) for item in items]
        )
        return [None] * len(items)


def changed_meanwhile(document: Document, revision: int) -> Conflict:
    """What `put` and `delete` raise for a revision that is not the current one."""
    name = f"{document.kind} {document.namespace}/{document.id}"
    if document.revision == 0:
        return Conflict(
            f"{name} exists already.", next_step="Read it and change the one that exists."
        )
    if revision == 0:
        return Conflict(f"{name} was removed meanwhile.", next_step="Read it again and repeat.")
    return Conflict(f"{name} was changed meanwhile.", next_step="Read it again and repeat.")


def _same_key(
    invocation: Invocation, before: tuple[str, bytes], digest: bytes
) -> Accepted | Conflict:
    if before[1] == digest:
        return Accepted(request_id=before[0], created=False)
    return Conflict(
        f"This idempotency key was used with another event, by request {before[0]}.",
        next_step="Use a new key for a new event, or send the same event again.",
        code="idempotency_key_reused",
        field="Idempotency-Key",
        value=invocation.idempotency_key,
    )
