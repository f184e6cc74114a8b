"""What an upload may be, and how it is unpacked: a zip, or one Python source file.

The upload is hostile until `listing` has read it: names that leave the directory, links and
devices, names that collide, archives that inflate without end. `unpack` writes only what a listing
holds and counts the bytes it really inflates, since what a zip says of its sizes is a claim.
Making a package is `pack.py`; where packages lie on disk is `directory.py`.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Literal

import msgspec

from pratai.config.schema import Packages as Limits
from pratai.errors import InvalidField, PayloadTooLarge
from pratai.packages import tree

Kind = Literal["zip", "source"]

#: Name of the file that a package of one source file is unpacked as.
SOURCE_NAME = "main.py"
SOURCE_BYTES_MAX = 16 * 1024 * 1024
NAME_BYTES_MAX = 255
PATH_BYTES_MAX = 1_024
#: Modules that may hold the handler when nobody names one, in the order they are looked at.
USUAL_MODULES = ("main.py", "handler.py", "app.py", "lambda_function.py", "function.py")

_CHUNK_BYTES = 1 << 20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_SPECIAL = (stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK)
_ENCRYPTED = 0x1 | 0x40
_END = b"PK\x05\x06"
_END_BYTES = 22
_END_WIDE = b"PK\x06\x07"
_END_WIDE_BYTES = 20
_ROOT_MARKS = ("pyproject.toml", "requirements.txt", *USUAL_MODULES)
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    ValueError,
)


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a package."""

    #: Where it goes, relative to the package's directory.
    path: str
    #: What the archive says; `unpack` holds it to that.
    size: int
    crc: int
    executable: bool = False
    #: Position in the archive's directory.
    index: int = 0


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a package, sorted by path, after every check but the inflating."""

    kind: Kind
    members: list[Member]
    #: The one folder that everything was in and that was left off; "" for none.
    stripped: str = ""


def recognise(data: bytes) -> Kind:
    """Whether an upload is a zip or a source file.

    Raises:
        InvalidField: it is neither.

    """
    if data.startswith((b"PK\x03\x04", _END)):
        return "zip"
    if not data.strip():
        raise refused("the package is empty", next_step="Send a zip or one .py file.")
    if b"\0" in data:
        raise refused(
            "the package is neither a zip nor Python source",
            next_step="Pack the code as a zip (not tar, gzip or 7z), or send one .py file.",
        )
    if len(data) > SOURCE_BYTES_MAX:
        raise PayloadTooLarge(
            f"A source file of {len(data)} bytes is above the limit of {SOURCE_BYTES_MAX}.",
            next_step="Send a zip with the data in files of its own.",
            field="package",
            value=len(data),
            allowed=SOURCE_BYTES_MAX,
        )
    return "source"


def listing(data: bytes, limits: Limits) -> Listing:
    """Check an upload and tell its files.

    Raises:
        InvalidField: it is not a package, or is a dangerous one.
        PayloadTooLarge: more files or bytes than the limits allow.

    """
    if recognise(data) == "source":
        member = Member(path=SOURCE_NAME, size=len(data), crc=zlib.crc32(data))
        return Listing(kind="source", members=[member])
    _check_directory_size(data, limits)
    with _reading(), zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = list(_members(archive, limits))
    if not members:
        raise refused("the zip has no files in it", next_step="Zip the folder that has the code.")
    _check_collisions(members)
    members.sort(key=lambda member: member.path)
    folder = _lone_folder(members)
    if folder:
        cut = len(folder) + 1
        members = [msgspec.structs.replace(member, path=member.path[cut:]) for member in members]
    return Listing(kind="zip", members=members, stripped=folder)


def unpack(data: bytes, listed: Listing, target_dir: str, limits: Limits) -> None:
    """Write a package's files under `target_dir`, which is empty, read-only for everybody.

    Raises:
        InvalidField: a file is not what the archive says.
        PayloadTooLarge: it inflates beyond the limits.

    """
    if listed.kind == "source":
        _write(os.path.join(target_dir, SOURCE_NAME), [data], executable=False)
    else:
        with _reading(), zipfile.ZipFile(io.BytesIO(data)) as archive:
            _unpack_members(archive, listed, target_dir, limits)
    tree.seal(target_dir)


def matches(listed: Listing, directory: str) -> bool:
    """Whether a directory holds exactly these files with this content."""
    expected = {member.path: member for member in listed.members}
    found = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(folder, name)
            member = expected.get(os.path.relpath(path, directory))
            if member is None or os.path.islink(path) or os.path.getsize(path) != member.size:
                return False
            if _crc_of(path) != member.crc:
                return False
            found += 1
    return found == len(expected)


def refused(what: str, *, value: object = None, next_step: str) -> InvalidField:
    """The error for an upload that is no package."""
    return InvalidField(
        what[0].upper() + what[1:] + ".",
        next_step=next_step,
        field="package",
        value=value,
        allowed="a zip, or one Python source file",
    )


@contextmanager
def _reading() -> Iterator[None]:
    """Turn whatever the zip reader raises on a broken archive into our refusal."""
    try:
        yield
    except _BROKEN as error:
        raise refused(
            f"the zip cannot be read: {error or type(error).__name__}",
            next_step="Make the zip again; `unzip -t FILE` shows what is wrong with it.",
        ) from error


def _too_large(what: str, value: int, allowed: int, setting: str) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"The package has {what}: more than {allowed}.",
        next_step=f"Leave out what the function does not need, or raise {setting}.",
        field="package",
        value=value,
        allowed=allowed,
    )


def _check_directory_size(data: bytes, limits: Limits) -> None:
    """Refuse a directory of millions of entries before the zip reader makes an object of each."""
    end = len(data) - _END_BYTES
    if end < 0 or data[end : end + 4] != _END or data[-2:] != b"\0\0":
        end = data.rfind(_END, max(0, len(data) - _END_BYTES - 65_536))
    if end < 0 or end + _END_BYTES > len(data):
        raise refused(
            "the zip cannot be read: it has no end record",
            next_step="It was probably cut off on the way; send it again.",
        )
    if data[max(0, end - _END_WIDE_BYTES) :][:4] == _END_WIDE:
        raise refused(
            "the zip is of the zip64 kind, which no package within the limits needs",
            next_step="Make the zip again with fewer or smaller files.",
        )
    (size,) = struct.unpack_from("<I", data, end + 12)
    if size > limits.files_max * 256 + 65_536:
        raise _too_large("too many files", size // 64, limits.files_max, "[packages] files_max")


def _members(archive: zipfile.ZipFile, limits: Limits) -> Iterator[Member]:
    count, claimed = 0, 0
    for index, info in enumerate(archive.infolist()):
        _check_entry(info)
        path = _checked_path(info.orig_filename)
        if _is_folder(info) or _is_litter(path):
            continue
        if path == "":
            raise _bad_name(info.orig_filename, "has no name")
        count += 1
        claimed += info.file_size
        if count > limits.files_max:
            raise _too_large("too many files", count, limits.files_max, "[packages] files_max")
        if claimed > limits.unpacked_bytes_max:
            raise _too_large(
                f"{claimed} bytes unpacked",
                claimed,
                limits.unpacked_bytes_max,
                "[packages] unpacked_bytes_max",
            )
        mode = info.external_attr >> 16
        yield Member(
            path=path,
            size=info.file_size,
            crc=info.CRC,
            executable=bool(mode & 0o111),
            index=index,
        )


def _check_entry(info: zipfile.ZipInfo) -> None:
    name = info.orig_filename
    if stat.S_IFMT(info.external_attr >> 16) in _SPECIAL:
        raise _bad_name(name, "is a link or device; only files and folders are allowed")
    if info.flag_bits & _ENCRYPTED:
        raise _bad_name(name, "is encrypted")
    if info.compress_type not in _METHODS:
        raise _bad_name(name, "is compressed by a method other than deflate")


def _is_folder(info: zipfile.ZipInfo) -> bool:
    named = info.orig_filename.endswith(("/", "\\"))
    return named or stat.S_ISDIR(info.external_attr >> 16)


def _bad_name(name: str, why: str) -> InvalidField:
    safe = ascii(name)[1:-1][:200]
    return refused(
        f"the zip's entry {safe} {why}",
        value=safe,
        next_step="Make the zip again without this entry.",
    )


def _checked_path(name: str) -> str:
    """An entry's name as a path inside the package, or a refusal."""
    path = name.replace("\\", "/")
    if path.startswith("/") or (len(path) > 1 and path[1] == ":" and path[0].isalpha()):
        raise _bad_name(name, "is an absolute path")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise _bad_name(name, "leaves the package's folder")
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in path):
        raise _bad_name(name, "has control characters in its name")
    path = "/".join(parts)
    if len(path.encode()) > PATH_BYTES_MAX or any(
        len(part.encode()) > NAME_BYTES_MAX for part in parts
    ):
        raise _bad_name(name, "has too long a name")
    return path


def _is_litter(path: str) -> bool:
    """What the zip tool of a desktop adds beside the code."""
    return path.startswith("__MACOSX/") or path.rpartition("/")[2] == ".DS_Store"


def _check_collisions(members: list[Member]) -> None:
    """No two entries may be one file, on any file system; no file may also be a folder."""
    spelling: dict[str, str] = {}
    files: set[str] = set()
    folders: set[str] = set()
    for member in members:
        if member.path in files:
            raise _bad_name(member.path, "is there twice")
        files.add(member.path)
        parts = member.path.split("/")
        for depth in range(1, len(parts) + 1):
            prefix = "/".join(parts[:depth])
            if depth < len(parts):
                folders.add(prefix)
            key = unicodedata.normalize("NFC", prefix).casefold()
            if spelling.setdefault(key, prefix) != prefix:
                raise _bad_name(prefix, f"differs from {spelling[key]!a} in case alone")
    both = files & folders
    if both:
        raise _bad_name(min(both), "is both a file and a folder")


def _lone_folder(members: list[Member]) -> str:
    """The folder to leave off: all files are in it and it looks like a package's root.

    A folder with an `__init__.py` is a Python package whose name the code relies on; it stays.
    """
    folder, slash, _ = members[0].path.partition("/")
    prefix = folder + "/"
    if not slash or not all(member.path.startswith(prefix) for member in members):
        return ""
    inside = {member.path[len(prefix) :] for member in members}
    if "__init__.py" in inside or not inside.intersection(_ROOT_MARKS):
        return ""
    return folder


def _unpack_members(
    archive: zipfile.ZipFile, listed: Listing, target_dir: str, limits: Limits
) -> None:
    left = limits.unpacked_bytes_max
    infos = archive.infolist()
    for member in listed.members:
        path = os.path.join(target_dir, member.path)
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        with archive.open(infos[member.index]) as source:
            left -= _write(path, _inflated(source, left), executable=member.executable)


def _inflated(source: IO[bytes], left: int) -> Iterator[bytes]:
    while chunk := source.read(_CHUNK_BYTES):
        left -= len(chunk)
        if left < 0:
            raise PayloadTooLarge(
                "The package inflates to more than [packages] unpacked_bytes_max.",
                next_step="Leave out what the function does not need, or raise the limit.",
                field="package",
            )
        yield chunk


def _write(path: str, chunks: Iterator[bytes] | list[bytes], *, executable: bool) -> int:
    """Create a file that was not there; its size."""
    size = 0
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with open(os.open(path, flags, 0o600), "wb") as file:
        for chunk in chunks:
            size += file.write(chunk)
        os.fchmod(file.fileno(), 0o555 if executable else 0o444)
    return size


def _crc_of(path: str) -> int:
    crc = 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            crc = zlib.crc32(chunk, crc)
    return crc
