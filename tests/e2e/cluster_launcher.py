"""One process whose children are a whole cluster, so that tests treat it as they treat `pratai up`.

    cluster_launcher.py FOLDER READY_FILE PORT ELASTICSEARCH_URLS SECTION.KEY=VALUE...

nginx on PORT (0 = any) before three gateways, scheduler, agent and two nodes, all over FOLDER; it
writes READY_FILE once calls are served through nginx. SIGTERM ends everything, whoever needs
others first. Exit code 0: all ended in good order.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "local_cluster"))

from nginx import Nginx

PRATAI = [sys.executable, "-m", "pratai"]
START_S_MAX, STOP_S_MAX, LOOK_S = 60.0, 45.0, 0.02
GATEWAYS, NODES = 3, 2


class Launched:
    """The processes of one cluster."""

    def __init__(self, folder: Path, urls: str, settings: Sequence[str]) -> None:
        self.folder = folder
        self.settings = settings
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ports = self._ports()
        key = folder / "cluster.key"
        if not key.exists():
            command = [*PRATAI, "keys", "cluster", "--file", str(key)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        prefix = f"test-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
        self.common = [
            f"queue.key_file={key}",
            f"queue.scheduler_port={self.ports['scheduler']}",
            f"queue.collector_port={self.ports['collector']}",
            "store.name=elasticsearch",
            f"elasticsearch.urls={urls}",
            f"elasticsearch.index_prefix={prefix}",
            "elasticsearch.replicas=0",
            "scheduler.ownership_ms=3000",
            "scheduler.node_silence_max_ms=4000",
            "scheduler.journal_look_ms=2000",
            "node.heartbeat_ms=500",
            "node.memory_mb=4096",
            "packages.shared=yes",
            "gateway.leave_ms=100",
        ]

    def _ports(self) -> dict[str, int]:
        """The ports that stay the same over restarts of this folder."""
        kept = self.folder / "ports.json"
        if not kept.exists():
            names = ["nginx", "scheduler", "collector"]
            names += [f"gateway-{number}" for number in range(GATEWAYS)]
            kept.write_text(json.dumps(dict(zip(names, free_ports(len(names)), strict=True))))
        found: dict[str, int] = json.loads(kept.read_text())
        return found

    def start(self, name: str, kind: str, *settings: str) -> None:
        ready = self.folder / f"{name}.ready"
        ready.unlink(missing_ok=True)
        command = [*PRATAI, kind, "--data-dir", str(self.folder / name)]
        command += ["--ready-file", str(ready)]
        for setting in [*self.common, *settings, *self.settings]:
            command += ["--set", setting]
        (self.folder / f"{name}.command").write_text(json.dumps(command))
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def wait(self, name: str) -> dict[str, str]:
        ready, limit = self.folder / f"{name}.ready", time.monotonic() + START_S_MAX
        while not ready.exists():
            if self.processes[name].poll() is not None or time.monotonic() > limit:
                sys.exit(
                    f"{name} did not start:\n{(self.folder / f'{name}.log').read_text()[-3000:]}"
                )
            time.sleep(LOOK_S)
        told: dict[str, str] = json.loads(ready.read_text())
        return told

    def up(self, port: int) -> dict[str, str]:
        """Start everything; where it is reached and with which key."""
        self.start("scheduler", "scheduler", "scheduler.health_port=0")
        gateways = [f"gateway-{number}" for number in range(GATEWAYS)]
        for name in gateways:
            self.start(name, "gateway", f"gateway.port={self.ports[name]}")
        for number in range(NODES):
            first = f"driver.uid_first={600_000 + 20_000 * number}"
            self.start(f"node-{number}", "node", first, "node.health_port=0")
        self.start("agent", "agent", "agent.health_port=0")
        keys = [self.wait(name)["key"] for name in gateways]
        for name in ("scheduler", "agent", *(f"node-{number}" for number in range(NODES))):
            self.wait(name)
        addresses = [f"127.0.0.1:{self.ports[name]}" for name in gateways]
        nginx = Nginx(self.folder / "nginx", port=port or self.ports["nginx"], gateways=addresses)
        nginx.write(**LIMITS)
        nginx.start()
        assert nginx.process is not None
        self.processes["nginx"] = nginx.process
        self._await_ready(addresses)
        return {"url": nginx.url, "key": keys[0]}

    def _await_ready(self, addresses: list[str]) -> None:
        """Every gateway takes traffic, and the scheduler has both nodes."""
        limit = time.monotonic() + START_S_MAX
        for address in addresses:
            while not _answers(f"http://{address}/readyz"):
                if time.monotonic() > limit:
                    sys.exit(f"{address} did not become ready")
                time.sleep(LOOK_S)

    def down(self) -> int:
        """End everything in good order; 0 when that is how it ended."""
        worst = 0
        for group in ("nginx", "agent", "gateway", "node", "scheduler"):
            members = [one for name, one in self.processes.items() if name.startswith(group)]
            for process in members:
                process.send_signal(signal.SIGQUIT if group == "nginx" else signal.SIGTERM)
            for process in members:
                try:
                    worst = max(worst, abs(process.wait(STOP_S_MAX)))
                except subprocess.TimeoutExpired:
                    process.kill()
                    worst = 99
        return worst


#: Tests call from one address and as fast as they can.
LIMITS: dict[str, str] = {}


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except (urllib.error.URLError, OSError):
        return False
    return True


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, below those that connections are given."""
    import socket

    found: list[int] = []
    port = 12_000 + os.getpid() * 37 % 15_000
    while len(found) < count:
        port += 1
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
    return found


def main() -> None:
    """Run until told to stop."""
    folder, ready_file, port, urls = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:5]
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stopping.append(number))
    launched = Launched(folder, urls, sys.argv[5:])
    try:
        told = launched.up(int(port))
    except BaseException:
        for process in launched.processes.values():
            process.kill()
        raise
    fresh = folder / "ready.new"
    fresh.write_text(json.dumps({**told, "pid": os.getpid()}))
    fresh.rename(ready_file)
    while not stopping:
        signal.pause()
    sys.exit(launched.down())


if __name__ == "__main__":
    main()
