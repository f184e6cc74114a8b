"""Make a package on the owner's machine: a file as it is, or a folder as a zip.

The same folder gives the same bytes, hence the same digest: sorted, without times, owners or odd
modes. What is never part of a function (version control, virtual environments, caches) stays out,
as does what `.pratai-ignore` names, in the manner of `.gitignore`.
"""

from __future__ import annotations

import io
import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterator

import msgspec

from pratai.config.schema import Packages as Limits
from pratai.errors import CallerError, InvalidField, PayloadTooLarge
from pratai.packages.archive import Kind, listing

IGNORE_FILE = ".pratai-ignore"
#: Folders and files that are left out wherever they are.
LEFT_OUT = (
    ".git",
    ".hg",
    ".svn",
    ".venv",
    "venv/",
    "__pycache__",
    "node_modules/",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".tox",
    ".nox",
    ".idea",
    ".vscode",
    ".DS_Store",
    "*.pyc",
    "*.egg-info/",
    IGNORE_FILE,
)
CONTENT_TYPES: dict[Kind, str] = {"zip": "application/zip", "source": "text/x-python"}
_EPOCH = (1980, 1, 1, 0, 0, 0)

Progress = Callable[[int, int], None]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What was packed."""

    kind: Kind
    #: Files in the package.
    files: int
    #: Their size before packing.
    bytes: int
    #: Files and folders that were left out.
    left_out: int = 0


class _Rule(msgspec.Struct, frozen=True):
    pattern: re.Pattern[str]
    folders_only: bool
    keep: bool


def pack(
    path: str, *, on_progress: Progress | None = None, limits: Limits | None = None
) -> tuple[bytes, str, Summary]:
    """A `.py` file, a zip or a folder as (bytes, content type, summary).

    `on_progress(bytes_done, bytes_total)` is called as a folder is packed.

    Raises:
        CallerError: there is no such path, or it holds what a package cannot.
        PayloadTooLarge: the folder is above the limits of packages.

    """
    limits = limits or Limits()
    if os.path.isdir(path):
        return _pack_folder(path, on_progress or _ignore, limits)
    try:
        with open(path, "rb") as file:
            data = file.read(limits.unpacked_bytes_max + 1)
    except OSError as error:
        raise InvalidField(
            f"{path} cannot be read: {error.strerror}.",
            next_step="Give a .py file, a folder or a zip that exists.",
            field="path",
            value=path,
            allowed="a .py file, a folder or a zip",
        ) from error
    listed = listing(data, limits)
    size = sum(member.size for member in listed.members)
    summary = Summary(kind=listed.kind, files=len(listed.members), bytes=size)
    return data, CONTENT_TYPES[listed.kind], summary


def _ignore(_done: int, _total: int) -> None:
    """Nobody watches."""


def _pack_folder(root: str, on_progress: Progress, limits: Limits) -> tuple[bytes, str, Summary]:
    left_out = [0]
    files = sorted(_walk(root, _rules(root), left_out, limits))
    if not files:
        raise CallerError(
            f"{root} has no files to pack.", next_step="Give the folder that has the code."
        )
    total = sum(size for _, size in files)
    if total > limits.unpacked_bytes_max:
        raise PayloadTooLarge(
            f"{root} has {total} bytes; a package may have {limits.unpacked_bytes_max}.",
            next_step=f"Name what is not needed in {IGNORE_FILE}.",
            field="path",
            value=total,
            allowed=limits.unpacked_bytes_max,
        )
    buffer, done = io.BytesIO(), 0
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, size in files:
            _add(archive, os.path.join(root, name), name)
            done += size
            on_progress(done, total)
    summary = Summary(kind="zip", files=len(files), bytes=total, left_out=left_out[0])
    return buffer.getvalue(), CONTENT_TYPES["zip"], summary


def _add(archive: zipfile.ZipFile, path: str, name: str) -> None:
    with open(path, "rb") as file:
        content = file.read()
        executable = os.fstat(file.fileno()).st_mode & stat.S_IXUSR
    info = zipfile.ZipInfo(name, _EPOCH)
    info.create_system = 3
    info.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
    archive.writestr(info, content, zipfile.ZIP_DEFLATED, 6)


def _walk(
    root: str, rules: list[_Rule], left_out: list[int], limits: Limits
) -> Iterator[tuple[str, int]]:
    """(path, size) of each file that belongs to the package."""
    count = 0
    pending = [""]
    while pending:
        here = pending.pop()
        with os.scandir(os.path.join(root, here)) as entries:
            for entry in entries:
                name = f"{here}/{entry.name}" if here else entry.name
                is_folder = entry.is_dir()
                if _is_left_out(name, rules, is_folder=is_folder):
                    left_out[0] += 1
                    continue
                if entry.is_symlink():
                    _check_link(root, name, is_folder=is_folder)
                if is_folder:
                    pending.append(name)
                    continue
                if not entry.is_file():
                    raise _unpackable(name, "is not a file")
                count += 1
                if count > limits.files_max:
                    raise PayloadTooLarge(
                        f"{root} has more than {limits.files_max} files.",
                        next_step=f"Name what is not needed in {IGNORE_FILE}.",
                        field="path",
                        allowed=limits.files_max,
                    )
                yield name, entry.stat().st_size


def _check_link(root: str, name: str, *, is_folder: bool) -> None:
    """A link to a file of the same folder is packed as that file; others have no meaning there."""
    target = os.path.realpath(os.path.join(root, name))
    inside = target.startswith(os.path.realpath(root) + os.sep)
    if is_folder or not inside or not os.path.exists(target):
        raise _unpackable(name, "is a link to a folder or out of the package")


def _unpackable(name: str, why: str) -> CallerError:
    return CallerError(
        f"{name} {why}.", next_step=f"Remove it, or name it in {IGNORE_FILE}.", field="path"
    )


def _rules(root: str) -> list[_Rule]:
    lines = list(LEFT_OUT)
    path = os.path.join(root, IGNORE_FILE)
    if os.path.isfile(path):
        with open(path, encoding="utf-8", errors="replace") as file:
            lines += file.read().splitlines()
    stripped = (line.strip() for line in lines)
    return [_rule(line) for line in stripped if line and not line.startswith("#")]


def _rule(line: str) -> _Rule:
    keep = line.startswith("!")
    text = line.removeprefix("!")
    folders_only = text.endswith("/")
    text = text.rstrip("/")
    anchored = "/" in text
    body = _pattern(text.lstrip("/"))
    try:
        pattern = re.compile(body if anchored else f"(?:.*/)?{body}")
    except re.error as error:
        raise CallerError(
            f"{IGNORE_FILE} has the pattern {line!r}, which means nothing: {error}.",
            next_step=f"Mend it in {IGNORE_FILE}.",
        ) from error
    return _Rule(pattern, folders_only, keep)


def _pattern(text: str) -> str:
    """`*` and `?` stay within a name, `**` spans folders, `[...]` is a set."""
    out, index = "", 0
    while index < len(text):
        char = text[index]
        if text.startswith("**/", index):
            out, index = out + "(?:.*/)?", index + 3
            continue
        if text.startswith("**", index):
            out, index = out + ".*", index + 2
            continue
        close = text.find("]", index + 2) if char == "[" else -1
        if close > 0:
            inner = text[index + 1 : close].replace("\\", "\\\\")
            negated = inner.startswith("!")
            out += "[" + ("^" + inner[1:] if negated else inner.replace("^", "\\^")) + "]"
            index = close + 1
            continue
        out += {"*": "[^/]*", "?": "[^/]"}.get(char, re.escape(char))
        index += 1
    return out


def _is_left_out(name: str, rules: list[_Rule], *, is_folder: bool) -> bool:
    """The last rule that matches decides."""
    for rule in reversed(rules):
        if (is_folder or not rule.folders_only) and rule.pattern.fullmatch(name):
            return not rule.keep
    return False
