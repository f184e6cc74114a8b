"""What only a cluster can show: nodes that join and die, a scheduler and gateways killed, strangers.

Every process is real and apart; Elasticsearch and nginx are real. `PRATAI_HOSTILE_S` sets how long
strangers send rubbish (3 s by default).
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import pytest
import zmq
from platform_process import ClusterTarget

HOSTILE_S = float(os.environ.get("PRATAI_HOSTILE_S", "3"))
WAIT_S = 30.0
#: Notes each run in a file that already exists, before it answers.
RECORDER = """
import os, time
def main(payload):
    time.sleep(payload.get("sleep_s", 0))
    fd = os.open(os.environ["RECORD"], os.O_WRONLY | os.O_APPEND)
    os.write(fd, f"{payload['number']}\\n".encode())
    os.close(fd)
    return payload["number"]
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterTarget]:
    running = ClusterTarget(tmp_path_factory.mktemp("cluster"))
    running.start()
    yield running
    running.close()
    shutil.rmtree(f"/var/tmp/pratai-cluster-{os.getpid()}", ignore_errors=True)


def node_of(answer: Any, cluster: ClusterTarget) -> str:
    """The node that answered a call."""
    found: str = cluster.invocation(answer.headers["pratai-request-id"])["node_id"]
    return found


def until(what: str, holds: Any, limit_s: float = WAIT_S) -> Any:
    limit = time.monotonic() + limit_s
    while True:
        found = holds()
        if found:
            return found
        assert time.monotonic() < limit, what
        time.sleep(0.02)


def nodes(cluster: ClusterTarget) -> dict[str, dict[str, Any]]:
    answer = cluster.request("GET", "/v1/nodes")
    return {node["node_id"]: node for node in answer.json()["items"]}


def node_id(cluster: ClusterTarget, name: str) -> str:
    return (cluster.data_dir / name / "node-id").read_text()


def deploy_recorder(cluster: ClusterTarget, name: str, **config: Any) -> Path:
    shared = Path(f"/var/tmp/pratai-cluster-{os.getpid()}")
    shared.mkdir(mode=0o755, exist_ok=True)
    record = shared / f"{name}.txt"
    record.write_text("")
    record.chmod(0o666)
    cluster.deploy(name, RECORDER, environment={"RECORD": str(record)}, **config)
    answer = cluster.invoke(name, {"number": -1})
    assert answer.status == 200, answer
    record.write_text("")
    return record


def test_calls_are_spread_over_nodes_that_are_busy(cluster: ClusterTarget) -> None:
    cluster.deploy("sleepy", "import time\ndef main(p):\n    time.sleep(0.1)\n    return p\n")
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda number: cluster.invoke("sleepy", number), range(160)))
    assert [answer.json() for answer in answers] == list(range(160))
    ran = Counter(node_of(answer, cluster) for answer in answers[::8])
    assert len(ran) == 2, ran


def test_a_third_node_takes_work_at_once_and_leaves_in_order(cluster: ClusterTarget) -> None:
    cluster.deploy("greet", "def main(payload):\n    return payload\n")
    cluster.invoke("greet", 0)
    process = cluster.run("node-9", "driver.uid_first=700000", like="node-0")
    served_at = time.monotonic()
    for name in ("node-0", "node-1"):
        assert cluster.request("POST", f"/v1/nodes/{node_id(cluster, name)}/drain").status == 200
    answer = until("a call", lambda: (got := cluster.invoke("greet", 1)).status == 200 and got)
    took_s = time.monotonic() - served_at
    assert node_of(answer, cluster) == node_id(cluster, "node-9")
    assert took_s < WAIT_S
    print(f"the third node answered {took_s:.2f} s after it served")
    for name in ("node-0", "node-1"):
        cluster.request("POST", f"/v1/nodes/{node_id(cluster, name)}/undrain")
    process.terminate()
    assert process.wait(20) == 0
    gone = node_id(cluster, "node-9")
    until("it left", lambda: nodes(cluster)[gone]["state"] == "left")


def test_a_drained_node_gets_nothing_until_it_is_undrained(cluster: ClusterTarget) -> None:
    cluster.deploy("here", "def main(payload):\n    return payload\n")
    drained = node_id(cluster, "node-0")
    answer = cluster.request("POST", f"/v1/nodes/{drained}/drain")
    assert answer.json()["state"] == "draining"
    answers = [cluster.invoke("here", number) for number in range(20)]
    assert {node_of(answer, cluster) for answer in answers} == {node_id(cluster, "node-1")}
    assert cluster.request("POST", f"/v1/nodes/{drained}/undrain").json()["state"] == "ready"


def test_events_of_a_killed_node_run_elsewhere_and_none_is_lost(cluster: ClusterTarget) -> None:
    record = deploy_recorder(cluster, "recorder", retries=5, retry_backoff_ms=10)
    cluster.run("node-8", "driver.uid_first=720000", like="node-0")
    ids = []
    with ThreadPoolExecutor(8) as pool:

        def send(number: int) -> str:
            if number == 100:
                cluster.kill("node-8")
            return cluster.invoke_async("recorder", {"number": number, "sleep_s": 0.02})

        ids = list(pool.map(send, range(300)))
    done = [cluster.wait_done(request_id, 60) for request_id in ids]
    assert {one["outcome"] for one in done} == {"succeeded"}
    ran = Counter(map(int, record.read_text().split()))
    assert set(ran) == set(range(300))
    assert sum(ran.values()) - 300 < 100, "run again: what the node had, not everything"
    lost = node_id(cluster, "node-8")
    until("it is lost", lambda: nodes(cluster)[lost]["state"] == "lost")


def test_a_call_on_a_killed_node_is_answered_soon(cluster: ClusterTarget) -> None:
    cluster.deploy("hang", "import time\ndef main(payload):\n    time.sleep(20)\n")
    cluster.run("node-7", "driver.uid_first=740000", like="node-0")
    for name in ("node-0", "node-1"):
        cluster.request("POST", f"/v1/nodes/{node_id(cluster, name)}/drain")
    with ThreadPoolExecutor(1) as pool:
        called = pool.submit(cluster.invoke, "hang", 1)
        until("it runs", lambda: nodes(cluster)[node_id(cluster, "node-7")]["instances"])
        killed_at = time.monotonic()
        cluster.kill("node-7")
        answer = called.result()
    for name in ("node-0", "node-1"):
        cluster.request("POST", f"/v1/nodes/{node_id(cluster, name)}/undrain")
    assert (answer.status, answer.json()["code"]) == (503, "node_lost")
    assert "Retry-After" in answer.headers
    assert time.monotonic() - killed_at < 15


def test_a_deployment_is_seen_through_every_gateway(cluster: ClusterTarget) -> None:
    for number in range(20):
        cluster.deploy("fresh", f"def main(payload):\n    return {number}\n")
        assert {cluster.invoke("fresh", 0).json() for _ in range(6)} == {number}


class Load:
    """Sync calls and events that go on beside what happens to the cluster."""

    def __init__(self, cluster: ClusterTarget, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.accepted: list[tuple[int, str]] = []
        self.statuses: Counter[Any] = Counter()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(at,)) for at in range(4)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self, at: int) -> None:
        number = at * 1_000_000
        while not self._stopping.is_set():
            number += 1
            options = {"prefer": "respond-async"} if at % 2 else {}
            try:
                answer = self.cluster.invoke(self.name, {"number": number}, **options)
            except Exception as error:
                self.statuses[type(error).__name__] += 1
                continue
            self.statuses[answer.status] += 1
            if answer.status == 202:
                self.accepted.append((number, answer.json()["request_id"]))

    def check(self, record: Path) -> Counter[int]:
        """Everything accepted has run; how often each did."""
        for _, request_id in self.accepted:
            self.cluster.wait_done(request_id, 90)
        ran = Counter(map(int, record.read_text().split()))
        missing = [number for number, _ in self.accepted if number not in ran]
        assert missing == []
        return ran


def test_a_killed_scheduler_loses_no_event_and_no_call_hangs(cluster: ClusterTarget) -> None:
    record = deploy_recorder(cluster, "steady", retries=5, retry_backoff_ms=10)
    with Load(cluster, "steady") as load:
        time.sleep(1)
        cluster.kill("scheduler")
        time.sleep(1)
        cluster.run("scheduler")
        limit = time.monotonic() + WAIT_S
        while time.monotonic() < limit and cluster.request("GET", "/readyz").status != 200:
            time.sleep(0.05)
        time.sleep(1)
    ran = load.check(record)
    twice = [number for number, times in ran.items() if times > 1]
    print(f"{dict(load.statuses)}; {len(load.accepted)} accepted, {len(twice)} ran twice")
    assert load.statuses[200] > 0
    assert len(twice) <= 64


def test_of_two_schedulers_one_leads_also_while_it_begins(cluster: ClusterTarget) -> None:
    def led() -> int:
        logs = [cluster.data_dir / f"{name}.log" for name in ("scheduler", "scheduler-2")]
        return sum(log.read_text().count('"event": "leading"') for log in logs if log.exists())

    before = led()
    cluster.kill("scheduler")
    cluster.run("scheduler")
    second = cluster.run("scheduler-2", like="scheduler")
    until("one leads", lambda: led() == before + 1)
    time.sleep(8)  # more than twice the time that a claim lasts
    assert led() == before + 1

    second.terminate()

    assert second.wait(20) == 0
    cluster.deploy("after", "def main(payload):\n    return payload\n")
    until("calls are served", lambda: cluster.invoke("after", 1).status == 200)


def test_a_killed_gateway_loses_no_event(cluster: ClusterTarget) -> None:
    record = deploy_recorder(cluster, "steadier", retries=5, retry_backoff_ms=10)
    with Load(cluster, "steadier") as load:
        for number in range(3):
            time.sleep(0.5)
            cluster.kill(f"gateway-{number}")
            cluster.run(f"gateway-{number}")
    ran = load.check(record)
    print(f"{dict(load.statuses)}; {len(load.accepted)} accepted, {len(ran)} ran")


# strangers


def rubbish(seed: int) -> bytes:
    chance = random.Random(seed)
    kind = chance.randrange(4)
    if kind == 0:
        return chance.randbytes(chance.randrange(1, 5_000))
    if kind == 1:  # a greeting of ZeroMQ, then nonsense
        return b"\xff" + b"\0" * 8 + b"\x7f\x03\x00NULL" + chance.randbytes(300)
    if kind == 2:
        return b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 20
    return b"\xff" + b"\xff" * 8 + b"\x7f" + b"\xff" * 2_000


class Stranger:
    """Sends rubbish to a port: bytes that are no ZeroMQ, and ZeroMQ without the key."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.sent = 0
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._bytes), threading.Thread(target=self._zmq)]

    def start(self) -> Stranger:
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _bytes(self) -> None:
        while not self._stopping.wait(0.002):
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as one:
                    one.sendall(rubbish(self.sent))
                    self.sent += 1
            except OSError:
                continue

    def _zmq(self) -> None:
        context = zmq.Context()
        public, secret = zmq.curve_keypair()
        while not self._stopping.wait(0.01):
            push = context.socket(zmq.PUSH)
            if self.sent % 2:
                push.curve_publickey = push.curve_serverkey = public
                push.curve_secretkey = secret
            push.setsockopt(zmq.LINGER, 0)
            push.connect(f"tcp://127.0.0.1:{self.port}")
            with contextlib.suppress(zmq.Again):
                push.send(rubbish(self.sent), zmq.DONTWAIT)
            push.close(0)
        context.destroy(0)


def rss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1_024
    return 0.0


def ports_of(pid: int) -> list[int]:
    """TCP ports that a process listens on."""
    inodes = set()
    for entry in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{entry}")
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and fields[9] in inodes:
            found.append(int(fields[1].rpartition(":")[2], 16))
    return found


def test_strangers_at_every_port_stop_nothing(cluster: ClusterTarget) -> None:
    record = deploy_recorder(cluster, "calm", retries=5, retry_backoff_ms=10)
    names = ["scheduler", "agent", "node-0", "node-1", "gateway-0", "gateway-1", "gateway-2"]
    pids = {name: cluster.pid_of(name) for name in names}
    ports = {port for pid in pids.values() for port in ports_of(pid)}
    assert len(ports) >= 10, ports
    with Load(cluster, "calm") as load:
        time.sleep(1)
        before = {name: rss_mb(pid) for name, pid in pids.items()}
        strangers = [Stranger(port).start() for port in sorted(ports)]
        time.sleep(HOSTILE_S)
        for stranger in strangers:
            stranger.stop()
        time.sleep(0.5)
        after = {name: rss_mb(pid) for name, pid in pids.items()}
    assert sum(stranger.sent for stranger in strangers) > 50
    print({name: f"{before[name]:.0f} -> {after[name]:.0f} MB" for name in names})
    load.check(record)
    assert set(load.statuses) <= {200, 202}, load.statuses
    for name in names:
        assert after[name] - before[name] < 60, (name, before[name], after[name])
        assert cluster.pid_of(name) == pids[name]
    assert "message_failed" not in cluster.log()
