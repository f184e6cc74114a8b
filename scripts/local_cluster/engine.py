"""The Docker engine of the local cluster: one of its own in its folder, gone without a trace.

Where the machine runs an engine already, that one is used, and only images stay behind. Runtime
images are made once for each state of `src/pratai/runtimes` and kept in the cache. Needs root.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

from members import LOOK_S, ClusterProblem, Member, command_line, has_ended, reap, start

from elasticsearch_cluster import cache_dir

START_S_MAX = 30.0
IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
USUAL_SOCKET = Path("/var/run/docker.sock")
RUNTIMES = Path(__file__).resolve().parents[2] / "src" / "pratai" / "runtimes"
#: What marks firewall rules as an engine's.
MARKS = ("DOCKER", "docker0", "-i br-", "-o br-")


class Engine:
    """One engine, over a folder or the machine's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "docker"
        self.cluster_folder = folder

    @property
    def is_shared(self) -> bool:
        """Whether the machine's own engine is used."""
        return not self.folder.exists() and _answers(USUAL_SOCKET)

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return USUAL_SOCKET if self.is_shared else self.folder / "sock"

    @property
    def host(self) -> str:
        """The same as a URL."""
        return f"unix://{self.socket}"

    def start(self) -> Member | None:
        """Start it and wait until it answers; None where the machine's own is used."""
        if self.is_shared:
            return None
        self.folder.mkdir()
        (self.folder / "network.json").write_text(json.dumps(_network()))
        command = ["dockerd", f"--data-root={self.folder}/root", f"--exec-root={self.folder}/exec"]
        command += [f"--pidfile={self.folder}/pid", f"--host={self.host}"]
        command += ["--containerd-namespace=pratai-cluster"]
        command += ["--containerd-plugins-namespace=pratai-cluster-plugins"]
        member = start(self.cluster_folder, "dockerd", command)
        limit = time.monotonic() + START_S_MAX
        while not _answers(self.socket):
            reap()
            if has_ended(member.pid) or time.monotonic() > limit:
                raise ClusterProblem(f"dockerd did not start:\n{member.said()}")
            time.sleep(LOOK_S)
        return member

    def bring_images(self, build: Callable[[], None]) -> None:
        """Make the runtime images, or take them out of the cache."""
        kept = cache_dir() / f"runtime-images-{_runtimes_digest()}.tar"
        if kept.exists():
            self._docker("load", "--input", str(kept))
            return
        build()
        names = self._docker(
            "images", "--filter=label=pratai.image", "--format={{.Repository}}:{{.Tag}}"
        )
        part = kept.with_suffix(f".{os.getpid()}")
        self._docker("save", "--output", str(part), *names.split())
        for earlier in cache_dir().glob("runtime-images-*.tar"):
            earlier.unlink()
        part.rename(kept)

    def bridges(self) -> list[str]:
        """The bridges that it made, while it runs; none of those of the machine's engine."""
        if not self.folder.exists() or not _answers(self.socket):
            return []
        listed = ["network", "ls", "--no-trunc", "--filter=driver=bridge", "--format={{.ID}}"]
        return ["docker0", *(f"br-{one[:12]}" for one in self._docker(*listed).split())]

    def forget(self, bridges: list[str]) -> None:
        """After it ended: undo mounts, bridges and firewall rules that it left."""
        unmount(self.cluster_folder)
        state = self.folder / "network.json"
        if state.exists():
            _restore(json.loads(state.read_text()), bridges)

    def _docker(self, *arguments: str) -> str:
        done = subprocess.run(
            ["docker", "-H", self.host, *arguments], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise ClusterProblem(f"docker {arguments[0]}: {done.stderr.strip()}")
        return done.stdout


def is_possible() -> bool:
    """Whether an engine can be started or used here."""
    return os.getuid() == 0 and shutil.which("dockerd") is not None


def unmount(folder: Path) -> None:
    """Undo mounts below a folder."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    points = [line.split()[1].replace("\\040", " ") for line in mounts]
    for point in sorted((one for one in points if one.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)


def _answers(socket: Path) -> bool:
    command = ["docker", "-H", f"unix://{socket}", "version"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _runtimes_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(RUNTIMES.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(str(path.relative_to(RUNTIMES)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


# the machine's network


class Network(TypedDict):
    """What an engine changes of the machine's network, as it was before."""

    links: list[str]
    rules: list[str]
    forward: str
    ip_forward: str


def _network() -> Network:
    return {
        "links": _links(),
        "rules": _run("iptables-save").splitlines(),
        "forward": _forward_policy(),
        "ip_forward": IP_FORWARD.read_text(),
    }


def _restore(before: Network, bridges: list[str]) -> None:
    """Remove what came with this engine; what others changed meanwhile stays."""
    for link in bridges:
        if link in _links() and link not in before["links"]:
            _run("ip", "link", "delete", link)
    if _engines_running():
        return
    kept = [line for line in _run("iptables-save").splitlines() if not _is_added(line, before)]
    rules = "\n".join([*kept, ""])
    subprocess.run(["iptables-restore"], input=rules, text=True, capture_output=True, check=False)
    _run("iptables", "-P", "FORWARD", before["forward"])
    with contextlib.suppress(OSError):
        IP_FORWARD.write_text(before["ip_forward"])


def _is_added(line: str, before: Network) -> bool:
    return line not in before["rules"] and any(mark in line for mark in MARKS)


def _engines_running() -> bool:
    """Whether other engines run, whose rules cannot be told from this one's."""
    pids = [name for name in os.listdir("/proc") if name.isdigit()]
    return any(os.path.basename(command_line(int(pid)).split("\0")[0]) == "dockerd" for pid in pids)


def _links() -> list[str]:
    lines = _run("ip", "-brief", "link").splitlines()
    return [line.split()[0].partition("@")[0] for line in lines if line.strip()]


def _forward_policy() -> str:
    for line in _run("iptables", "-S", "FORWARD").splitlines():
        if line.startswith("-P FORWARD "):
            return line.split()[2]
    return "ACCEPT"


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
