"""A root file system of Debian without any image registry, by `debootstrap`.

Which mirror and release is read from the machine's own package sources when it is needed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator

import msgspec

from pratai.errors import PlatformError

#: Called with each line of progress.
Progress = Callable[[str], None]

_LISTS = "/etc/apt/sources.list"
_LISTS_DIR = "/etc/apt/sources.list.d"
_OS_RELEASE = "/etc/os-release"
#: What no function needs, and what belongs to a running machine.
_LEFT_OUT = (
    "./dev/*",
    "./var/cache/apt/*",
    "./var/lib/apt/lists/*",
    "./var/log/*",
    "./usr/share/doc/*",
    "./usr/share/man/*",
    "./usr/share/locale/*",
)
_LINES_KEPT = 20


class Mirror(msgspec.Struct, frozen=True, kw_only=True):
    """Where packages come from."""

    url: str
    #: Release, e.g. `bookworm`.
    suite: str


def find_mirror() -> Mirror:
    """The mirror and release that this machine installs from.

    Raises:
        PlatformError: it is not a Debian-like machine.

    """
    suite = _codename()
    for url, suites in _sources():
        if suite and suite in suites:
            return Mirror(url=url, suite=suite)
    raise PlatformError(
        "no package source of this machine's own release was found",
        next_step="Build from an existing image with --base, e.g. --base debian:12-slim.",
    )


async def make_rootfs(target: str, *, include: tuple[str, ...] = (), progress: Progress) -> None:
    """Write a minimal system as a tar archive to `target`; `include` names further packages.

    Raises:
        PlatformError: a program or a right is missing, or the mirror does not answer.

    """
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        raise PlatformError(
            "making a base image needs root and the program debootstrap",
            next_step="Install debootstrap and run as root, or build from an existing image "
            "with --base.",
        )
    mirror = find_mirror()
    folder = tempfile.mkdtemp(prefix="pratai-rootfs-")
    try:
        command = ["debootstrap", "--variant=minbase"]
        if include:
            command.append(f"--include={','.join(include)}")
        await _run([*command, mirror.suite, folder, mirror.url], progress)
        left_out = [f"--exclude={pattern}" for pattern in _LEFT_OUT]
        await _run(
            ["tar", "-C", folder, "--numeric-owner", *left_out, "-cf", target, "."], progress
        )
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def _run(command: list[str], progress: Progress) -> None:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    last: list[str] = []
    try:
        async for line in process.stdout:
            text = line.decode("utf-8", "replace").strip()
            last = [*last[1 - _LINES_KEPT :], text]
            progress(text)
        status = await process.wait()
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    if status != 0:
        raise PlatformError(
            f"{command[0]} ended with status {status}: {' | '.join(last[-3:])}",
            next_step="Look at what it wrote, and at this machine's network.",
        )


def _codename() -> str:
    for line in _lines(_OS_RELEASE):
        name, _, value = line.partition("=")
        if name == "VERSION_CODENAME":
            return value.strip('"')
    return ""


def _sources() -> Iterator[tuple[str, list[str]]]:
    """(URL, its suites) of every binary source, in both of apt's formats."""
    names = [_LISTS]
    if os.path.isdir(_LISTS_DIR):
        names += [os.path.join(_LISTS_DIR, name) for name in sorted(os.listdir(_LISTS_DIR))]
    for name in names:
        if name.endswith(".sources"):
            yield from _stanzas(name)
        elif name.endswith(".list"):
            for line in _lines(name):
                words = [word for word in line.split() if not word.startswith(("[", "signed-by"))]
                if len(words) > 2 and words[0] == "deb" and words[1].startswith("http"):
                    yield words[1], [words[2]]


def _stanzas(name: str) -> Iterator[tuple[str, list[str]]]:
    fields: dict[str, str] = {}
    for line in [*_lines(name), ""]:
        key, colon, value = line.partition(":")
        if colon and not line.startswith(("#", " ")):
            fields[key.lower()] = value.strip()
        elif not line.strip() and fields:
            for url in fields.get("uris", "").split():
                if url.startswith("http") and "deb" in fields.get("types", "deb").split():
                    yield url, fields.get("suites", "").split()
            fields = {}


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return []
