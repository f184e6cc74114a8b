"""nginx over `deploy/nginx/` on loopback: the shipped files with other addresses and folders.

Tests load this file by its path. Standard library alone.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

SHIPPED = Path(__file__).resolve().parents[2] / "deploy" / "nginx"
SNIPPET = "/etc/nginx/snippets/pratai-locations.conf"
START_S_MAX = 10.0
STOP_S_MAX = 20.0
LOOK_S = 0.02
_MAIN = """\
{user}daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log info;
worker_processes 2;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
    client_body_temp_path {directory}/temporary/body;
    proxy_temp_path {directory}/temporary/proxy;
    fastcgi_temp_path {directory}/temporary/fastcgi;
    uwsgi_temp_path {directory}/temporary/uwsgi;
    scgi_temp_path {directory}/temporary/scgi;
    include {directory}/pratai.conf;
}}
"""


class Tls(NamedTuple):
    """Where TLS is served, and with what; `redirect_port` is that of plain HTTP."""

    port: int
    redirect_port: int
    certificate: Path
    key: Path


class NginxProblem(Exception):
    """nginx does not run; the sentence says why."""


class Nginx:
    """One nginx over a folder."""

    def __init__(
        self, directory: Path, *, port: int, gateways: Sequence[str], tls: Tls | None = None
    ) -> None:
        self.directory = directory
        self.port = port
        self.gateways = list(gateways)
        self.tls = tls
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it serves plain HTTP."""
        return f"http://127.0.0.1:{self.port}"

    def write(self, **changes: str) -> None:
        """Write the configuration; `changes` = shipped text: other text, for both files."""
        (self.directory / "temporary").mkdir(parents=True, exist_ok=True)
        user = f"user {pwd.getpwuid(0).pw_name};\n" if os.getuid() == 0 else ""
        main = _MAIN.format(directory=self.directory, user=user)
        (self.directory / "nginx.conf").write_text(main)
        for name in ("pratai.conf", "pratai-locations.conf"):
            text = (SHIPPED / name).read_text()
            if name == "pratai.conf":
                text = self._placed(text)
            for shipped, other in changes.items():
                text = text.replace(shipped, other)
            (self.directory / name).write_text(text)

    def _placed(self, text: str) -> str:
        """The shipped `pratai.conf` with the addresses and folders of this nginx."""
        text = re.sub(r"(?:^    server \S+:\d+ (.*;)\n)+", self._listed, text, flags=re.MULTILINE)
        text = text.replace("listen 127.0.0.1:9990;", f"listen 127.0.0.1:{self.port};")
        text = text.replace("/var/log/nginx/pratai.log", str(self.directory / "access.log"))
        text = text.replace(SNIPPET, str(self.directory / "pratai-locations.conf"))
        text = re.sub(r"^    listen \[::\]:.*\n", "", text, flags=re.MULTILINE)
        if self.tls is None:
            blocks = re.split(r"^(?=server \{)", text, flags=re.MULTILINE)
            return "".join(one for one in blocks if "    server_name " not in one)
        text = text.replace("listen 443 ", f"listen 127.0.0.1:{self.tls.port} ")
        text = text.replace("listen 80;", f"listen 127.0.0.1:{self.tls.redirect_port};")
        text = text.replace("/etc/pratai/tls/fullchain.pem", str(self.tls.certificate))
        return text.replace("/etc/pratai/tls/privkey.pem", str(self.tls.key))

    def _listed(self, shipped: re.Match[str]) -> str:
        return "".join(f"    server {gateway} {shipped[1]}\n" for gateway in self.gateways)

    def check(self) -> None:
        """Let nginx judge the configuration."""
        done = subprocess.run([*self._command(), "-t"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NginxProblem(done.stderr)

    def start(self) -> Nginx:
        """Start it and wait until it serves. It outlives this process."""
        with (self.directory / "nginx.log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        limit = time.monotonic() + START_S_MAX
        pid_file = self.directory / "nginx.pid"
        while not (pid_file.exists() and pid_file.read_text().strip()):
            if self.process.poll() is not None or time.monotonic() > limit:
                said = (self.directory / "nginx.log").read_text(errors="replace")[-2000:]
                raise NginxProblem(f"nginx did not start:\n{said}")
            time.sleep(LOOK_S)
        return self

    def stop(self) -> None:
        """Stop it once running requests are answered, or after a while."""
        if self.process is None or self.process.poll() is not None:
            return
        for number in (signal.SIGQUIT, signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_S_MAX / 4)
                return

    def _command(self) -> list[str]:
        where = self.directory
        return ["nginx", "-p", str(where), "-e", f"{where}/error.log", "-c", f"{where}/nginx.conf"]
