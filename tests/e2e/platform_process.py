"""A real `pratai up` in a process of its own, for end-to-end tests: start, call, kill, start again."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import urllib3

sys.path.insert(0, str(Path(__file__).parents[1]))

import elasticsearch_cluster
from elasticsearch_cluster import URLS_VARIABLE

PRATAI = [sys.executable, "-m", "pratai"]
START_S_MAX = 20.0
STOP_S_MAX = 20.0
LOOK_S = 0.01


class Answer:
    """An HTTP answer with its body read."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.data

    def json(self) -> Any:
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"<{self.status} {self.body[:300]!r}>"


class PlatformProcess:
    """One platform over one data dir, restarted at will."""

    def __init__(self, directory: Path, *settings: str) -> None:
        self.directory = directory
        self.data_dir = directory / "data"
        self.settings = list(settings)
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.key = ""
        self.port = 0
        self.pool = urllib3.PoolManager(
            num_pools=4, maxsize=64, retries=False, timeout=urllib3.Timeout(60.0)
        )

    #: How long it may take to serve.
    start_s_max = START_S_MAX
    #: How long it may take to end.
    stop_s_max = STOP_S_MAX
    #: What may be added to a call by what else this machine does, on two processors.
    slack_ms = 60.0
    #: Share of its capacity that a flood leaves it, the loader being on the same processors.
    goodput_min = 0.8

    def command(self, ready_file: Path) -> list[str]:
        """How it is started."""
        command = [*PRATAI, "up", "--port", str(self.port), "--data-dir", str(self.data_dir)]
        command += ["--ready-file", str(ready_file)]
        for setting in self.settings:
            command += ["--set", setting]
        return command

    def start(self) -> PlatformProcess:
        ready_file = self.directory / "ready.json"
        ready_file.unlink(missing_ok=True)
        environment = {**os.environ, "XDG_CONFIG_HOME": str(self.directory / "config")}
        log = (self.directory / "up.log").open("ab")
        self.process = subprocess.Popen(
            self.command(ready_file),
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        log.close()
        limit = time.monotonic() + self.start_s_max
        while not ready_file.exists():
            if self.process.poll() is not None or time.monotonic() > limit:
                raise AssertionError(f"the platform did not start:\n{self.log()[-4000:]}")
            time.sleep(0.01)
        ready = json.loads(ready_file.read_text())
        self.url, self.key = ready["url"], ready["key"]
        self.port = int(self.url.rsplit(":", 1)[1])
        return self

    def log(self) -> str:
        return (self.directory / "up.log").read_text(errors="replace")

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(self.stop_s_max)

    def kill_tree(self) -> None:
        """SIGKILL to the platform and every descendant, as a power cut would."""
        assert self.process is not None
        pids = descendants(self.process.pid)
        for pid in [self.process.pid, *pids]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(10)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill_tree()
        self.pool.clear()

    # calls

    def request(self, method: str, path: str, **options: Any) -> Answer:
        headers = {"authorization": f"Bearer {self.key}", **options.pop("headers", {})}
        return Answer(self.pool.request(method, f"{self.url}{path}", headers=headers, **options))

    def deploy(self, name: str, source: str | bytes, **config: Any) -> Any:
        data = source.encode() if isinstance(source, str) else source
        answer = self.request(
            "PUT",
            f"/v1/functions/{name}",
            fields={
                "config": ("config.json", json.dumps(config), "application/json"),
                "package": (
                    "main.py" if isinstance(source, str) else "package.zip",
                    data,
                    "text/x-python" if isinstance(source, str) else "application/zip",
                ),
            },
        )
        assert answer.status in (200, 201), answer
        return answer.json()

    def invoke(self, name: str, event: Any = None, **headers: str) -> Answer:
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        sent = {"content-type": "application/json"}
        sent.update({key.replace("_", "-"): value for key, value in headers.items()})
        return self.request("POST", f"/v1/functions/{name}/invocations", body=body, headers=sent)

    def invoke_async(self, name: str, event: Any = None, **headers: str) -> str:
        answer = self.invoke(name, event, prefer="respond-async", **headers)
        assert answer.status == 202, answer
        return str(answer.json()["request_id"])

    def invocation(self, request_id: str) -> Any:
        answer = self.request("GET", f"/v1/invocations/{request_id}")
        assert answer.status == 200, answer
        return answer.json()

    def wait_done(self, request_id: str, limit_s: float = 20.0) -> Any:
        limit = time.monotonic() + limit_s
        while True:
            found = self.request("GET", f"/v1/invocations/{request_id}")
            if found.status == 200 and found.json()["state"] == "done":
                return found.json()
            assert time.monotonic() < limit, found
            time.sleep(0.02)

    def store_problem(self) -> str:
        """What the store's own check finds in what a crash left; "" for nothing."""
        with sqlite3.connect(self.data_dir / "pratai.db") as connection:
            found = str(connection.execute("PRAGMA integrity_check").fetchone()[0])
        return "" if found == "ok" else found

    @property
    def gateway_url(self) -> str:
        """A gateway itself, without anything before it."""
        return self.url

    def metrics(self) -> str:
        """The figures of everybody who counts calls, one page after the other."""
        return self.request("GET", "/metrics").body.decode()

    def cli(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        environment = {
            **os.environ,
            "PRATAI_SERVER": self.url,
            "PRATAI_KEY": self.key,
            "XDG_CONFIG_HOME": str(self.directory / "config"),
        }
        return subprocess.run(
            [*PRATAI, *arguments],
            input=stdin,
            capture_output=True,
            env=environment,
            timeout=120,
            check=False,
        )


def descendants(root: int) -> list[int]:
    """Every living process below `root`, from /proc."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="latin-1") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(parent, []).append(int(entry))
    found, left = [], [root]
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += below
    return found


class ClusterTarget(PlatformProcess):
    """A whole cluster behind nginx, in the place of one platform: the same suite, another target."""

    start_s_max, stop_s_max = 90.0, 60.0
    #: Nine processes and Elasticsearch share the processors.
    slack_ms = 400.0
    goodput_min = 0.3

    def __init__(self, directory: Path, *settings: str) -> None:
        super().__init__(directory, *settings)
        self.data_dir = directory / "cluster"
        self.data_dir.mkdir(exist_ok=True)
        #: Processes started by hand, beside those of the launcher.
        self.extra: list[subprocess.Popen[bytes]] = []

    def command(self, ready_file: Path) -> list[str]:
        launcher = Path(__file__).with_name("cluster_launcher.py")
        urls = elasticsearch_urls()
        command = [sys.executable, str(launcher), str(self.data_dir), str(ready_file)]
        return [*command, str(self.port), urls, *self.settings]

    def store_problem(self) -> str:
        health = elasticsearch_cluster.ask(elasticsearch_urls(), "GET", "/_cluster/health")
        return "" if health["status"] in ("green", "yellow") else str(health)

    @property
    def gateway_urls(self) -> list[str]:
        readies = sorted(self.data_dir.glob("gateway-*.ready"))
        return [json.loads(ready.read_text())["url"] for ready in readies]

    @property
    def gateway_url(self) -> str:
        return self.gateway_urls[0]

    def metrics(self) -> str:
        pages = [self.pool.request("GET", f"{url}/metrics") for url in self.gateway_urls]
        return "\n".join(page.data.decode() for page in pages)

    # its processes, one by one

    def pid_of(self, name: str) -> int:
        """The process that runs now under this name."""
        ready = json.loads((self.data_dir / f"{name}.ready").read_text())
        return int(ready["pid"])

    def kill(self, name: str) -> None:
        """SIGKILL to a process and all below it."""
        pid = self.pid_of(name)
        for one in [pid, *descendants(pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)

    def run(self, name: str, *settings: str, like: str = "") -> subprocess.Popen[bytes]:
        """Start a process again, or another one `like` one that there is; served on return."""
        command = json.loads((self.data_dir / f"{like or name}.command").read_text())
        if like:
            command = [part.replace(f"/{like}", f"/{name}") for part in command]
        for setting in settings:
            command += ["--set", setting]
        ready = self.data_dir / f"{name}.ready"
        ready.unlink(missing_ok=True)
        with (self.data_dir / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.extra.append(process)
        limit = time.monotonic() + self.start_s_max
        while not ready.exists():
            assert process.poll() is None, self.log()[-4000:]
            assert time.monotonic() < limit, self.log()[-4000:]
            time.sleep(LOOK_S)
        return process

    def close(self) -> None:
        for process in self.extra:
            process.kill()
            process.wait(10)
        super().close()

    def log(self) -> str:
        logs = [self.directory / "up.log", *sorted(self.data_dir.glob("*.log"))]
        return "\n".join(f"{log.name}:\n{log.read_text(errors='replace')}" for log in logs)


def elasticsearch_urls() -> str:
    """Where this run's Elasticsearch is reached; started for the first who asks."""
    if URLS_VARIABLE not in os.environ:
        started = elasticsearch_cluster.cluster()
        atexit.register(elasticsearch_cluster.discard, started)
        os.environ[URLS_VARIABLE] = ",".join(started.urls)
    return os.environ[URLS_VARIABLE]


#: What the suite runs against, each in turn: `pratai up`, and a whole cluster.
TARGETS: dict[str, type[PlatformProcess]] = {"embedded": PlatformProcess, "cluster": ClusterTarget}


def wanted_targets() -> list[str]:
    """The targets of this run: `PRATAI_E2E_TARGET`, or all."""
    wanted = os.environ.get("PRATAI_E2E_TARGET", "")
    return [wanted] if wanted else list(TARGETS)


def check_target(target: str) -> None:
    """Skip what cannot run here for want of nginx or Elasticsearch; in CI that is a failure."""
    if target == "cluster" and shutil.which("nginx") is None and not os.environ.get("CI"):
        pytest.skip("nginx is not installed")
