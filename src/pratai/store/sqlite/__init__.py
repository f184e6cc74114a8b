"""The store of one machine: SQLite, one writing thread, grouped commits.

`docs/internals/store.md` explains it.
"""

from __future__ import annotations

from pratai.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
