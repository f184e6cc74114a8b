"""A layer as one file, for its way between machines: a gzipped tar, made and read strictly.

`pack` writes the same bytes for the same tree. `unpack` takes only what `pack` makes: folders,
files and links that stay inside, every parent before its children. It reads block by block and
holds no header of more than a path in memory, so a hostile file costs no more than its bounds.
Times of change are kept, as compiled Python is valid only beside a source of its time.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO, BinaryIO

import msgspec

from pratai.config.schema import Packages as Limits
from pratai.errors import PayloadTooLarge
from pratai.packages.archive import NAME_BYTES_MAX, PATH_BYTES_MAX
from pratai.packages.source import PackageDamaged

_BLOCK = 512
_PIECE_BYTES = 1 << 20
_LEVEL = 1
_TIME_MAX = 1 << 33
_LONG = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_BROKEN = (OSError, EOFError, zlib.error, tarfile.TarError, ValueError)


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What a header says, after its checks."""

    path: str
    kind: bytes
    size: int
    executable: bool
    changed_at_s: int
    target: str


def pack(root: str, path: str, limits: Limits) -> str:
    """Write the tree under `root` to a file; its SHA-256.

    Raises:
        PayloadTooLarge: it has more files than `unpack` would take.

    """
    with open(path, "wb") as file:
        hashing = _Hashing(file)
        with (
            gzip.GzipFile("", "wb", _LEVEL, hashing, mtime=0) as packed,
            tarfile.open(
                fileobj=packed,
                mode="w|",
                format=tarfile.GNU_FORMAT,
                encoding="utf-8",
                errors="surrogateescape",
            ) as archive,
        ):
            for count, relative in enumerate(_walk(root), 1):
                if count > limits.layer_files_max:
                    raise _too_many(limits)
                _add(archive, root, relative)
    return hashing.sha256.hexdigest()


def unpack(path: str, target: str, limits: Limits) -> dict[str, tuple[int, int]]:
    """Write a packed layer's files under `target`, which is empty; {path: (size, crc)}.

    Raises:
        PackageDamaged: it is not what `pack` makes. PayloadTooLarge: beyond the limits.

    """
    folders = {""}
    sums: dict[str, tuple[int, int]] = {}
    with open(path, "rb") as file:
        reader = _Reader(file, limits)
        for count, entry in enumerate(_entries(reader), 1):
            if count > limits.layer_files_max:
                raise _too_many(limits)
            if entry.path.rpartition("/")[0] not in folders:
                raise _refused(entry.path, "comes before its folder")
            sums.update(_write(reader, entry, target, folders))
    return sums


def sums_of(root: str) -> dict[str, tuple[int, int]]:
    """{path: (size, crc)} of the files of a tree, as `unpack` tells them."""
    sums = {}
    for relative in _walk(root):
        full = os.path.join(root, relative)
        if stat.S_ISREG(os.lstat(full).st_mode):
            crc, size = 0, 0
            with open(full, "rb") as file:
                while piece := file.read(_PIECE_BYTES):
                    crc, size = zlib.crc32(piece, crc), size + len(piece)
            sums[relative] = (size, crc)
    return sums


class _Hashing:
    """A file to write to that knows the SHA-256 of what was written."""

    def __init__(self, file: BinaryIO | IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Write and count in."""
        self.sha256.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Hand on what is buffered."""
        self._file.flush()


class _Reader:
    """Unpacked bytes in exact amounts, up to the limits."""

    def __init__(self, file: IO[bytes], limits: Limits) -> None:
        self._packed = gzip.GzipFile(fileobj=file, mode="rb")
        #: Contents, and for each entry its header, its padding and those of a long name.
        self._left = limits.layer_bytes_max + limits.layer_files_max * _BLOCK * 8
        self._limits = limits

    def take(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        self._left -= size
        if self._left < 0:
            raise PayloadTooLarge(
                f"The layer has more than {self._limits.layer_bytes_max} bytes.",
                next_step="Ask for smaller packages, or raise [packages] layer_bytes_max.",
            )
        try:
            data = self._packed.read(size)
        except _BROKEN as error:
            raise _refused("", f"cannot be unpacked: {error}") from error
        if len(data) != size:
            raise _refused("", "ends too early")
        return data

    def pieces(self, size: int) -> Iterator[bytes]:
        """`size` bytes in pieces, and past the padding after them."""
        left = size
        while left:
            piece = self.take(min(left, _PIECE_BYTES))
            left -= len(piece)
            yield piece
        self.take(-size % _BLOCK)


def _walk(root: str) -> Iterator[str]:
    """Everything below `root` in one order, relative to it, folders before what is in them."""
    for folder, names, files in os.walk(root):
        names.sort()
        inside = os.path.relpath(folder, root)
        prefix = "" if inside == "." else f"{inside}/"
        links = [name for name in names if os.path.islink(os.path.join(folder, name))]
        for name in sorted([*files, *links]):
            yield prefix + name
        for name in names:
            if name not in links:
                yield prefix + name


def _add(archive: tarfile.TarFile, root: str, relative: str) -> None:
    full = os.path.join(root, relative)
    found = os.lstat(full)
    member = tarfile.TarInfo(relative)
    member.mtime = int(found.st_mtime)
    if stat.S_ISDIR(found.st_mode):
        member.type, member.mode = tarfile.DIRTYPE, 0o555
        archive.addfile(member)
    elif stat.S_ISLNK(found.st_mode):
        member.type, member.linkname = tarfile.SYMTYPE, os.readlink(full)
        archive.addfile(member)
    elif stat.S_ISREG(found.st_mode):
        member.size = found.st_size
        member.mode = 0o555 if found.st_mode & stat.S_IXUSR else 0o444
        with open(full, "rb") as file:
            archive.addfile(member, file)
    else:
        raise _refused(relative, "is no file, folder or link")


def _entries(reader: _Reader) -> Iterator[_Entry]:
    """Headers as they come. The content of a file is read before the next one is asked for."""
    long: dict[bytes, str] = {}
    while (block := reader.take(_BLOCK)).strip(b"\0"):
        try:
            member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except _BROKEN as error:
            raise _refused("", f"cannot be read: {error}") from error
        if member.type in _LONG:
            if not 0 < member.size <= PATH_BYTES_MAX + 1:
                raise _refused("", "has too long a name")
            name = b"".join(reader.pieces(member.size)).rstrip(b"\0")
            long[member.type] = name.decode("utf-8", "surrogateescape")
            continue
        path = long.pop(tarfile.GNUTYPE_LONGNAME, member.name).removesuffix("/")
        target = long.pop(tarfile.GNUTYPE_LONGLINK, member.linkname)
        yield _checked(member, path, target)


def _checked(member: tarfile.TarInfo, path: str, target: str) -> _Entry:
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in path:
        raise _refused(path, "leaves the layer's folder")
    if len(os.fsencode(path)) > PATH_BYTES_MAX or any(
        len(os.fsencode(part)) > NAME_BYTES_MAX for part in parts
    ):
        raise _refused(path, "has too long a name")
    if member.type == tarfile.SYMTYPE:
        _check_target(path, target)
    elif member.type not in (tarfile.REGTYPE, tarfile.DIRTYPE):
        raise _refused(path, "is no file, folder or link")
    if member.size < 0 or (member.size and member.type != tarfile.REGTYPE):
        raise _refused(path, "has an impossible size")
    if not 0 <= member.mtime < _TIME_MAX:
        raise _refused(path, "has an impossible time")
    return _Entry(
        path=path,
        kind=member.type,
        size=member.size,
        executable=bool(member.mode & stat.S_IXUSR),
        changed_at_s=int(member.mtime),
        target=target,
    )


def _check_target(path: str, target: str) -> None:
    """A link may go up only at its beginning and never above the layer.

    Up after down could mean another folder than it says, where the way down is a link itself.
    """
    parts = target.split("/")
    ups = 0
    while ups < len(parts) and parts[ups] == "..":
        ups += 1
    inside = ups <= path.count("/")
    if not target or target.startswith("/") or "\0" in target or not inside:
        raise _refused(path, "is a link that leaves the layer's folder")
    if ".." in parts[ups:] or len(os.fsencode(target)) > PATH_BYTES_MAX:
        raise _refused(path, "is a link that is not plain")


def _write(
    reader: _Reader, entry: _Entry, root: str, folders: set[str]
) -> dict[str, tuple[int, int]]:
    full = os.path.join(root, entry.path)
    try:
        if entry.kind == tarfile.DIRTYPE:
            os.mkdir(full, 0o755)
            folders.add(entry.path)
            return {}
        if entry.kind == tarfile.SYMTYPE:
            os.symlink(entry.target, full)
            return {}
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        handle = os.open(full, flags, 0o600)
    except FileExistsError:
        raise _refused(entry.path, "is there twice") from None
    crc = 0
    with open(handle, "wb") as file:
        for piece in reader.pieces(entry.size):
            crc = zlib.crc32(piece, crc)
            file.write(piece)
        file.flush()
        os.fchmod(handle, 0o555 if entry.executable else 0o444)
        os.utime(handle, (entry.changed_at_s, entry.changed_at_s))
    return {entry.path: (entry.size, crc)}


def _refused(path: str, why: str) -> PackageDamaged:
    what = f"Its entry {ascii(path)[1:-1][:200]}" if path else "It"
    return PackageDamaged(
        f"The packed layer is not one that Pratai made. {what} {why}.",
        next_step="Deploy the function again: its dependencies are then resolved anew.",
    )


def _too_many(limits: Limits) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"The layer has more than {limits.layer_files_max} files.",
        next_step="Ask for fewer packages, or raise [packages] layer_files_max.",
    )
