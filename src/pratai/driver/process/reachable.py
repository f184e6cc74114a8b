"""Directories where functions can read them, on machines that permit no mount namespaces.

Code below a directory that only root may enter (`/root`, a closed data directory) cannot be read
by a function's own user, and without mounts it cannot be shown at another place. So its tree is
repeated with hard links, or copies where links are not possible, below `/tmp`.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterable

from pratai.errors import PlatformError

#: Trees kept at one time; beyond it the oldest that is not in use is removed.
_TREES_MAX = 1_024
#: Parts of an interpreter's tree that functions have no use for.
_LEFT_OUT = (
    "site-packages",
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "ensurepip",
    "share",
    "include",
)


class Reachable:
    """Trees repeated below `root`, which this owns and removes."""

    def __init__(self, root: str) -> None:
        self.root = root
        #: {source: repeated tree}, oldest first.
        self._trees: dict[str, str] = {}
        self._count = 0

    def open(self) -> None:
        """Make `root` anew.

        Raises:
            PlatformError: somebody else has a file of that name.

        """
        self.remove()
        try:
            os.mkdir(self.root, mode=0o711)
        except FileExistsError as error:
            raise PlatformError(
                f"{self.root} exists and is not ours", next_step="Remove it."
            ) from error
        os.chmod(self.root, 0o711)  # noqa: S103 - walked through, never listed

    def remove(self) -> None:
        """Remove everything; only if it is a directory of ours."""
        try:
            now = os.lstat(self.root)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(now.st_mode) and now.st_uid == os.geteuid():
            shutil.rmtree(self.root)
        self._trees.clear()

    def path(self, source: str, in_use: Callable[[], Iterable[str]]) -> str:
        """`source`, or where its tree is repeated if others may not walk to it. Reads the disk.

        `in_use()`: repeated trees that may not be removed.
        """
        if not source or not blocked_parent(source):
            return source
        if source not in self._trees:
            self._make_room(in_use)
            self._count += 1
            target = os.path.join(self.root, f"tree-{self._count}")
            _repeat(source, target, leave_out=())
            self._trees[source] = target
        return self._trees[source]

    def interpreter(self, prefix: str, executable: str) -> str:
        """An executable like `executable`, with its standard library where others can read it."""
        target = os.path.join(self.root, "python")
        _repeat(prefix, target, leave_out=_LEFT_OUT)
        return os.path.join(target, os.path.relpath(os.path.realpath(executable), prefix))

    def _make_room(self, in_use: Callable[[], Iterable[str]]) -> None:
        if len(self._trees) < _TREES_MAX:
            return
        busy = set(in_use())
        for source, tree in self._trees.items():
            if tree not in busy:
                shutil.rmtree(tree)
                del self._trees[source]
                return


def blocked_parent(path: str) -> str:
    """The topmost directory of `path` that other users may not walk through; "" if none."""
    current = "/"
    for part in path.strip("/").split("/"):
        current = os.path.join(current, part)
        if not os.stat(current).st_mode & stat.S_IXOTH:
            return current
    return ""


def _repeat(source: str, target: str, *, leave_out: tuple[str, ...]) -> None:
    ignore = shutil.ignore_patterns(*leave_out) if leave_out else None
    shutil.copytree(source, target, symlinks=True, copy_function=_link, ignore=ignore)
    os.chmod(target, 0o755)  # noqa: S103 - code is for its function to read


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
