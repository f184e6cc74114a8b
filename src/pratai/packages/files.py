"""Files that appear whole and on disk, or not at all. Blocking; callers keep it off the loop."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator

from pratai.errors import PlatformError
from pratai.packages import tree

PIECE_BYTES = 1 << 20


@contextlib.contextmanager
def map_errors() -> Iterator[None]:
    """Turn what the disk refuses into an error of the platform."""
    try:
        yield
    except OSError as error:
        raise PlatformError(
            f"A package cannot be read or written: {error}.",
            next_step="See that the data directory is writable and has room.",
        ) from error


def write_durably(path: str, data: bytes) -> None:
    """The file is there, whole and on disk, once this returns."""
    made = begin(os.path.dirname(path))
    try:
        with open(made, "wb") as file:
            file.write(data)
        keep(made, path)
    finally:
        discard(made)


def begin(folder: str) -> str:
    """A fresh empty file in the folder, to be filled and then kept or discarded."""
    os.makedirs(folder, exist_ok=True)
    handle, made = tempfile.mkstemp(prefix=tree.UNFINISHED, dir=folder)
    os.close(handle)
    return made


def keep(made: str, path: str) -> None:
    """Give a filled file its name, read-only and durable."""
    handle = os.open(made, os.O_RDONLY)
    try:
        os.fchmod(handle, 0o444)
        os.fsync(handle)
    finally:
        os.close(handle)
    os.rename(made, path)
    parent = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def discard(path: str) -> None:
    """Remove a file; one that is not there is no error."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def sha256_of(path: str) -> str:
    """SHA-256 of a file, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_at(path: str, offset: int, size: int) -> bytes:
    """Up to `size` bytes of a file from `offset` on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.pread(handle, size, offset)
    finally:
        os.close(handle)


def write_at(path: str, offset: int, data: bytes) -> None:
    """Put bytes into a file that exists."""
    handle = os.open(path, os.O_WRONLY)
    try:
        done = 0
        while done < len(data):
            done += os.pwrite(handle, data[done:], offset + done)
    finally:
        os.close(handle)
