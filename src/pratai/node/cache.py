"""What a node has fetched, by digest: how large it is, when it was used, what goes first.

Bookkeeping alone; `fetching.py` removes. Digests that are in use are never chosen.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection

import msgspec

from pratai.packages import files, tree

FOLDERS = ("packages", "unpacked", "layers", "sums")


class Entry(msgspec.Struct):
    """A package or layer with all that belongs to it."""

    bytes: int
    #: Rises with each use.
    used: float


class Cache:
    """The entries of a directory and their sum."""

    def __init__(self, cache_dir: str, bytes_max: int) -> None:
        self._dir = cache_dir
        self.bytes_max = bytes_max
        self.entries: dict[str, Entry] = {}
        self.bytes = 0
        self._uses = 0.0

    def __repr__(self) -> str:
        """How full it is."""
        return f"<Cache {len(self.entries)} entries, {self.bytes} of {self.bytes_max} bytes>"

    def clean(self) -> None:
        """Remove what an earlier process did not finish. Blocking."""
        for folder in FOLDERS:
            for entry in self._listed(folder):
                if entry.name.startswith(tree.UNFINISHED):
                    tree.remove(entry.path)
                    files.discard(entry.path)

    def scan(self) -> None:
        """Count what is on the disk and not known: from an earlier process, or of a fetch that
        failed half way. Blocking.
        """
        found: dict[str, float] = {}
        for folder in FOLDERS:
            for entry in self._listed(folder):
                if entry.name not in self.entries and not entry.name.startswith("."):
                    with contextlib.suppress(FileNotFoundError):
                        changed = entry.stat().st_mtime
                        found[entry.name] = max(found.get(entry.name, 0.0), changed)
        for digest in sorted(found, key=lambda one: found[one]):
            self.add(digest, self.measure(digest))

    def measure(self, digest: str) -> int:
        """Bytes of a digest on disk. Blocking."""
        return sum(_size(os.path.join(self._dir, folder, digest)) for folder in FOLDERS)

    def touch(self, digest: str) -> None:
        """Note a use on disk, for a later process. Blocking."""
        for folder in ("packages", "layers"):
            path = os.path.join(self._dir, folder, digest)
            if os.path.exists(path):
                os.utime(path)

    def add(self, digest: str, size: int) -> None:
        """Note a digest's use and size now."""
        self.drop(digest)
        self._uses += 1
        self.entries[digest] = Entry(bytes=size, used=self._uses)
        self.bytes += size

    def _listed(self, folder: str) -> list[os.DirEntry[str]]:
        path = os.path.join(self._dir, folder)
        return list(os.scandir(path)) if os.path.isdir(path) else []

    def drop(self, digest: str) -> None:
        """Forget a digest."""
        entry = self.entries.pop(digest, None)
        if entry is not None:
            self.bytes -= entry.bytes

    def victim(self, in_use: Collection[str]) -> str:
        """What to remove next: unused for longest; "" = nothing must or can go."""
        if self.bytes <= self.bytes_max:
            return ""
        idle = [digest for digest in self.entries if digest not in in_use]
        return min(idle, key=lambda digest: self.entries[digest].used, default="")


def _size(path: str) -> int:
    if os.path.isdir(path):
        return tree.size(path)
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0
