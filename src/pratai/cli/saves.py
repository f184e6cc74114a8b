"""Noticing that a file, or something in a folder, was saved: by asking for times, many a second.

Polling needs no dependency and works on every file system. What is never part of a package is not
looked at; an ignored file that slips through costs one packing, and no deployment.
"""

from __future__ import annotations

import fnmatch
import os
import threading
from pathlib import Path

from pratai import clock
from pratai.packages.pack import LEFT_OUT

FILES_MAX = 20_000
POLL_MS = 50
#: Editors save in several steps (truncate, write, rename): wait until all is still.
_STILL_MS = 15
_STILL_ROUNDS_MAX = 100
#: At most this share of one processor goes into looking.
_SCAN_SHARE = 8

_PATTERNS = tuple(pattern.rstrip("/") for pattern in LEFT_OUT if not pattern.startswith(".pratai"))
#: {path: (modified, size, inode)}.
Snapshot = dict[str, tuple[int, int, int]]


class Saves:
    """Watches one path. The first state is the one when it was made."""

    def __init__(self, path: Path, *, files_max: int = FILES_MAX) -> None:
        self._path = path
        self._files_max = files_max
        self._known = self._look()

    def wait(self, stop: threading.Event) -> bool:
        """Block until something was saved and all is still; False once `stop` is set."""
        pause_ms: float = POLL_MS
        while not stop.wait(pause_ms / 1000):
            started_us = clock.monotonic_us()
            seen = self._look()
            took_ms = (clock.monotonic_us() - started_us) / 1000
            pause_ms = max(POLL_MS, took_ms * _SCAN_SHARE)
            if seen != self._known:
                self._known = self._settle(seen, stop)
                return True
        return False

    def _settle(self, seen: Snapshot, stop: threading.Event) -> Snapshot:
        for _ in range(_STILL_ROUNDS_MAX):
            stop.wait(_STILL_MS / 1000)
            now = self._look()
            if now == seen and now:
                return now
            seen = now
        return seen

    def _look(self) -> Snapshot:
        """Times and sizes now; a path that vanished on the way is simply not there."""
        snapshot: Snapshot = {}
        pending = [str(self._path)]
        while pending and len(snapshot) < self._files_max:
            path = pending.pop()
            try:
                state = os.stat(path)
                inside = _entries(path)
            except FileNotFoundError:
                continue
            snapshot[path] = (state.st_mtime_ns, state.st_size, state.st_ino)
            pending.extend(inside)
        return snapshot


def _entries(path: str) -> list[str]:
    """What is in a folder and may be part of a package; nothing for a file."""
    try:
        names = os.listdir(path)
    except NotADirectoryError:
        return []
    return [os.path.join(path, name) for name in names if not _left_out(name)]


def _left_out(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in _PATTERNS)
