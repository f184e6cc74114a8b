"""`scripts/cluster`: the whole cluster of real parts is started, used through nginx, and ended.

nginx, three gateways, scheduler, agent, a node with the process driver, one with Docker where that
can be, three nodes of Elasticsearch.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from callers import Callers
from platform_process import PRATAI

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
CATALOG: dict[str, dict[str, Any]] = tomllib.loads((EXAMPLES / "examples.toml").read_text())
UP_S_MAX = 420
SLOW = "import time\ndef main(payload):\n    time.sleep(payload['s'])\n    return payload['n']\n"

pytestmark = pytest.mark.timeout(600)


class Script:
    """`scripts/cluster` over one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        self.key = ""
        self.pool = urllib3.PoolManager(maxsize=32, retries=False, timeout=60.0)

    def run(self, command: str, *options: str) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PRATAI_")}
        environment["PRATAI_VENV"] = sys.prefix
        return subprocess.run(
            [ROOT / "scripts" / "cluster", command, "--data", self.folder, *options],
            capture_output=True,
            text=True,
            env=environment,
            timeout=UP_S_MAX,
            check=False,
        )

    def status(self) -> Any:
        return json.loads(self.run("status", "--json").stdout)

    def pid(self, name: str) -> int:
        return next(int(one["pid"]) for one in self.status()["members"] if one["name"] == name)

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        environment = {**os.environ, "PRATAI_SERVER": self.url, "PRATAI_KEY": self.key}
        return subprocess.run(
            [*PRATAI, *arguments], capture_output=True, env=environment, timeout=120, check=False
        )

    def request(self, method: str, path: str, **options: Any) -> urllib3.BaseHTTPResponse:
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        return self.pool.request(method, f"{self.url}{path}", headers=headers, **options)

    def call(self, method: str, name: str) -> int:
        """A look at the functions, or a call of 20 ms that says its name back."""
        if method == "GET":
            return self.request("GET", "/v1/functions").status
        body = json.dumps({"s": 0.02, "n": name}).encode()
        answer = self.request("POST", "/v1/functions/slow/invocations", body=body)
        assert answer.status != 200 or answer.json() == name
        return answer.status


@pytest.fixture(scope="module")
def cluster() -> Iterator[Script]:
    missing = [one for one in ("nginx", "mvn") if shutil.which(one) is None]
    if missing and (os.getuid() != 0 or shutil.which("apt-get") is None):
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up(f"{' and '.join(missing)} cannot be installed")
    # Open to other users, as the one that runs Elasticsearch.
    folder = Path(tempfile.mkdtemp(prefix="pratai-cluster-", dir="/var/tmp"))
    script = Script(folder)
    try:
        done = script.run("up", "--any-port")
        assert done.returncode == 0, done.stderr[-4000:]
        state = script.status()
        script.url, script.key = state["url"], state["key"]
        yield script
    finally:
        script.pool.clear()
        script.run("down")
        shutil.rmtree(folder, ignore_errors=True)


def deploy(cluster: Script, name: str, *options: str) -> None:
    done = cluster.cli("deploy", *options, "--name", name)
    assert done.returncode == 0, done.stderr.decode()


def test_the_whole_picture_runs(cluster: Script) -> None:
    state = cluster.status()

    assert state["well"] is True
    names = [member["name"] for member in state["members"] if member["name"] != "dockerd"]
    assert names == [
        *(f"elasticsearch-{number}" for number in (1, 2, 3)),
        *("scheduler", "agent"),
        *(f"gateway-{number}" for number in (1, 2, 3)),
        *("node-1", "node-2", "nginx"),
    ]
    has_docker = os.getuid() == 0 and shutil.which("dockerd") is not None
    drivers = sorted(node["driver"] for node in state["nodes"])
    assert drivers == (["docker", "process"] if has_docker else ["process", "process"])
    table = cluster.run("status")
    assert table.returncode == 0
    assert len(table.stdout.splitlines()) == 1 + len(state["members"]) + 2


def test_the_examples_run_through_nginx_on_both_nodes(cluster: Script) -> None:
    """Each as its catalog says, again and again until both nodes had some."""
    for name in sorted(CATALOG, key=lambda one: len(CATALOG[one].get("needs", []))):
        known = {"server": cluster.url, "key": cluster.key, "scratch": "/tmp"}
        flags = [flag.format(**known) for flag in CATALOG[name].get("deploy", [])]
        if name == "fan_out":
            flags += ["--network", "host"]  # it calls nginx, which is on loopback
        deploy(cluster, name, str(EXAMPLES / CATALOG[name]["path"]), *flags)

    for _ in range(5):
        for name, example in CATALOG.items():
            for call in example.get("invoke", []):
                event = f"@{EXAMPLES / call['file']}" if "file" in call else call["json"]
                kind = call.get("content_type", "application/json")
                options = ["--content-type", kind, *(["--async"] if call.get("async") else [])]
                done = cluster.cli("invoke", name, event, *options)
                assert done.returncode == (1 if call.get("fails") else 0), done.stderr.decode()
        page = json.loads(cluster.cli("invocations", "--limit", "200", "--json").stdout)
        used = {one["node_id"] for one in page["items"]} - {""}
        if len(used) == 2:
            break

    assert used == {node["node_id"] for node in cluster.status()["nodes"]}
    assert {one["outcome"] for one in page["items"]} <= {"succeeded", "failed", ""}


def test_a_function_that_one_node_cannot_run_runs_on_the_other(
    cluster: Script, tmp_path: Path
) -> None:
    docker = [node["node_id"] for node in cluster.status()["nodes"] if node["driver"] == "docker"]
    if not docker:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up("there is no node with Docker: not root, or no dockerd")
    source = tmp_path / "counting.py"
    source.write_text(
        "import subprocess\n"
        "def main(payload):\n"
        "    done = subprocess.run(['jq', '-n', '1 + 1'], capture_output=True, text=True)\n"
        "    return int(done.stdout)\n"
    )
    deploy(cluster, "counting", str(source), "--apt", "jq", "--timeout-ms", "120000")

    answers = [
        cluster.request("POST", "/v1/functions/counting/invocations", body=b"{}", timeout=150)
        for _ in range(6)
    ]

    assert [(answer.status, answer.data) for answer in answers] == [(200, b"2")] * 6
    for answer in answers:
        request_id = answer.headers["pratai-request-id"]
        told = cluster.request("GET", f"/v1/invocations/{request_id}").json()
        assert told["node_id"] in docker


def test_a_rolling_restart_of_the_gateways_fails_no_call(cluster: Script, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    deploy(cluster, "slow", str(tmp_path / "slow.py"))
    callers = Callers(cluster.call, "POST", "POST", "GET", count=6)
    callers.wait_for(60)

    done = cluster.run("restart", "gateway-1", "gateway-2", "gateway-3")
    callers.wait_for(60)
    failed = callers.stop()

    assert done.returncode == 0, done.stderr
    assert failed == {}


def test_a_killed_gateway_fails_only_the_calls_it_had(cluster: Script, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    deploy(cluster, "slow", str(tmp_path / "slow.py"))
    callers = Callers(cluster.call, "POST", "POST", "GET", count=6)
    callers.wait_for(60)

    os.kill(cluster.pid("gateway-2"), signal.SIGKILL)
    callers.wait_for(120)
    failed = callers.stop()

    assert len(failed) <= 4, "at most one for each caller of POST"
    assert set(failed.values()) <= {("POST", 503)}
    assert cluster.run("status").returncode == 1
    assert cluster.run("restart", "gateway-2").returncode == 0
    assert cluster.status()["well"] is True


def test_down_leaves_no_process_no_mount_and_no_file(cluster: Script) -> None:
    done = cluster.run("down")

    assert done.returncode == 0, done.stderr
    assert not cluster.folder.exists()
    assert str(cluster.folder) not in Path("/proc/self/mounts").read_text()
    limit = time.monotonic() + 10
    while left := running_over(cluster.folder):
        assert time.monotonic() < limit, left
        time.sleep(0.1)
    again = cluster.run("down")
    assert again.returncode == 0
    assert "No cluster runs" in again.stderr


def running_over(folder: Path) -> list[str]:
    """The command lines of processes that work over a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if f"{folder}/" in command:
                found.append(command.replace("\0", " "))
    return found
