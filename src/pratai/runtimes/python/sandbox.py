"""Closing the sandbox around this process, from a description that the driver made.

The one place of the runtime that knows mounts, user ids and limits. Called in a freshly forked,
single-threaded child before any user code is imported. Which parts are on is data (`box`), worked
out by `driver/process/sandbox.py`; a part that was asked for and fails ends the process.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_NOATIME, _MS_NODIRATIME = 32, 1024, 2048
_MS_BIND, _MS_REC, _MS_PRIVATE, _MS_RELATIME = 4096, 16384, 1 << 18, 1 << 21
_TMP_FLAGS = _MS_NOSUID | _MS_NODEV
_CAPABILITY_VERSION_3 = 0x20080522

#: One of these becomes the folder where a sandbox finds its own things: every Linux has them,
#: functions need none of them.
_HOLDERS = ("/mnt", "/media", "/srv")
_SMALL = "mode=0755,size=64k"


def become_subreaper() -> None:
    """Orphans below this process become its children."""
    _prctl(_PR_SET_SUBREAPER, 1)


def die_with(parent: int) -> None:
    """Be killed when the parent ends. Must come after every change of user id, which undoes it."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def close_version(spec: dict[str, Any], tmp_name: str) -> None:
    """First half, the same for all instances of a version: what it sees, and as whom it runs.

    `tmp_name`: the private directory to use for `/tmp` meanwhile, "" to leave that to
    `close_instance`. Changes paths in `spec` to those inside.
    """
    box = spec["box"]
    if box["alone"] and not box["mounts"]:
        raise OSError("network = none needs namespaces, which this machine does not permit")
    if box["mounts"]:
        _enter_view(spec)
        if tmp_name:
            _mount(f"{box['instances_dir']}/{tmp_name}", "/tmp", "", _MS_BIND | _TMP_FLAGS)
    for name, limit in box["limits"].items():
        _limit(getattr(resource, name), limit)
    if box["uid"]:
        uid = box["uid"]
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        # Changing the user made /proc/self root's; own namespaces are set up through it.
        _prctl(_PR_SET_DUMPABLE, 1)
    _drop_capabilities()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def close_instance(spec: dict[str, Any], name: str) -> None:
    """Second half: a private `/tmp` and limits that siblings do not share."""
    box = spec["box"]
    instances_dir = box["instances_dir"]
    if box["mounts"] == "user":
        _unshare_user()
        _mount(f"{instances_dir}/{name}", "/tmp", "", _MS_BIND | _TMP_FLAGS)
        _mount("tmpfs", instances_dir, "tmpfs", _MS_RDONLY | _TMP_FLAGS, "mode=0755,size=4k")
        _drop_capabilities()
    if box["processes_max"]:
        # After the user namespace: it counts processes by itself, so siblings are not counted.
        _limit(resource.RLIMIT_NPROC, box["processes_max"])


def tmp_dir(spec: dict[str, Any], name: str) -> str:
    """Where the private directory `name` is found from inside."""
    return "/tmp" if spec["box"]["mounts"] else os.path.join(spec["box"]["instances_dir"], name)


def _enter_view(spec: dict[str, Any]) -> None:
    """A mount namespace with code and dependencies read-only, at paths open to everybody.

    Paths that only root may walk to (a data directory or an interpreter below /root) are bound to
    where the function's own user reaches them.
    """
    box = spec["box"]
    blocked, prefix = box["blocked_parent"], box["prefix"]
    sources = (spec["code_dir"], spec["layer_dir"], box["instances_dir"], prefix)
    alone = _CLONE_NEWNET if box["alone"] else 0
    holder = next(h for h in _HOLDERS if not any(_is_under(s, h) for s in sources))
    if box["uid"]:
        _check(_libc.unshare(_CLONE_NEWNS | alone), "unshare")
        _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    else:
        _unshare_user(alone)
    _mount("tmpfs", holder, "tmpfs", _TMP_FLAGS, _SMALL)
    for key in ("code_dir", "layer_dir"):
        if spec[key]:
            inside = f"{holder}/{'task' if key == 'code_dir' else 'layer'}"
            _bind(spec[key], inside, read_only=True)
            spec[key] = inside
    _bind(box["instances_dir"], f"{holder}/instances", read_only=False)
    box["instances_dir"] = f"{holder}/instances"
    if blocked:
        _bind(prefix, f"{holder}/prefix", read_only=True)
        _mount("tmpfs", blocked, "tmpfs", _TMP_FLAGS, _SMALL)
        _bind(f"{holder}/prefix", prefix, read_only=True)


def _is_under(path: str, parent: str) -> bool:
    return path.startswith(parent + "/")


def _drop_capabilities() -> None:
    """Give up every capability, as those that come with a new user namespace."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    none = (ctypes.c_uint32 * 6)()
    _check(_libc.capset(header, none), "capset")


def _limit(kind: int, limit: int) -> None:
    if kind == resource.RLIMIT_DATA:
        limit += _data_bytes()
    _, hard = resource.getrlimit(kind)
    if hard not in (resource.RLIM_INFINITY, -1):
        limit = min(limit, hard)
    resource.setrlimit(kind, (limit, limit))


def _data_bytes() -> int:
    """Private writable memory that this process has already, inherited from its zygote."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[5]) * resource.getpagesize()


def _unshare_user(more: int = 0) -> None:
    """Mounts (and `more`) of its own for a process without privileges, by a user namespace."""
    uid, gid = os.getuid(), os.getgid()
    _check(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWUSER | more), "unshare")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY)
        os.write(descriptor, text.encode())
        os.close(descriptor)
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE)


def _bind(source: str, target: str, *, read_only: bool) -> None:
    os.makedirs(target, exist_ok=True)
    _mount(source, target, "", _MS_BIND)
    if read_only:
        flags = _kept_flags(target) | _MS_NOSUID | _MS_NODEV
        _mount("none", target, "", _MS_BIND | _MS_REMOUNT | _MS_RDONLY | flags)


def _kept_flags(path: str) -> int:
    """Flags of a mount that a user namespace may not take away when it remounts."""
    now = os.statvfs(path).f_flag
    kept = now & (_MS_NOSUID | _MS_NODEV | _MS_NOEXEC | _MS_NOATIME | _MS_NODIRATIME)
    return kept | (_MS_RELATIME if now & 4096 else 0)


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    result = _libc.mount(
        source.encode(),
        target.encode(),
        kind.encode() or None,
        ctypes.c_ulong(flags),
        data.encode() or None,
    )
    _check(result, f"mount {source} on {target}")


def _prctl(option: int, value: int) -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"prctl {option}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
