"""The sandbox of the process driver as data: which walls stand on this machine, for which instance.

The walls themselves are raised by the runtime in the child (`runtimes/python/sandbox.py`). What a
machine does not permit is left out and named in `Walls.degraded`.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys

import msgspec

from pratai.config.schema import Driver as DriverConfig
from pratai.driver.base import InstanceSpec
from pratai.driver.box import SandboxSpec, limits
from pratai.driver.process.reachable import blocked_parent

_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
#: Since Linux 5.14 the processes of a user namespace are counted by themselves.
_COUNTS_BY_NAMESPACE = (5, 14)
_PROBED_UID = 65_534


class Walls(msgspec.Struct, frozen=True, kw_only=True):
    """What can be put around an instance here."""

    #: Functions run under user ids of their own.
    own_user: bool
    #: "user": private /tmp through a user namespace; "root": made as root; "": none.
    mounts: str
    #: Top directory that keeps other users from the interpreter; "" if none does.
    blocked_parent: str
    #: Directory of the interpreter with its standard library.
    prefix: str
    #: What is missing, one sentence each.
    degraded: list[str] = []


def probe() -> Walls:
    """Try what this machine permits, in children that end at once."""
    root = os.geteuid() == 0
    degraded: list[str] = []
    user_namespaces = _succeeds(_CLONE_NEWNS | _CLONE_NEWUSER, uid=_PROBED_UID if root else 0)
    mounts = "user" if user_namespaces else ""
    if root and not _succeeds(_CLONE_NEWNS, uid=0):
        mounts = ""
    elif root and not user_namespaces:
        mounts = "root"
        degraded.append(
            "user namespaces are not permitted: every instance imports its module by itself"
        )
    if not mounts:
        degraded.append("mount namespaces are not permitted: /tmp is shared by all functions")
    if not root:
        degraded.append("not root: functions run as the user that the platform runs as")
    degraded.append("no cgroups: memory is limited for each process, processor time is not")
    degraded.append("no process namespaces: functions see other processes")
    degraded.append("networks are shared with the host, but for functions with network = none")
    prefix = os.path.realpath(sys.base_prefix)
    return Walls(
        own_user=root,
        mounts=mounts,
        blocked_parent=blocked_parent(prefix) if root else "",
        prefix=prefix,
        degraded=degraded,
    )


def describe(
    walls: Walls, spec: InstanceSpec, config: DriverConfig, *, uid: int, instances_dir: str
) -> SandboxSpec:
    """The sandbox for an instance of this version."""
    counted = walls.own_user or (walls.mounts == "user" and _kernel() >= _COUNTS_BY_NAMESPACE)
    return SandboxSpec(
        mounts=walls.mounts,
        alone=spec.version.config.network == "none",
        uid=uid,
        instances_dir=instances_dir,
        prefix=walls.prefix,
        blocked_parent=walls.blocked_parent,
        limits=limits(spec, files_max=config.files_max),
        processes_max=config.processes_max if counted else 0,
        files_max=config.files_max,
    )


def _kernel() -> tuple[int, int]:
    major, minor = platform.release().split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()) or 0)


def _succeeds(flags: int, *, uid: int) -> bool:
    """Whether a child under `uid` (0 = as we are) may unshare these namespaces."""
    libc = ctypes.CDLL(None, use_errno=True)
    pid = os.fork()
    if pid == 0:
        try:
            if uid:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                libc.prctl(4, ctypes.c_ulong(1), 0, 0, 0)
            failed = libc.unshare(flags) != 0
            if not failed and flags & _CLONE_NEWUSER:
                # No open(): its codec may be where this user cannot read.
                os.write(os.open("/proc/self/setgroups", os.O_WRONLY), b"deny")
            if not failed:
                failed = libc.mount(b"none", b"/", None, ctypes.c_ulong(16384 | 1 << 18), None) != 0
            os._exit(1 if failed else 0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
