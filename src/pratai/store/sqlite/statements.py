"""Finds the SQL: named statements of `queries.sql`, migrations, and one statement for many rows.

There is no SQL here nor in any other Python file of this package.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Sequence
from importlib import resources
from itertools import chain
from typing import Any

Row = tuple[Any, ...]

_ROWS = re.compile(r"/\* rows \*/ (\([^)]*\))")
#: How many rows one step takes at most. Each step gives the interpreter's lock away and has to wait
#: to get it back, so that few large steps keep their pace beside a busy event loop; yet the lock is
#: held while a step's values are made (3 us a row), for which that loop waits in turn.
ROWS_MAX = 256
_SIZES = (256, 128, 64, 32, 16, 8, 4, 2, 1)


def load() -> dict[str, str]:
    """All statements of `queries.sql` by name, without their descriptions."""
    text = resources.files(__package__).joinpath("queries.sql").read_text("utf-8")
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("-- name: "):
            lines = found.setdefault(line.removeprefix("-- name: ").strip(), [])
        elif not line.startswith("--"):
            lines.append(line)
    return {name: "\n".join(lines).strip().removesuffix(";") for name, lines in found.items()}


def migrations() -> list[list[str]]:
    """The statements of each migration, in order; number n is at n - 1."""
    folder = resources.files(__package__).joinpath("migrations")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [_split(folder.joinpath(name).read_text("utf-8")) for name in names]


class Bulk:
    """A statement with `/* rows */`, run over any number of rows in few steps."""

    def __init__(self, sql: str) -> None:
        self._by_size = [(size, _widened(sql, size)) for size in _SIZES]

    def run(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> list[Row]:
        """Run it for all `rows`; what it returned, if it returns anything."""
        return [row for cursor in self._execute(connection, rows) for row in cursor.fetchall()]

    def change(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> int:
        """Run it for all `rows`; how many rows of the table it added or changed.

        A statement that tells which, by RETURNING, would take a step for each.
        """
        return sum(cursor.rowcount for cursor in self._execute(connection, rows))

    def _execute(
        self, connection: sqlite3.Connection, rows: Sequence[Row]
    ) -> Iterator[sqlite3.Cursor]:
        at, count = 0, len(rows)
        for size, sql in self._by_size:
            while count - at >= size:
                yield connection.execute(sql, tuple(chain.from_iterable(rows[at : at + size])))
                at += size


def _widened(sql: str, rows: int) -> str:
    return _ROWS.sub(lambda match: ", ".join([match.group(1)] * rows), sql)


def _split(text: str) -> list[str]:
    statements: list[str] = []
    pending = ""
    for line in text.splitlines():
        if line.startswith("--") or not (pending or line.strip()):
            continue
        pending += line + "\n"
        if sqlite3.complete_statement(pending):
            statements.append(pending)
            pending = ""
    if pending.strip():
        raise ValueError(f"a migration ends inside a statement: {pending!r}")
    return statements
