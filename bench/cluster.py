"""W3: warm sync calls through a cluster's processes: gateway, scheduler, node over ZeroMQ.

Each shape is started, measured and ended by itself, on the same machine as the loader: one gateway
called directly, nginx before three gateways, and one gateway that records every call, not only
failures, in the Elasticsearch that shares these processors.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from bench import processes, wrk
from bench.embedded import HELLO, HELLO_ANSWER, START_S_MAX, STOP_S_MAX, Embedded
from bench.harness import (
    Figures,
    Findings,
    Goal,
    Measure,
    Plan,
    Round,
    Row,
    median,
    nginx_control,
    ratio,
    run_rounds,
)
from bench.servers import FunctionsFramework, Nginx, free_port

CONNECTIONS = 32
GOAL = Goal(better="higher", first=2.5, best=5.0)
REPOSITORY = Path(__file__).parent.parent
PEER = "functions-framework"
ROLES = ("nginx", "gateway", "scheduler", "node")


class Cluster(Embedded):
    """Scheduler, node and so many gateways as processes; nginx before them if there are several."""

    def __init__(self, urls: str, *, gateways: int, record: str = "failures") -> None:
        super().__init__()
        self._record = record
        self._urls = urls
        self._gateways = gateways
        #: {role: pids of its processes}.
        self.pids: dict[str, list[int]] = {role: [] for role in ROLES}
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        """Start everything, and wait until calls are served."""
        self._scratch = tempfile.TemporaryDirectory(prefix="pratai-bench-")
        self.directory = Path(self._scratch.name)
        self.directory.chmod(0o755)
        key = self.directory / "cluster.key"
        self._ports = {name: free_port() for name in ("scheduler", "collector", "nginx")}
        command = [sys.executable, "-m", "pratai", "keys", "cluster", "--file", str(key)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        self._common = [
            f"queue.key_file={key}",
            f"queue.scheduler_port={self._ports['scheduler']}",
            f"queue.collector_port={self._ports['collector']}",
            "store.name=elasticsearch",
            f"elasticsearch.urls={self._urls}",
            f"elasticsearch.index_prefix=bench-{os.urandom(4).hex()}",
            "elasticsearch.replicas=0",
            f"store.record_sync={self._record}",
        ]
        self._start("scheduler", "scheduler", "scheduler.health_port=0")
        self._start("node", "node", "node.health_port=0")
        names = [f"gateway-{number}" for number in range(self._gateways)]
        for name in names:
            self._start("gateway", name, "gateway.port=0")
        told = [self._wait(name) for name in names]
        self.url, self.key = told[0]["url"], told[0]["key"]
        self._await_ready([one["url"] for one in told])
        if self._gateways > 1:
            self._nginx([one["url"] for one in told])
        return self

    def stop(self) -> None:
        """End everything, latest started first."""
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_S_MAX)
        self._processes.clear()

    def spent_s(self) -> dict[str, float]:
        """{role: processor seconds so far}."""
        return {
            role: sum(processes.cpu_seconds(pid) for pid in pids)
            for role, pids in self.pids.items()
        }

    def log(self) -> str:
        """What all processes wrote so far."""
        logs = sorted(self.directory.glob("*.log"))
        return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-2000:]}" for log in logs)

    def _start(self, kind: str, name: str, *settings: str) -> None:
        command = [sys.executable, "-m", "pratai", kind, "--data-dir", str(self.directory / name)]
        command += ["--ready-file", str(self.directory / f"{name}.ready")]
        for setting in [*self._common, *settings]:
            command += ["--set", setting]
        self._run(kind, name, command)

    def _run(self, role: str, name: str, command: list[str]) -> None:
        with (self.directory / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._processes.append(process)
        self.pids[role].append(process.pid)

    def _wait(self, name: str) -> dict[str, str]:
        ready, limit = self.directory / f"{name}.ready", time.monotonic() + START_S_MAX
        while not ready.exists():
            if time.monotonic() > limit or any(one.poll() is not None for one in self._processes):
                story = self.log()
                self.__exit__()
                raise RuntimeError(f"the cluster did not start:\n{story}")
            time.sleep(0.01)
        told: dict[str, str] = json.loads(ready.read_text())
        return told

    def _await_ready(self, urls: list[str]) -> None:
        limit = time.monotonic() + START_S_MAX
        for url in urls:
            while self._pool.request("GET", f"{url}/readyz").status != 200:
                if time.monotonic() > limit:
                    raise RuntimeError(f"{url} is not ready:\n{self.log()}")
                time.sleep(0.02)

    def _nginx(self, urls: list[str]) -> None:
        """The shipped configuration, before these gateways."""
        sys.path.insert(0, str(REPOSITORY / "scripts" / "local_cluster"))
        import nginx  # the local cluster's, which places the shipped files

        gateways = [url.partition("//")[2] for url in urls]
        made = nginx.Nginx(self.directory / "nginx", port=self._ports["nginx"], gateways=gateways)
        made.write()
        made.start()
        assert made.process is not None
        self._processes.append(made.process)
        self.pids["nginx"].append(made.process.pid)
        self.url = made.url


GATEWAY, PROXIED, RECORDING = "gateway", "nginx and 3 gateways", "gateway, all recorded"


def bench(plan: Plan) -> Findings:
    """Measure requests a second, the median of one connection, and processor time by process."""
    with _elasticsearch() as urls, Nginx() as nginx, FunctionsFramework() as framework:
        subjects: dict[str, Measure] = {
            GATEWAY: _through(plan, lambda: Cluster(urls, gateways=1)),
            PROXIED: _through(plan, lambda: Cluster(urls, gateways=3)),
            RECORDING: _through(plan, lambda: Cluster(urls, gateways=1, record="all")),
            PEER: _peer(framework.target(), plan),
        }
        rounds = run_rounds(subjects, nginx_control(nginx.target()), plan)
    return Findings(
        rows=[
            _rate(rounds, "W3", GATEWAY),
            _rate(rounds, "", PROXIED),
            _rate(rounds, "", RECORDING),
            *(_alone(rounds, name) for name in (GATEWAY, PROXIED)),
        ],
        rounds=rounds,
    )


def _rate(rounds: list[Round], number: str, name: str) -> Row:
    spent = ", ".join(
        f"{role} {median(rounds, name, f'{role}_us'):.0f}"
        for role in ROLES
        if median(rounds, name, f"{role}_us") >= 1
    )
    return Row(
        id=number,
        metric=f"warm calls a second through {name}, {CONNECTIONS} connections",
        against=PEER,
        ratio=ratio(rounds, (name, "rate"), (PEER, "rate")),
        goal=GOAL if number else None,
        detail=f"{median(rounds, name, 'rate'):,.0f}/s : {median(rounds, PEER, 'rate'):,.0f}/s;"
        f" us of processor a call: {spent}",
    )


def _alone(rounds: list[Round], name: str) -> Row:
    mine, theirs = (median(rounds, one, "alone_p50_us") for one in (name, PEER))
    return Row(
        id="",
        metric=f"median through {name}, 1 connection",
        against=PEER,
        ratio=ratio(rounds, (name, "alone_p50_us"), (PEER, "alone_p50_us")),
        detail=f"{mine:,.0f} us : {theirs:,.0f} us",
    )


def _through(plan: Plan, make: Callable[[], Cluster]) -> Measure:
    """A cluster of its own: bodies compared, the timed load, then one connection."""

    def measure() -> Figures:
        with make() as cluster:
            cluster.deploy("hello", HELLO)
            target = cluster.target("hello", expect=HELLO_ANSWER)
            wrk.run(target, connections=CONNECTIONS, seconds=2, compare=True)
            before = cluster.spent_s()
            load = wrk.run(target, connections=CONNECTIONS, seconds=plan.seconds + 1)
            after = cluster.spent_s()
            alone = wrk.run(target, connections=1, seconds=1)
        spent = {f"{role}_us": (after[role] - before[role]) / load.requests * 1e6 for role in ROLES}
        return {
            "rate": load.rate,
            "p50_us": load.p50_us,
            "p99_us": load.p99_us,
            "alone_p50_us": alone.p50_us,
            **spent,
        }

    return measure


def _peer(target: wrk.Target, plan: Plan) -> Measure:
    def measure() -> Figures:
        wrk.run(target, connections=CONNECTIONS, seconds=1, compare=True)
        load = wrk.run(target, connections=CONNECTIONS, seconds=plan.seconds + 1)
        alone = wrk.run(target, connections=1, seconds=1)
        return {
            "rate": load.rate,
            "p50_us": load.p50_us,
            "p99_us": load.p99_us,
            "alone_p50_us": alone.p50_us,
        }

    return measure


@contextlib.contextmanager
def _elasticsearch() -> Iterator[str]:
    """One node of Elasticsearch; its URL."""
    folder = Path(tempfile.mkdtemp(prefix="pratai-bench-elasticsearch-"))
    folder.chmod(0o755)
    script = REPOSITORY / "scripts" / "elasticsearch"
    try:
        command = [str(script), "start", "1", str(folder)]
        started = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        yield ",".join(started.stdout.split())
    finally:
        subprocess.run([str(script), "stop", str(folder)], check=False)
        shutil.rmtree(folder, ignore_errors=True)
