"""The data dir of a process: made, checked, and held by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from pratai.errors import CallerError


def check_data_dir(data_dir: str) -> None:
    """Make a data dir if need be.

    Raises:
        CallerError: it cannot be written.

    """
    try:
        os.makedirs(data_dir, mode=0o755, exist_ok=True)
        with open(os.path.join(data_dir, "pratai.lock"), "a", encoding="ascii"):
            return
    except OSError as error:
        raise CallerError(
            f"{data_dir} cannot be used as the data dir: {error.strerror}",
            code="data_dir_unusable",
            field="--data-dir",
            value=data_dir,
            next_step="Name a directory that can be written with --data-dir.",
        ) from None


@contextlib.contextmanager
def locked(data_dir: str) -> Iterator[None]:
    """Hold a data dir; the system frees it when this process ends, however it does.

    Raises:
        CallerError: another process holds it.

    """
    path = os.path.join(data_dir, "pratai.lock")
    with open(path, "a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read(32).strip() or "unknown"
            raise CallerError(
                f"{data_dir} is in use by another process ({owner})",
                code="data_dir_in_use",
                field="--data-dir",
                value=data_dir,
                next_step="Stop that one, or name another directory with --data-dir.",
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
