"""`pratai up` in processes of its own, and the few calls that the benches make to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import urllib3

from bench.wrk import Target

START_S_MAX = 30.0
STOP_S_MAX = 30.0
UPLOAD_S_MAX = 300.0
HELLO = 'def main(payload):\n    return {"ok": True}\n'
HELLO_ANSWER = '{"ok":true}'


class Embedded:
    """One platform over a data dir of its own; a context manager."""

    name = "pratai"

    def __init__(self, *settings: str, launcher: tuple[str, ...] = ("-m", "pratai")) -> None:
        self._settings = settings
        self._launcher = launcher
        self._pool = urllib3.PoolManager(
            num_pools=2, maxsize=64, retries=False, timeout=urllib3.Timeout(UPLOAD_S_MAX)
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.key = ""

    def __enter__(self) -> Self:
        """Start, and wait until calls are served."""
        self._scratch = tempfile.TemporaryDirectory(prefix="pratai-bench-")
        self.directory = Path(self._scratch.name)
        self.directory.chmod(0o755)
        self.data_dir = self.directory / "data"
        ready_file = self.directory / "ready.json"
        command = [sys.executable, *self._launcher, "up", "--port", "0"]
        command += ["--data-dir", str(self.data_dir), "--ready-file", str(ready_file)]
        for setting in self._settings:
            command += ["--set", setting]
        with (self.directory / "up.log").open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "XDG_CONFIG_HOME": str(self.directory / "config")},
            )
        limit = time.monotonic() + START_S_MAX
        while not ready_file.exists():
            if self._process.poll() is not None or time.monotonic() > limit:
                story = self.log()[-4000:]
                self.__exit__()
                raise RuntimeError(f"pratai up did not start:\n{story}")
            time.sleep(0.01)
        ready = json.loads(ready_file.read_text())
        self.url, self.key = ready["url"], ready["key"]
        return self

    def __exit__(self, *_: object) -> None:
        """Stop whatever still runs and remove the data dir."""
        try:
            self.stop()
        finally:
            self._pool.clear()
            self._scratch.cleanup()

    def stop(self) -> None:
        """Stop in order; the data dir stays until the end of the context."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_S_MAX)

    @property
    def pid(self) -> int:
        """Process id of the root of its process tree."""
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        """What the platform wrote so far."""
        return (self.directory / "up.log").read_text(errors="replace")

    def request(self, method: str, path: str, **options: Any) -> urllib3.BaseHTTPResponse:
        """Make one call with the admin key."""
        headers = {"authorization": f"Bearer {self.key}", **options.pop("headers", {})}
        return self._pool.request(method, f"{self.url}{path}", headers=headers, **options)

    def deploy(self, name: str, source: str, **config: Any) -> None:
        """Deploy one source file and wait until it is ready."""
        answer = self.request(
            "PUT",
            f"/v1/functions/{name}",
            fields={
                "config": ("config.json", json.dumps(config), "application/json"),
                "package": ("main.py", source.encode(), "text/x-python"),
            },
        )
        if answer.status not in (200, 201):
            raise RuntimeError(f"deploy of {name} failed: {answer.status} {answer.data!r}")

    def invoke(self, name: str, event: Any = None) -> tuple[float, urllib3.BaseHTTPResponse]:
        """One sync call and how long it took, in ms, as the caller saw it."""
        body = json.dumps(event).encode()
        path = f"/v1/functions/{name}/invocations"
        headers = {"content-type": "application/json"}
        start = time.perf_counter()
        answer = self.request("POST", path, body=body, headers=headers)
        took_ms = (time.perf_counter() - start) * 1e3
        if answer.status != 200:
            raise RuntimeError(f"call of {name} failed: {answer.status} {answer.data!r}")
        return took_ms, answer

    def target(self, name: str, *, expect: str = "", asynchronous: bool = False) -> Target:
        """What wrk needs to call a function of this platform."""
        headers = {"Authorization": f"Bearer {self.key}"}
        if asynchronous:
            headers["Prefer"] = "respond-async"
        url = f"{self.url}/v1/functions/{name}/invocations"
        return Target(url=url, headers=headers, expect=expect)

    def counter(self, name: str) -> float:
        """Sum of a counter's series, as `/metrics` shows them."""
        text = self.request("GET", "/metrics").data.decode()
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.startswith((f"{name} ", f"{name}{{"))
        )
