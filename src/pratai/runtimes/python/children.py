"""Looking at processes below this one through `/proc`."""

from __future__ import annotations

import os


def child_pids(pid: int | None = None) -> set[int]:
    """Children of a process, of this one where none is named."""
    pid = pid or os.getpid()
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return {int(child) for child in file.read().split()}


def descendants(pid: int) -> set[int]:
    """Every process below `pid`."""
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        try:
            children = child_pids(waiting.pop()) - found
        except OSError:
            continue
        found |= children
        waiting.extend(children)
    return found


def remove_tree(path: str) -> None:
    """Remove a directory with all in it, and end this process."""
    try:
        import shutil

        shutil.rmtree(path, ignore_errors=True)
    finally:
        os._exit(0)
