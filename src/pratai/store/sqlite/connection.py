"""Opens the database file: lock, connections, migrations, and SQLite's errors in our words.

What is written and read through the connections is not here.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3

from pratai.errors import InvalidField, PlatformError, PrataiError, StoreUnavailable
from pratai.store import words
from pratai.store.sqlite import statements

#: Primary result code: (what is wrong, what to do). These concern the file, not one statement.
_TROUBLE: dict[int, tuple[str, str]] = {
    sqlite3.SQLITE_FULL: (
        "The disk is full.",
        "Free some space; writing goes on by itself. `store.bytes_max` bounds what is kept.",
    ),
    sqlite3.SQLITE_READONLY: (
        "The database cannot be written.",
        "Make the file, its folder and its file system writable for this user.",
    ),
    sqlite3.SQLITE_IOERR: (
        "The disk failed to read or write.",
        "Look at the system's log and the disk's health.",
    ),
    sqlite3.SQLITE_CORRUPT: (
        "The database is damaged.",
        "Stop the platform, keep a copy of the data directory and run `pratai doctor`.",
    ),
    sqlite3.SQLITE_NOTADB: (
        "The file is not a database of Pratai.",
        "Give another data directory, or move the file away.",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        "The database cannot be opened.",
        "Check that its folder exists and that this user may write to it.",
    ),
    sqlite3.SQLITE_PERM: (
        "The database may not be touched by this user.",
        "Give the data directory to the user that runs Pratai.",
    ),
    sqlite3.SQLITE_BUSY: (
        "Another program holds the database.",
        "End the program that has the file open, such as a database browser.",
    ),
    sqlite3.SQLITE_LOCKED: (
        "Another program holds the database.",
        "End the program that has the file open, such as a database browser.",
    ),
    sqlite3.SQLITE_NOMEM: (
        "There is no memory left for the database.",
        "Give the machine more memory or lower `node.memory_mb`.",
    ),
}


def is_trouble(error: BaseException) -> bool:
    """Whether an error concerns the whole file, so that no other write would fare better."""
    return isinstance(error, sqlite3.Error) and _primary(error) in _TROUBLE


def is_lost(error: BaseException) -> bool:
    """Whether the connection should be made anew after this error."""
    kept = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    return (
        isinstance(error, sqlite3.Error)
        and _primary(error) in _TROUBLE
        and _primary(error) not in kept
    )


def translate(error: BaseException, path: str) -> PrataiError:
    """An error of SQLite or of a value it could not take, as one of ours."""
    if isinstance(error, PrataiError):
        return error
    if isinstance(error, sqlite3.Error):
        sentence, next_step = _TROUBLE.get(
            _primary(error), ("The store refused this.", "Report it with the log of this process.")
        )
        return StoreUnavailable(
            f"{sentence} ({path}: {error})", next_step=next_step, retry_after_s=1
        )
    if isinstance(error, (UnicodeError, OverflowError)):
        return InvalidField(
            f"A value cannot be stored: {error}",
            next_step="Send valid Unicode text and integers of at most 63 bits.",
        )
    return PlatformError(
        f"The store failed: {type(error).__name__}: {error}",
        next_step="Report it with the log of this process.",
    )


class Lock:
    """`<path>.lock`: one process at a time. Freed by the system when the process dies."""

    def __init__(self, path: str) -> None:
        self._path = path + ".lock"
        self._fd = -1

    def take(self) -> None:
        """Hold the lock.

        Raises:
            PlatformError: another process, or another store of this one, holds it.

        """
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise PlatformError(
                f"The data directory is in use: process {holder} holds {self._path}.",
                next_step=f"Stop that process (`kill {holder}`), or use another --data-dir.",
                code="store_in_use",
            ) from error
        os.ftruncate(fd, 0)
        os.write(fd, str(os.getpid()).encode())
        self._fd = fd

    def free(self) -> None:
        """Let go. The file stays: removing it would let two processes lock different files."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def prepare(path: str) -> None:
    """Make the folder and the file, readable by their owner alone."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def connect_writer(path: str, sql: dict[str, str]) -> sqlite3.Connection:
    """The one connection that writes, migrated to the newest schema."""
    connection = _connect(path)
    try:
        if connection.execute(sql["page_count"]).fetchone()[0] == 0:
            connection.execute(sql["fresh"])
        for name in ("journal_mode", "durable", "foreign_keys", "busy_timeout", "writer_cache"):
            connection.execute(sql[name]).fetchall()
        for name in ("mmap", "temp_store", "secure_delete", "autocheckpoint", "journal_size_limit"):
            connection.execute(sql[name]).fetchall()
        _migrate(connection, path, sql)
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reader(path: str, sql: dict[str, str]) -> sqlite3.Connection:
    """A connection that only reads."""
    connection = _connect(path)
    for name in ("busy_timeout", "reader_cache", "mmap", "temp_store", "read_only"):
        connection.execute(sql[name]).fetchall()
    return connection


def _connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    connection.create_function("plain", 1, words.plain, deterministic=True)
    return connection


def _migrate(connection: sqlite3.Connection, path: str, sql: dict[str, str]) -> None:
    steps = statements.migrations()
    version = connection.execute(sql["schema_version"]).fetchone()[0]
    if version > len(steps):
        raise PlatformError(
            f"{path} was written by a newer Pratai (schema {version}; this one knows "
            f"{len(steps)}).",
            next_step="Use that newer version of Pratai, or another --data-dir.",
            code="store_too_new",
        )
    for number, migration in enumerate(steps[version:], start=version + 1):
        connection.execute(sql["begin"])
        try:
            for statement in migration:
                connection.execute(statement)
            reached = connection.execute(sql["schema_version"]).fetchone()[0]
            assert reached == number, f"migration {number} set the number {reached}"
            connection.execute(sql["commit"])
        except BaseException:
            connection.execute(sql["rollback"])
            raise


def _primary(error: sqlite3.Error) -> int:
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF
