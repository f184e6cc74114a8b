"""Directory trees that appear whole or not at all, and are read-only from then on.

Blocking; callers keep it off the event loop.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile

#: How names begin of what is being made or removed; a sweep deletes old ones.
UNFINISHED = ".unfinished-"


def begin(parent: str) -> str:
    """A fresh directory beside where the finished one will be."""
    os.makedirs(parent, exist_ok=True)
    return tempfile.mkdtemp(prefix=UNFINISHED, dir=parent)


def seal(root: str) -> None:
    """Make all of it readable for every user, as functions run as others, and writable by none."""
    for folder, _, names in os.walk(root, topdown=False):
        for name in names:
            path = os.path.join(folder, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISREG(mode):
                os.chmod(path, 0o555 if mode & stat.S_IXUSR else 0o444)
        os.chmod(folder, 0o555)  # noqa: S103 - instances of other users read and enter it


def publish(made: str, final: str) -> None:
    """Give a finished tree its name; where somebody was faster, theirs stays."""
    # A directory that its owner may not write cannot be moved to another parent.
    os.chmod(made, 0o755)  # noqa: S103 - see `seal`
    try:
        os.rename(made, final)
    except OSError:
        if not os.path.isdir(final):
            raise
        remove(made)
        return
    os.chmod(final, 0o555)  # noqa: S103 - see `seal`


def remove(root: str) -> None:
    """Delete a tree, read-only or not. What is not there is no error."""
    if not os.path.isdir(root):
        return
    grave = begin(os.path.dirname(root))
    try:
        os.chmod(root, 0o700)
        os.rename(root, os.path.join(grave, "tree"))
    except FileNotFoundError:
        os.rmdir(grave)
        return
    for folder, names, _ in os.walk(grave):
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                os.chmod(path, 0o700)
    shutil.rmtree(grave)


def size(root: str) -> int:
    """Bytes of all files in it."""
    total = 0
    for folder, _, names in os.walk(root):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except FileNotFoundError:
                continue
    return total
