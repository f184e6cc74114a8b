"""The servers that Pratai is compared with, each started by its own command on a free port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

from bench.wrk import Target

PEERS = Path(__file__).with_name("peers")
START_S_MAX = 30.0
STOP_S_MAX = 10.0
NGINX = """\
worker_processes 1;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    default_type application/json;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{ return 200 '{{"ok":true}}'; }}
    }}
}}
"""


class Server:
    """A server in processes of its own; a context manager. Subclasses say how it starts."""

    name = ""
    expect = '{"ok":true}'

    def __enter__(self) -> Self:
        """Start, and wait until the port answers."""
        self._scratch = tempfile.TemporaryDirectory(prefix="pratai-bench-")
        self.directory = Path(self._scratch.name)
        self.port = free_port()
        with (self.directory / "server.log").open("wb") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment()},
            )
        limit = time.monotonic() + START_S_MAX
        while not _listens(self.port):
            if self._process.poll() is not None or time.monotonic() > limit:
                story = (self.directory / "server.log").read_text(errors="replace")[-4000:]
                self.__exit__()
                raise RuntimeError(f"{self.name} did not start:\n{story}")
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the server and its workers."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(STOP_S_MAX)
        self._scratch.cleanup()

    @property
    def pid(self) -> int:
        """Process id of the root of its process tree."""
        return self._process.pid

    def target(self) -> Target:
        """What a loader needs to call it."""
        return Target(url=f"http://127.0.0.1:{self.port}/", expect=self.expect)

    def command(self) -> list[str]:
        """Command line that serves on `self.port`."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Variables beyond this process's own."""
        return {}


class Nginx(Server):
    """nginx, one worker, `return 200`: the floor of an HTTP answer, and the control of a run."""

    name = "nginx"

    def command(self) -> list[str]:
        """Write its configuration and name it."""
        path = self.directory / "nginx.conf"
        path.write_text(NGINX.format(directory=self.directory, port=self.port))
        return ["nginx", "-c", str(path), "-e", str(self.directory / "error.log")]


class UvicornHello(Server):
    """uvicorn with httptools and uvloop over raw ASGI: in process, no platform."""

    name = "uvicorn hello"

    def command(self) -> list[str]:
        """Its own command, without its access log."""
        command = [sys.executable, "-m", "uvicorn", "asgi_hello:app", "--app-dir", str(PEERS)]
        command += ["--port", str(self.port), "--http", "httptools", "--loop", "uvloop"]
        return [*command, "--no-access-log", "--log-level", "warning", "--lifespan", "off"]


class FunctionsFramework(Server):
    """functions-framework by its own command: gunicorn + Flask, one worker, no platform."""

    name = "functions-framework"
    expect = '{"ok":true}\n'

    def command(self) -> list[str]:
        """Its own command with its default server."""
        program = str(Path(sys.executable).with_name("functions-framework"))
        source = str(PEERS / "framework_function.py")
        return [program, "--target", "hello", "--source", source, "--port", str(self.port)]


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
