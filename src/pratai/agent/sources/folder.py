"""One folder: which files are there, what is told of them, where they go. Blocking; no decisions.

Called in threads. Symbolic links are not followed: a link in a watched folder is no file of it.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import stat
from fnmatch import fnmatchcase

import msgspec

from pratai.errors import Forbidden, PrataiError
from pratai.model.trigger import FolderSource, Trigger

#: Entries of a folder that are looked through for each file that may be taken.
ENTRIES_EACH_FILE = 10


class FolderTrouble(PrataiError):
    """A folder or file cannot be read, moved or deleted."""

    code = "folder_trouble"
    retryable = True


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A file as it was found."""

    name: str
    bytes: int
    modified_at_ns: int
    inode: int

    @property
    def fingerprint(self) -> str:
        """Another one, or the same one changed, has another fingerprint."""
        return f"{self.modified_at_ns}-{self.bytes}-{self.inode}"


def check_allowed(path: str, roots: list[str]) -> str:
    """The real path of a folder.

    Raises:
        Forbidden: it is in none of the folders that the operator opened to triggers.

    """
    real = os.path.realpath(path)
    for root in roots:
        if os.path.commonpath([real, os.path.realpath(root)]) == os.path.realpath(root):
            return real
    raise Forbidden(
        f"the agent may not watch {path}: [agent] folders does not name it or a folder above it",
        next_step=f"Let the operator set [agent] folders = {path}.",
    )


def scan(path: str, pattern: str, files_max: int) -> tuple[list[File], bool]:
    """Files that match, by name; and whether there are more than may be looked at.

    Raises:
        FolderTrouble: the folder cannot be read.

    """
    files: list[File] = []
    try:
        with os.scandir(path) as entries:
            for number, entry in enumerate(entries):
                if len(files) >= files_max or number >= files_max * ENTRIES_EACH_FILE:
                    return sorted(files, key=lambda file: file.name), True
                if not fnmatchcase(entry.name, pattern):
                    continue
                file = _file(entry)
                if file is not None:
                    files.append(file)
    except OSError as error:
        raise _trouble(f"the folder {path} cannot be read", error) from error
    return sorted(files, key=lambda file: file.name), False


def _file(entry: os.DirEntry[str]) -> File | None:
    """None when it is no regular file, or is gone already."""
    try:
        found = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        return None  # a name that is no text cannot be told in an event
    return _as_file(entry.name, found)


def _as_file(name: str, found: os.stat_result) -> File:
    return File(
        name=name, bytes=found.st_size, modified_at_ns=found.st_mtime_ns, inode=found.st_ino
    )


def event_of(trigger: Trigger, path: str, file: File, content_bytes_max: int) -> bytes | None:
    """The event of a file; None when it is not any more what it was.

    Raises:
        FolderTrouble: the file cannot be read.

    """
    whole = os.path.join(path, file.name)
    content: str | None = None
    try:
        descriptor = os.open(whole, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as opened:
            if file.bytes <= content_bytes_max:
                content = base64.b64encode(opened.read(content_bytes_max + 1)).decode()
            if _as_file(file.name, os.fstat(descriptor)) != file:
                return None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _trouble(f"the file {whole} cannot be read", error) from error
    document: dict[str, str | int] = {
        "trigger": trigger.name,
        "path": whole,
        "name": file.name,
        "bytes": file.bytes,
        "modified_at_ms": file.modified_at_ns // 1_000_000,
    }
    if content is not None:
        document["content_base64"] = content
    return msgspec.json.encode(document)


def key_of_file(trigger: Trigger, path: str, file: File) -> str:
    """What makes the event of this file, in this state, one event."""
    text = f"{os.path.join(path, file.name)}\0{file.fingerprint}"
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"folder:{trigger.namespace}/{trigger.name}:{digest[:32]}"


def put_away(source: FolderSource, path: str, move_to: str, file: File) -> None:
    """Do with an accepted file what its trigger says, if it is still the same file.

    Raises:
        FolderTrouble: it cannot be moved or deleted.

    """
    whole = os.path.join(path, file.name)
    try:
        if _as_file(file.name, os.lstat(whole)) != file:
            return
        if source.after == "delete":
            os.unlink(whole)
        elif source.after == "move":
            os.makedirs(move_to, exist_ok=True)
            shutil.move(whole, _free_name(move_to, file))
    except FileNotFoundError:
        return
    except OSError as error:
        raise _trouble(f"the file {whole} was accepted, but not {source.after}d", error) from error


def _free_name(folder: str, file: File) -> str:
    """Where a file goes; beside one of the same name that went there before."""
    target = os.path.join(folder, file.name)
    return f"{target}.{file.modified_at_ns}" if os.path.lexists(target) else target


def _trouble(what: str, error: OSError) -> FolderTrouble:
    return FolderTrouble(
        f"{what}: {(error.strerror or str(error)).lower()}",
        next_step="Check that it exists and that the agent's user may read and write it.",
    )
