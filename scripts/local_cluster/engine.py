"""A Docker engine of the local cluster's own: its socket, images and containers in its folder.

Nothing of an engine that the machine may have is touched. Needs root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from members import LOOK_S, ClusterProblem, Member, reap, start

START_S_MAX = 30.0


def is_possible() -> bool:
    """Whether an engine can be started here."""
    return os.getuid() == 0 and shutil.which("dockerd") is not None


def socket(folder: Path) -> Path:
    """Where the engine listens."""
    return folder / "docker" / "sock"


def start_engine(folder: Path) -> Member:
    """Start an engine and wait until it answers."""
    where = folder / "docker"
    where.mkdir(exist_ok=True)
    command = ["dockerd", "--data-root", f"{where}/root", "--exec-root", f"{where}/exec"]
    command += ["--pidfile", f"{where}/pid", "-H", f"unix://{socket(folder)}"]
    # Functions of this cluster use the host's network or none; so the engine leaves the host's
    # firewall and bridges alone.
    command += ["--iptables=false", "--bridge=none"]
    member = start(folder, "dockerd", command)
    limit = time.monotonic() + START_S_MAX
    while not _answers(folder):
        reap()
        if not member.is_running(folder) or time.monotonic() > limit:
            raise ClusterProblem(f"dockerd did not start:\n{member.said()}")
        time.sleep(LOOK_S)
    return member


def unmount(folder: Path) -> None:
    """Undo mounts that an engine or a sandbox left below the folder."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4].encode().decode("unicode_escape") for line in mounts]
    for point in sorted((one for one in points if one.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)


def _answers(folder: Path) -> bool:
    done = subprocess.run(
        ["docker", "-H", f"unix://{socket(folder)}", "version"], capture_output=True, check=False
    )
    return done.returncode == 0
