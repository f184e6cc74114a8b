"""A real Docker engine of the tests' own: started in a temporary directory, gone without a trace.

The base image is made once by `debootstrap` from the machine's own mirror and kept in the user's
cache; no image registry is needed. What the engine changes of the machine's network is undone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pratai.driver.docker.engine import Engine
from pratai.driver.docker.images import build_runtime, build_seed
from pratai.driver.docker.rootfs import make_rootfs
from pratai.runtimes import catalog

BASE = "pratai-test/base:1"
START_S_MAX = 30.0
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pratai"
_ROOTFS = _CACHE / "test-rootfs-1.tar"
#: Python is in the base, so that no test waits for its installation.
_INCLUDED = ("python3", "ca-certificates")


class DockerEngine:
    """One dockerd over one directory; may be killed and started again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "sock"
        self.process: subprocess.Popen[bytes] | None = None
        #: Links of the machine that its networks had at the end.
        self.bridges: set[str] = set()

    @property
    def host(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        (self.directory / "pid").unlink(missing_ok=True)
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    "dockerd",
                    f"--data-root={self.directory}/root",
                    f"--exec-root={self.directory}/exec",
                    f"--pidfile={self.directory}/pid",
                    f"--host={self.host}",
                    "--containerd-namespace=pratai-test",
                    "--containerd-plugins-namespace=pratai-test-plugins",
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        limit = time.monotonic() + START_S_MAX
        while self.docker("version", check=False).returncode != 0:
            if self.process.poll() is not None or time.monotonic() > limit:
                raise AssertionError(f"dockerd did not start:\n{self.log()[-3000:]}")
            time.sleep(0.02)

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def docker(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """The engine as its own command line sees it: what tests compare ours with."""
        done = subprocess.run(
            ["docker", "-H", self.host, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0 or not check, done.stderr
        return done

    def made_bridges(self) -> set[str]:
        """Links that its networks have, but for the one that every engine has."""
        listed = self.docker("network", "ls", "-q", "--filter", "driver=bridge", check=False)
        return {f"br-{network_id}" for network_id in listed.stdout.split()}

    def names(self) -> list[str]:
        """Every container, running or not."""
        return self.docker("ps", "-a", "--format", "{{.Names}}").stdout.split()


@contextlib.contextmanager
def docker_engine() -> Iterator[DockerEngine]:
    """An engine with the base image and the image of the Python runtime."""
    missing = [name for name in ("dockerd", "docker", "debootstrap") if not shutil.which(name)]
    if os.geteuid() != 0 or missing:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up(f"needs root and {', '.join(missing) or 'nothing else'}")
    directory = Path(tempfile.mkdtemp(prefix="pratai-dockerd-"))
    engine = DockerEngine(directory)
    with _network_kept(lambda: engine.bridges):
        try:
            engine.start()
            _make_images(engine)
            yield engine
        finally:
            for name in engine.docker("ps", "-aq", check=False).stdout.split():
                engine.docker("rm", "-f", name, check=False)
            engine.bridges |= engine.made_bridges()
            engine.docker("network", "prune", "-f", check=False)
            engine.stop()
            _unmount_below(directory)
            shutil.rmtree(directory, ignore_errors=True)


def _make_images(engine: DockerEngine) -> None:
    asyncio.run(_ensure_rootfs())
    engine.docker("import", str(_ROOTFS), BASE)
    asyncio.run(build_images(engine.host))


async def build_images(host: str) -> None:
    """The seed and the runtime, as `pratai runtimes build --base` makes them."""
    engine = Engine(host, timeout_ms=30_000, build_timeout_ms=120_000)
    try:
        await build_seed(engine, base=BASE, progress=_ignore)
        await build_runtime(engine, catalog.default_runtime(), progress=_ignore)
    finally:
        await engine.close()


async def _ensure_rootfs() -> None:
    if _ROOTFS.exists():
        return
    _CACHE.mkdir(parents=True, exist_ok=True)
    part = _ROOTFS.with_suffix(f".{os.getpid()}")
    try:
        await make_rootfs(str(part), include=_INCLUDED, progress=_ignore)
        part.rename(_ROOTFS)
    finally:
        part.unlink(missing_ok=True)


def _ignore(line: str) -> None:
    """Progress that nobody watches."""


@contextlib.contextmanager
def _network_kept(bridges: Callable[[], set[str]]) -> Iterator[None]:
    """The engine drops what is forwarded and adds bridges and rules; afterwards it is as before.

    Where another engine runs beside this one, the rules are both of theirs: they are left alone.
    """
    alone = not _other_engines()
    policy, before, links = _policy(), _rules(), _links()
    forwarding = Path("/proc/sys/net/ipv4/ip_forward").read_text()
    try:
        yield
    finally:
        alone = alone and not _other_engines()
        for link in _links() - links:
            if link in bridges() or (alone and link == "docker0"):
                _run("ip", "link", "delete", link)
        if alone:
            restored = subprocess.run(
                ["iptables-restore"], input=before, text=True, capture_output=True, check=False
            )
            if restored.returncode != 0 or _policy() != policy:
                _run("iptables", "-P", "FORWARD", policy)
            Path("/proc/sys/net/ipv4/ip_forward").write_text(forwarding)


def _other_engines() -> bool:
    """Whether a dockerd runs; asked while that of the tests does not."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{name}/comm").read_text().strip() == "dockerd":
                    return True
    return False


def _policy() -> str:
    for line in _run("iptables", "-S", "FORWARD").splitlines():
        if line.startswith("-P FORWARD "):
            return line.split()[2]
    return "ACCEPT"


def _rules() -> str:
    """Every table in full, those that are empty before included: restoring removes what came."""
    saved = _run("iptables-save")
    for table, chains in (
        ("filter", ("INPUT", "FORWARD", "OUTPUT")),
        ("nat", ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING")),
    ):
        if f"*{table}" not in saved:
            lines = "".join(f":{chain} ACCEPT [0:0]\n" for chain in chains)
            saved += f"*{table}\n{lines}COMMIT\n"
    return saved


def _links() -> set[str]:
    lines = _run("ip", "-brief", "link").splitlines()
    return {line.split()[0].partition("@")[0] for line in lines if line.strip()}


def _unmount_below(directory: Path) -> None:
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    below = [line.split()[1] for line in mounts if line.split()[1].startswith(f"{directory}/")]
    for path in sorted(below, reverse=True):
        _run("umount", "-l", path)


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
