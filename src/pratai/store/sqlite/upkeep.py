"""Background work on the writer's connection: full text, sweeping, purging, giving pages back.

Each function is one short step in a transaction of its own, made by the writer between batches.
Nothing here is awaited by a caller who was promised durability.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable

import msgspec

from pratai import clock
from pratai.store.base import Retention, Swept
from pratai.store.sqlite.positions import TEXTS, Positions

#: Rows that one step removes.
SWEEP_ROWS = 200
SWEEP_LOGS = 500
#: The same where size is the reason, so that little more goes than must.
SIZE_ROWS = 100
#: A step of indexing should take about this long; the number of rows follows from it.
INDEX_STEP_US = 8_000
INDEX_ROWS_MAX = 1_000
#: Free pages that are kept for new rows instead of given back.
FREE_PAGES_KEPT = 2_000
#: Texts are checked for damage up to this many, since nothing is written meanwhile.
CHECKED_TEXTS_MAX = 200_000

_FOREVER_MS = 1 << 62


class Indexer:
    """Makes what was written searchable, a step at a time, oldest first."""

    def __init__(
        self, connection: sqlite3.Connection, sql: dict[str, str], positions: Positions
    ) -> None:
        self._connection = connection
        self._sql = sql
        self._positions = positions
        self._rows = 64

    def step(self) -> dict[str, int]:
        """Index some rows of each text; the watermarks to set once that is committed."""
        begun_us = clock.monotonic_us()
        reached: dict[str, int] = {}
        for name in TEXTS:
            after, last = self._positions.indexed[name], self._positions.given[name]
            if after >= last:
                continue
            upto = min(after + self._rows, last)
            self._connection.execute(self._sql["index_" + name], {"after": after, "upto": upto})
            self._connection.execute(self._sql["raise_watermark"], {"name": name, "position": upto})
            reached[name] = upto
        took_us = max(clock.monotonic_us() - begun_us, 1)
        fitting = self._rows * INDEX_STEP_US // took_us
        self._rows = max(1, min(INDEX_ROWS_MAX, 2 * self._rows, fitting))
        return reached


class Sweeper:
    """Removes rows together with their full text."""

    def __init__(
        self, connection: sqlite3.Connection, sql: dict[str, str], positions: Positions
    ) -> None:
        self._connection = connection
        self._sql = sql
        self._positions = positions

    def by_age(self, now_ms: int, retention: Retention) -> Swept:
        """One step of removing what is too old; nothing removed means done."""
        invocations = 0
        for dead, age_max_ms in (
            (0, retention.invocations_age_max_ms),
            (1, retention.dead_age_max_ms),
        ):
            invocations += self._remove_finished(dead, now_ms - age_max_ms)
        return Swept(
            invocations=invocations, logs=self._remove_logs(now_ms - retention.logs_age_max_ms)
        )

    def by_size(self, bytes_max: int) -> Swept:
        """One step of removing the oldest while the file is too large."""
        if self.bytes_used() <= bytes_max:
            return Swept()
        finished = self._one("oldest_finished")
        logged = self._one("oldest_log")
        swept = Swept()
        if finished is not None and (logged is None or finished <= logged):
            swept = Swept(invocations=self._remove_finished(0, _FOREVER_MS, SIZE_ROWS))
        elif logged is not None:
            swept = Swept(logs=self._remove_logs(_FOREVER_MS, SIZE_ROWS))
        for name in ("merge_invocation_text", "merge_log_text"):
            self._connection.execute(self._sql[name], {"pages": 500})
        return swept

    def purge(self, namespace: str, request_ids: list[str]) -> int:
        """Remove those of the invocations that are finished."""
        found = self._connection.execute(
            self._sql["finished_of_requests"],
            {"namespace": namespace, "request_ids": json.dumps(request_ids)},
        ).fetchall()
        return self._remove_invocations([id_ for (id_,) in found])

    def bytes_used(self) -> int:
        """Bytes of the file that hold something."""
        pages = self._one("page_count") or 0
        return (pages - (self._one("freelist_count") or 0)) * (self._one("page_size") or 0)

    def has_free_pages(self) -> bool:
        """Whether pages should be given back."""
        return (self._one("freelist_count") or 0) > FREE_PAGES_KEPT

    def give_back_pages(self) -> None:
        """Give a few pages back to the system."""
        self._connection.execute(self._sql["vacuum_step"]).fetchall()

    def _remove_finished(self, dead: int, before_ms: int, limit: int = SWEEP_ROWS) -> int:
        found = self._connection.execute(
            self._sql["finished_due"],
            {"dead": dead, "before_ms": before_ms, "limit": limit},
        ).fetchall()
        return self._remove_invocations([id_ for (id_,) in found])

    def _remove_invocations(self, ids: list[int]) -> int:
        if not ids:
            return 0
        listed = {"ids": json.dumps(ids)}
        indexed = self._positions.indexed
        self._connection.execute(
            self._sql["unindex_events"], {**listed, "indexed": indexed["events"]}
        )
        self._connection.execute(
            self._sql["unindex_outcomes"], {**listed, "indexed": indexed["outcomes"]}
        )
        self._connection.execute(self._sql["delete_events"], listed)
        self._connection.execute(self._sql["delete_invocations"], listed)
        return len(ids)

    def _remove_logs(self, before_ms: int, limit: int = SWEEP_LOGS) -> int:
        indexed = self._positions.indexed["logs"]
        found = self._connection.execute(
            self._sql["logs_due"],
            {"indexed": indexed, "before_ms": before_ms, "limit": limit},
        ).fetchall()
        if not found:
            return 0
        listed = {"ids": json.dumps([sequence for (sequence,) in found])}
        self._connection.execute(self._sql["unindex_logs"], listed)
        self._connection.execute(self._sql["delete_logs"], listed)
        return len(found)

    def _one(self, name: str) -> int | None:
        row = self._connection.execute(self._sql[name]).fetchone()
        return None if row is None else row[0]


class Upkeep(msgspec.Struct, frozen=True):
    """What a `Step` works with."""

    sweeper: Sweeper
    positions: Positions
    connection: sqlite3.Connection
    sql: dict[str, str]

    def problems(self) -> list[str]:
        """What is wrong with the full text; sentences. Skipped where it would take seconds."""
        found = [
            f"The full text of {name} is ahead of what is stored."
            for name in TEXTS
            if self.positions.indexed[name] > self.positions.given[name]
        ]
        for name, texts in (("invocation_text", TEXTS[:2]), ("log_text", TEXTS[2:])):
            if max(self.positions.given[text] for text in texts) > CHECKED_TEXTS_MAX:
                continue
            try:
                self.connection.execute(self.sql["check_" + name])
            except sqlite3.DatabaseError as error:
                found.append(f"The full text {name} is damaged: {error}.")
        return found


class Step(msgspec.Struct, frozen=True):
    """A step that the writer is asked to make in a transaction of its own, or in none."""

    run: Callable[[Upkeep], object]
    in_transaction: bool = True
