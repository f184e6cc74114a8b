"""Numbers the writer gives out and how far its background work has come. Used by its thread only.

No number is ever given twice, also not after the row that had it was removed: on opening, counting
goes on above both the highest row and the watermark.
"""

from __future__ import annotations

import sqlite3

#: Names of the watermarks of full text, in the order in which their work is done.
TEXTS = ("events", "outcomes", "logs")


class Positions:
    """Counters (last number given) and watermarks (last number made searchable)."""

    def __init__(self, connection: sqlite3.Connection, sql: dict[str, str]) -> None:
        marks: dict[str, int] = dict(connection.execute(sql["watermarks"]).fetchall())
        last = connection.execute(sql["last_positions"]).fetchone()
        #: {name of a text: last number made searchable}. Never above `given`.
        self.indexed: dict[str, int] = {name: marks[name] for name in TEXTS}
        #: {name of a text: last number given to a row}. Gaps where a write was undone.
        self.given: dict[str, int] = {
            name: max(marks[name], last[at]) for at, name in enumerate(TEXTS)
        }
        #: Last revision given to a document, of all documents.
        self.revision: int = max(marks["revision"], last[3])

    def next(self, name: str) -> int:
        """A number for the next row that text `name` takes in."""
        self.given[name] += 1
        return self.given[name]

    def next_revision(self) -> int:
        """A revision above every one before."""
        self.revision += 1
        return self.revision

    def behind(self) -> bool:
        """Whether something written is not searchable yet."""
        return self.given != self.indexed

    def has_indexed(self, target: dict[str, int]) -> bool:
        """Whether everything up to the `target` positions is searchable."""
        return all(self.indexed[name] >= position for name, position in target.items())
