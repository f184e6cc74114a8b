"""Processes of the local cluster: started apart from us, found again, stopped for certain.

Every command line holds the cluster's folder, so that a process id of old is never mistaken.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

LOOK_S = 0.05
LOG_LINES_SHOWN = 12
#: How the names of programs begin that a cluster starts.
PROGRAMS = ("python", "pratai", "nginx:", "java", "dockerd", "containerd", "runc", "docker-")


class ClusterProblem(Exception):
    """The cluster cannot be started or found; the sentence says why."""


@dataclass
class Member:
    """One process, or one node of Elasticsearch."""

    name: str
    pid: int
    log: str
    #: Where it is reached over HTTP; "" = it is not.
    url: str = ""
    ready_file: str = ""
    #: How it was started; empty for what cannot be started again alone.
    command: list[str] = field(default_factory=list)

    def is_running(self, folder: Path) -> bool:
        """Whether this very process lives."""
        return str(folder) in command_line(self.pid)

    def ready(self) -> dict[str, Any]:
        """What it wrote once it served; empty before."""
        with contextlib.suppress(FileNotFoundError):
            told: dict[str, Any] = json.loads(Path(self.ready_file).read_text())
            return told
        return {}

    @property
    def has_readiness(self) -> bool:
        """Whether it answers `/readyz`: the platform's processes, and nginx for them."""
        return bool(self.url) and not self.name.startswith("elasticsearch")

    def is_ready(self) -> bool:
        """Whether it says that it does its work."""
        try:
            urllib.request.urlopen(f"{self.url}/readyz", timeout=5).close()
        except OSError:
            return False
        return True

    def said(self) -> str:
        """The end of its log."""
        with contextlib.suppress(FileNotFoundError):
            lines = Path(self.log).read_text(errors="replace").splitlines()
            return "\n".join(lines[-LOG_LINES_SHOWN:])
        return ""


def has_ended(pid: int) -> bool:
    """Whether a process that we started is gone; its command line is empty while it is started."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("latin-1").rpartition(") ")[2].startswith("Z")
    except (FileNotFoundError, ProcessLookupError):
        return True


def command_line(pid: int) -> str:
    """How a process was started; "" when there is none, or it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def start(
    folder: Path,
    name: str,
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    ready_file: str = "",
) -> Member:
    """Start a process that goes on when we end."""
    log = folder / "logs" / f"{name}.log"
    log.parent.mkdir(exist_ok=True)
    if ready_file:
        Path(ready_file).unlink(missing_ok=True)
    with log.open("ab") as written:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=written,
            cwd=folder,
            env=None if environment is None else dict(environment),
            start_new_session=True,
        )
    return Member(
        name=name, pid=process.pid, log=str(log), ready_file=ready_file, command=list(command)
    )


def await_ready(members: Iterable[Member], limit_s: float) -> None:
    """Wait until each has written its ready file."""
    limit = time.monotonic() + limit_s
    for member in members:
        while not member.ready():
            reap()
            if has_ended(member.pid):
                raise ClusterProblem(f"{member.name} ended while it started:\n{member.said()}")
            if time.monotonic() > limit:
                raise ClusterProblem(
                    f"{member.name} did not serve within {limit_s:.0f} s:\n{member.said()}"
                )
            time.sleep(LOOK_S)
        member.url = member.url or member.ready().get("url", "")


def stop(folder: Path, members: Sequence[Member], limit_s: float) -> list[str]:
    """SIGTERM, then SIGKILL to those that stay; the names of those that had to be killed."""
    for member in members:
        if member.is_running(folder):
            _signal(member.pid, signal.SIGTERM)
    limit = time.monotonic() + limit_s
    while any(member.is_running(folder) for member in members) and time.monotonic() < limit:
        reap()
        time.sleep(LOOK_S)
    left = [member for member in members if member.is_running(folder)]
    for member in left:
        _signal(member.pid, signal.SIGKILL)
    return [member.name for member in left]


def end_leftovers(folder: Path) -> list[int]:
    """SIGKILL to programs of ours that still work over the folder and are no members: instances."""
    own = {os.getpid(), os.getppid()}
    pids = {int(name) for name in os.listdir("/proc") if name.isdigit()} - own
    found = [pid for pid in pids if _is_ours(command_line(pid), folder)]
    for pid in found:
        _signal(pid, signal.SIGKILL)
    return found


def _is_ours(command: str, folder: Path) -> bool:
    program = os.path.basename(command.partition("\0")[0])
    return program.startswith(PROGRAMS) and f"{folder}/" in command


def reap() -> None:
    """Take note of children that ended, so that they are not taken for running ones."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def as_json(members: Iterable[Member]) -> list[dict[str, Any]]:
    """For the state file."""
    return [asdict(member) for member in members]
