"""Reading: a few threads with a read-only connection each, and the queries they make.

A read sees everything committed before it began and holds up neither the event loop nor the writer.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pratai.errors import StoreUnavailable
from pratai.model.invocation import Invocation, LogRecord
from pratai.store import words
from pratai.store.base import Document, InvocationPage, InvocationQuery, LogQuery
from pratai.store.sqlite import connection as connections
from pratai.store.sqlite import rows
from pratai.store.sqlite.statements import Row
from pratai.store.sqlite.turns import Turns

READERS = 3
#: Reads that may wait for a reader; more are refused.
WAITING_MAX = 1_000
#: Invocations or log records of one answer, whatever was asked for.
LIMIT_MAX = 10_000
#: How far apart the clocks of gateways and nodes may be for `since_ms` to find everything.
CLOCKS_APART_MS = 3_600_000

T = TypeVar("T")
Read = Callable[[sqlite3.Connection, "dict[str, str]"], T]


class Readers:
    """A bounded pool of reading threads."""

    def __init__(self, path: str, sql: dict[str, str], turns: Turns) -> None:
        self._path = path
        self._sql = sql
        self._turns = turns
        #: Reads given and not answered. Changed on the loop alone.
        self.waiting = 0
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")

    async def read(self, read: Read[T]) -> T:
        """Run a read in one of the threads."""
        if self.waiting >= WAITING_MAX:
            raise StoreUnavailable(
                f"{self.waiting} reads wait for the store already.",
                next_step="Ask again in a second.",
                retry_after_s=1,
            )
        self.waiting += 1
        self._turns.watch()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._run, read)
        finally:
            self.waiting -= 1

    def close(self) -> None:
        """End the threads after the reads they were given. Blocking."""
        self._pool.shutdown(wait=True)
        for connection in self._connections:
            connection.close()

    def _run(self, read: Read[T]) -> T:
        try:
            connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
            if connection is None:
                connection = connections.connect_reader(self._path, self._sql)
                self._local.connection = connection
                self._connections.append(connection)
            return read(connection, self._sql)
        except (sqlite3.Error, UnicodeError, OverflowError) as error:
            raise connections.translate(error, self._path) from error


def document(kind: str, namespace: str, id_: str) -> Read[Document | None]:
    """One document."""

    def read(connection: sqlite3.Connection, sql: dict[str, str]) -> Document | None:
        row = connection.execute(
            sql["document"], {"namespace": namespace, "kind": kind, "id": id_}
        ).fetchone()
        return _document_of(row) if row else None

    return read


def documents(
    kind: str, namespace: str | None, *, prefix: str, after: str, limit: int
) -> Read[list[Document]]:
    """Documents of a kind; of every namespace, `after` is `NAMESPACE/ID`."""

    def read(connection: sqlite3.Connection, sql: dict[str, str]) -> list[Document]:
        values: dict[str, object] = {"kind": kind, "prefix": prefix, "limit": max(limit, 1)}
        if namespace is None:
            values["after_namespace"], _, values["after"] = after.partition("/")
            found = connection.execute(sql["documents_of_all"], values)
        else:
            values |= {"namespace": namespace, "after": after}
            found = connection.execute(sql["documents_of_namespace"], values)
        return [_document_of(row) for row in found]

    return read


def event(namespace: str, request_id: str) -> Read[bytes | None]:
    """The event of an invocation."""

    def read(connection: sqlite3.Connection, sql: dict[str, str]) -> bytes | None:
        row = connection.execute(
            sql["event"], {"namespace": namespace, "request_id": request_id}
        ).fetchone()
        return row[0] if row else None

    return read


def invocation(namespace: str, request_id: str) -> Read[Invocation | None]:
    """One invocation whole."""

    def read(connection: sqlite3.Connection, sql: dict[str, str]) -> Invocation | None:
        row = connection.execute(
            sql["invocation"], {"namespace": namespace, "request_id": request_id}
        ).fetchone()
        return rows.invocation_of(row) if row else None

    return read


def pending(after: str, limit: int) -> Read[list[Invocation]]:
    """Unfinished invocations."""

    def read(connection: sqlite3.Connection, sql: dict[str, str]) -> list[Invocation]:
        found = connection.execute(sql["pending"], {"after": after, "limit": max(limit, 1)})
        return [rows.invocation_of(row) for row in found]

    return read


def invocations(query: InvocationQuery) -> Read[InvocationPage]:
    """A page of invocations."""

    def read(connection: sqlite3.Connection, sql: dict[str, str]) -> InvocationPage:
        wanted = words.words(query.search)
        if wanted is not None and not wanted:
            return InvocationPage(items=[])
        limit = _bounded(query.limit)
        names, values = _invocation_filters(query)
        where = " ".join(sql[name] for name in names)
        if wanted:
            terms = [f":word{at}" for at in range(len(wanted))]
            values |= {f"word{at}": _term(word) for at, word in enumerate(wanted)}
            each = [sql["word"].replace("?", term) for term in terms]
            both = f" {sql['and_word']} ".join(each)
            where += " " + sql["where_words"].replace("/* words */", both)
        found: list[Row] = connection.execute(
            sql["invocations"].replace("/* where */", where), {**values, "limit": limit + 1}
        ).fetchall()
        items = [rows.invocation_of(row) for row in found[:limit]]
        more = len(found) > limit
        return InvocationPage(items=items, next_cursor=items[-1].request_id if more else "")

    return read


def logs(query: LogQuery) -> Read[list[LogRecord]]:
    """Log records, oldest first."""

    def read(connection: sqlite3.Connection, sql: dict[str, str]) -> list[LogRecord]:
        wanted = words.words(query.grep)
        if wanted is not None and not wanted:
            return []
        names = []
        after = query.after
        if query.function:
            names.append("where_function")
        if query.request_id:
            names.append("where_request")
        if query.since_ms:
            names.append("where_log_since")
            after = max(after, _sequence_before(connection, sql, query.since_ms))
        if wanted:
            names.append("where_grep")
        found: list[Row] = connection.execute(
            sql["logs_tail" if query.tail else "logs"].replace(
                "/* where */", " ".join(sql[name] for name in names)
            ),
            {
                "namespace": query.namespace,
                "function": query.function,
                "request_id": query.request_id,
                "since_ms": query.since_ms,
                "grep": " AND ".join(_term(word) for word in wanted or []),
                "after": after,
                "limit": _bounded(query.limit),
            },
        ).fetchall()
        records = [rows.log_of(row) for row in found]
        return records[::-1] if query.tail else records

    return read


def problems(connection: sqlite3.Connection, sql: dict[str, str]) -> list[str]:
    """What is wrong with the file and with what it says; one sentence each."""
    found = [
        f"The database is damaged: {message}."
        for (message,) in connection.execute(sql["check_database"])
        if message != "ok"
    ]
    contradicting = connection.execute(sql["check_states"]).fetchone()[0]
    if contradicting:
        found.append(f"{contradicting} invocations have a state that contradicts their outcome.")
    eventless, ownerless = connection.execute(sql["check_events"]).fetchone()
    if eventless:
        found.append(f"{eventless} invocations have no event.")
    if ownerless:
        found.append(f"{ownerless} events belong to no invocation.")
    return found


def _invocation_filters(query: InvocationQuery) -> tuple[list[str], dict[str, Any]]:
    values: dict[str, Any] = {"namespace": query.namespace}
    names: list[str] = []
    for name in ("cursor", "function", "state", "outcome", "until_ms"):
        value = getattr(query, name)
        if value:
            names.append("where_" + name.removesuffix("_ms"))
            values[name] = value
    if query.outcome not in ("", "succeeded"):
        names.append("where_unsuccessful")
    if query.dead is not None:
        names.append("where_dead" if query.dead else "where_not_dead")
    if query.since_ms:
        names.append("where_since")
        values["since_ms"] = query.since_ms
        stamp = f"{max(query.since_ms - CLOCKS_APART_MS, 0):012x}"
        values["since_request_id"] = f"{stamp[:8]}-{stamp[8:]}"
    return names, values


def _sequence_before(connection: sqlite3.Connection, sql: dict[str, str], since_ms: int) -> int:
    """A sequence below every record written since a time: records arrive about in order."""
    before_ms = since_ms - CLOCKS_APART_MS
    low, high = connection.execute(sql["log_bounds"]).fetchone()
    low -= 1
    while low < high:
        middle = (low + high + 1) // 2
        row = connection.execute(sql["log_at"], {"sequence": middle}).fetchone()
        if row is not None and row[0] < before_ms:
            low = middle
        else:
            high = middle - 1
    return int(low)


def _term(word: str) -> str:
    """A word as a full-text term. It has no quote in it (`words.words`), so nothing gets out."""
    return f'"{word}" *'


def _bounded(limit: int) -> int:
    return max(1, min(limit, LIMIT_MAX))


def _document_of(row: Row) -> Document:
    return Document(kind=row[0], namespace=row[1], id=row[2], body=row[3], revision=row[4])
