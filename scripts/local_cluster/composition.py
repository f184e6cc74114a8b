"""The whole picture on one machine, of real parts: what is started, in which order, and ended.

    nginx -> 3 gateways -> scheduler -> 2 nodes (process, docker), an agent, 3 Elasticsearch nodes

Everything is in one folder and listens on loopback; `cluster.json` there says what runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from engine import Engine, is_possible
from members import LOOK_S, ClusterProblem, Member, as_json, await_ready, end_leftovers, start, stop
from nginx import Nginx

from elasticsearch_cluster import Cluster as Elasticsearch

PRATAI = [sys.executable, "-m", "pratai"]
GATEWAYS = 3
START_S_MAX = 60.0
JOIN_S_MAX = 60.0
STOP_S_MAX = 45.0
#: Made from these where they are free.
USUAL_PORTS = {
    "nginx": 9990,
    "gateway": 9996,
    "elasticsearch": 9200,
    "queue": 5557,
}
#: Names in the configuration of the four ports that every process of a cluster agrees on.
QUEUE_PORTS = ("scheduler_port", "collector_port")


class Wanted(NamedTuple):
    """What `up` was asked for."""

    folder: Path
    elasticsearch: int = 3
    with_docker: bool = True
    any_port: bool = False


class LocalCluster:
    """One cluster over one folder."""

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        self.folder = folder.resolve()
        self.engine = Engine(self.folder)
        self.tell = tell
        self.members: list[Member] = []
        self.url = ""
        self.key = ""
        #: host:port each.
        self.gateways: list[str] = []

    # up

    def up(self, wanted: Wanted) -> None:
        """Start everything and wait until calls are served."""
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        ports = Ports(any_port=wanted.any_port)
        nginx_port = ports.row(USUAL_PORTS["nginx"], 1)
        self.url = f"http://127.0.0.1:{nginx_port}"
        self._elasticsearch(wanted.elasticsearch, ports)
        self._configure(ports)
        self._processes(ports, docker_wanted=wanted.with_docker)
        self._nginx(nginx_port)
        self._await_nodes()
        self._await_work(self.members)
        self._save()

    def _elasticsearch(self, count: int, ports: Ports) -> None:
        self.tell(f"Elasticsearch: {count} nodes")
        first = ports.row(USUAL_PORTS["elasticsearch"], count)
        cluster = Elasticsearch(self.folder / "elasticsearch", count, http_port=first)
        cluster.start()
        for node in cluster.nodes:
            log = cluster.folder(node) / "logs" / "pratai.log"
            self._add(
                Member(
                    name=f"elasticsearch-{node}",
                    pid=cluster.pid(node),
                    log=str(log),
                    url=cluster.url(node),
                )
            )

    def _configure(self, ports: Ports) -> None:
        """Write what all processes share."""
        key = self.folder / "cluster.key"
        if not key.exists():
            self._pratai("keys", "cluster", "--file", str(key))
        urls = [one.url for one in self.members if one.name.startswith("elasticsearch")]
        lines = [
            "[queue]",
            "host = 127.0.0.1",
            *(f"{name} = {ports.any()}" for name in QUEUE_PORTS),
            f"key_file = {key}",
            "[store]",
            "name = elasticsearch",
            "[elasticsearch]",
            f"urls = {','.join(urls)}",
            f"replicas = {min(1, len(urls) - 1)}",
            "[gateway]",
            f"public_url = {self.url}",
            "forwarded_from = 127.0.0.1",
            "[scheduler]",
            "health_port = 0",
            "[agent]",
            "health_port = 0",
            "[node]",
            "health_port = 0",
            "[log]",
            "format = json",
        ]
        (self.folder / "pratai.conf").write_text("\n".join(lines) + "\n")

    def _processes(self, ports: Ports, *, docker_wanted: bool) -> None:
        self.tell("scheduler, agent and gateways")
        self._await([self._start("scheduler", "scheduler"), self._start("agent", "agent")])
        first = ports.row(USUAL_PORTS["gateway"], GATEWAYS)
        self.gateways = [f"127.0.0.1:{first + number}" for number in range(GATEWAYS)]
        gateways = []
        for number in range(1, GATEWAYS + 1):
            settings = [f"gateway.port={first + number - 1}", f"queue.gateway_port={ports.any()}"]
            gateways.append(self._start(f"gateway-{number}", "gateway", *settings))
            # What it tells itself is where callers reach all of them.
            gateways[-1].url = f"http://{self.gateways[number - 1]}"
        self._await(gateways)
        self.key = next(key for one in gateways if (key := one.ready().get("key", "")))
        self.tell("nodes")
        nodes = [self._node(1, "process", ports)]
        if docker_wanted and is_possible():
            self._docker()
            nodes.append(self._node(2, "docker", ports))
        else:
            nodes.append(self._node(2, "process", ports))
        self._await(nodes)

    def _docker(self) -> None:
        self.tell("Docker engine")
        member = self.engine.start()
        if member is not None:
            self._add(member)
        self.tell("runtime images (a minute the first time)")
        setting = f"driver.docker_host={self.engine.host}"
        self.engine.bring_images(lambda: self._build_images(setting))

    def _build_images(self, setting: str) -> None:
        self._pratai("runtimes", "build", "--set", setting)

    def _node(self, number: int, driver: str, ports: Ports) -> Member:
        settings = [
            f"queue.node_port={ports.any()}",
            f"driver.name={driver}",
            f"driver.uid_first={600_000 + 20_000 * number}",
            f"node.labels=driver={driver}",
            "node.memory_mb=2048",
            f"driver.docker_host={self.engine.host}",
        ]
        return self._start(f"node-{number}", "node", *settings)

    def _nginx(self, port: int) -> None:
        self.tell("nginx")
        where = self.folder / "nginx"
        nginx = Nginx(where, port=port, gateways=self.gateways)
        nginx.write()
        nginx.start()
        assert nginx.process is not None
        log = str(where / "error.log")
        self._add(Member(name="nginx", pid=nginx.process.pid, log=log, url=nginx.url))

    def _await_nodes(self) -> None:
        wanted = sum(one.name.startswith("node-") for one in self.members)
        limit = time.monotonic() + JOIN_S_MAX
        while True:
            ready = [node for node in self.nodes() if node["state"] == "ready"]
            if len(ready) >= wanted:
                return
            if time.monotonic() > limit:
                raise ClusterProblem(f"{len(ready)} of {wanted} nodes joined within {JOIN_S_MAX} s")
            time.sleep(LOOK_S)

    def _await_work(self, members: Sequence[Member]) -> None:
        limit = time.monotonic() + JOIN_S_MAX
        for member in members:
            while member.has_readiness and not member.is_ready():
                if time.monotonic() > limit:
                    raise ClusterProblem(f"{member.name} is not ready:\n{member.said()}")
                time.sleep(LOOK_S)

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that the cluster knows, asked through nginx."""
        headers = {"authorization": f"Bearer {self.key}"}
        request = urllib.request.Request(f"{self.url}/v1/nodes", headers=headers)
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=5) as answer:
            found: list[dict[str, Any]] = json.load(answer)["items"]
            return found
        return []

    # processes

    def _start(self, name: str, process: str, *settings: str) -> Member:
        ready = self.folder / "ready" / f"{name}.json"
        ready.parent.mkdir(mode=0o700, exist_ok=True)
        data = self.folder / "data" / name
        data.mkdir(parents=True, exist_ok=True)
        command = [*PRATAI, process, "--config", str(self.folder / "pratai.conf")]
        command += ["--data-dir", str(data), "--ready-file", str(ready)]
        for setting in settings:
            command += ["--set", setting]
        return self._add(
            start(
                self.folder,
                name,
                command,
                environment=self._environment(name),
                ready_file=str(ready),
            )
        )

    def _environment(self, name: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PRATAI_")}
        kept["XDG_CONFIG_HOME"] = str(self.folder / "config" / name)
        return kept

    def _pratai(self, *arguments: str) -> str:
        done = subprocess.run(
            [*PRATAI, *arguments],
            env=self._environment("cli"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ClusterProblem(f"pratai {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def _await(self, members: Sequence[Member]) -> None:
        await_ready(members, START_S_MAX)
        self._save()

    def _add(self, member: Member) -> Member:
        self.members.append(member)
        self._save()
        return member

    def restart(self, name: str) -> None:
        """Stop a process in good order (unless it has ended) and start it as it was."""
        found = [one for one in self.members if one.name == name and one.ready_file]
        if not found:
            known = ", ".join(one.name for one in self.members if one.ready_file)
            raise ClusterProblem(f"There is no {name} to restart; there are {known}.")
        member = found[0]
        if stop(self.folder, found, STOP_S_MAX):
            self.tell(f"{name} did not stop and was killed")
        member.pid = start(
            self.folder,
            name,
            member.command,
            environment=self._environment(name),
            ready_file=member.ready_file,
        ).pid
        self._await([member])
        self._await_work([member])

    # state

    @property
    def _state(self) -> Path:
        return self.folder / "cluster.json"

    def _save(self) -> None:
        told = {
            "url": self.url,
            "key": self.key,
            "members": as_json(self.members),
            "elasticsearch": [o.url for o in self.members if o.name.startswith("elasticsearch")],
            "docker_host": self.engine.host,
        }
        descriptor = os.open(self._state, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(told, file, indent=1)

    def load(self) -> bool:
        """Read what was started here; False when nothing was."""
        try:
            told = json.loads(self._state.read_text())
        except FileNotFoundError:
            return False
        self.url, self.key = told["url"], told["key"]
        self.members = [Member(**member) for member in told["members"]]
        return True

    # down

    def down(self, *, keep: bool = False) -> None:
        """Stop everything, whoever needs others first; remove the folder unless it is kept."""
        bridges = self.engine.bridges()
        for names in ("nginx", "agent", "gateway-", "node-", "scheduler", "dockerd", "elastic"):
            group = [one for one in self.members if one.name.startswith(names)]
            for name in stop(self.folder, group, STOP_S_MAX):
                self.tell(f"{name} did not stop and was killed")
        end_leftovers(self.folder)
        self.engine.forget(bridges)
        if keep:
            self._state.unlink(missing_ok=True)
        else:
            shutil.rmtree(self.folder)


class Ports:
    """The usual ports where they are free, else others."""

    def __init__(self, *, any_port: bool) -> None:
        self.any_port = any_port
        self._given: set[int] = set()

    def any(self) -> int:
        """A free port, each only once."""
        while True:
            with socket.socket() as one:
                one.bind(("127.0.0.1", 0))
                port = int(one.getsockname()[1])
            if port not in self._given:
                self._given.add(port)
                return port

    def row(self, usual: int, count: int) -> int:
        """The first of so many free ports in a row."""
        first = self.any() if self.any_port else usual
        while not all(map(self._is_free, range(first, first + count))):
            first = self.any()
        self._given.update(range(first, first + count))
        return first

    @staticmethod
    def _is_free(port: int) -> bool:
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                return False
            return True
