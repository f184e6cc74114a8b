"""The demo's platform: its processes, its folder, and how the story talks to it.

Only `pratai` commands, HTTP and signals are used: nothing of the package is imported.
"""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import urllib3
from show import Screen

USUAL_PORT = 9996
START_S_MAX = 20.0
STOP_S_MAX = 40.0
DONE_S_MAX = 30.0
#: Longest that one command may take; deploying may have to download.
COMMAND_S_MAX = 120.0
CALL_S_MAX = 40.0
LOOK_S = 0.05


class SetupProblem(Exception):
    """The demo cannot go on; the sentence says why."""


class DemoPlatform:
    """One platform over `.pratai-demo/`, killed and started again at will."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = root / ".pratai-demo"
        self.data = self.directory / "data"
        self.ready_file = self.directory / "ready.json"
        self.scratch = self.directory / "scratch"
        #: A folder outside the repository, when functions cannot reach into it.
        self.outside: Path | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.key = ""
        self.port = _free_port()
        self.pool = urllib3.PoolManager(maxsize=16, retries=False, timeout=30.0)

    # its life

    def clear_earlier(self) -> None:
        """Stop what an earlier demo left running, remove its folder, make a new one."""
        pid = _pid_in(self.ready_file)
        if pid and str(self.data) in _command_line(pid):
            os.kill(pid, signal.SIGTERM)
            limit = time.monotonic() + STOP_S_MAX
            while _command_line(pid) and time.monotonic() < limit:
                time.sleep(LOOK_S)
            self.port = _free_port()
        for earlier in self.directory.glob("scratch-*"):
            shutil.rmtree(earlier.resolve(), ignore_errors=True)
        try:
            if self.directory.exists():
                shutil.rmtree(self.directory)
            self.directory.mkdir()
        except OSError as error:
            raise SetupProblem(
                f"{self.directory} cannot be made anew ({error}). Remove it as its owner."
            ) from error
        self._make_scratch()

    def _make_scratch(self) -> None:
        """A folder that functions may write to, whatever user they run under."""
        above = [self.directory, *self.directory.parents]
        open_to_all = all(folder.stat().st_mode & 0o001 for folder in above)
        # /tmp is private to each instance; a closed folder above keeps other users out.
        if self.directory.is_relative_to("/tmp") or not open_to_all:
            self.outside = Path(tempfile.mkdtemp(prefix="pratai-demo-", dir="/var/tmp"))
            self.outside.chmod(0o755)
            (self.directory / "scratch-outside").symlink_to(self.outside)
            self.scratch = self.outside / "scratch"
        self.scratch.mkdir()
        self.scratch.chmod(0o777)

    def up_command(self) -> str:
        """The command as a person would type it."""
        return f"pratai up --port {self.port} --data-dir {self.data.relative_to(self.root)}"

    def start(self) -> float:
        """Start and wait until calls are served; returns the seconds that took."""
        self.ready_file.unlink(missing_ok=True)
        began = time.monotonic()
        command = ["pratai", "up", "--port", str(self.port), "--data-dir", str(self.data)]
        with (self.directory / "up.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--ready-file", str(self.ready_file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=self.environment(),
                start_new_session=True,
            )
        while not self.ready_file.exists():
            if self.process.poll() is not None or time.monotonic() > began + START_S_MAX:
                said = (self.directory / "up.log").read_text("utf-8", "replace").splitlines()
                raise SetupProblem("pratai up did not start:\n" + "\n".join(said[-8:]))
            time.sleep(0.01)
        ready = json.loads(self.ready_file.read_text())
        self.url, self.key = ready["url"], ready["key"]
        self._write_settings()
        return time.monotonic() - began

    def kill(self) -> int:
        """SIGKILL to the platform and all below it at once; returns how many processes died."""
        assert self.process is not None
        pids = [self.process.pid, *descendants(self.process.pid)]
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(STOP_S_MAX)
        return len(pids)

    def stop(self) -> int:
        """Let running calls finish, then end; returns the exit code (0 when it never ran)."""
        if self.process is None or self.process.poll() is not None:
            return 0 if self.process is None else self.process.returncode
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
            return -signal.SIGKILL

    # talking to it

    def environment(self) -> dict[str, str]:
        """For commands: this platform, and none of the caller's own settings."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PRATAI_")}
        kept["XDG_CONFIG_HOME"] = str(self.directory / "config")
        if self.url:
            kept |= {"PRATAI_SERVER": self.url, "PRATAI_KEY": self.key}
        return kept

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Run `pratai`, with its output taken as a program would."""
        limit_s = CALL_S_MAX if arguments[0] == "invoke" else COMMAND_S_MAX
        try:
            return subprocess.run(
                ["pratai", *arguments],
                capture_output=True,
                cwd=self.root,
                env=self.environment(),
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise SetupProblem(f"pratai {arguments[0]} did not end in {limit_s:.0f} s") from None

    def stream(self, arguments: list[str], screen: Screen) -> int:
        """Run `pratai` and show each line of its result as it comes; returns the exit code."""
        began = time.monotonic()
        with subprocess.Popen(
            ["pratai", *arguments], stdout=subprocess.PIPE, cwd=self.root, env=self.environment()
        ) as running:
            assert running.stdout is not None
            overdue = threading.Timer(CALL_S_MAX, running.kill)
            overdue.start()
            for line in running.stdout:
                screen.streamed(json.loads(line), (time.monotonic() - began) * 1000)
            overdue.cancel()
        return running.returncode

    def in_terminal(self, arguments: list[str], screen: Screen) -> int:
        """Run `pratai` as in a terminal and show what a person sees there; the exit code."""
        ours, its = pty.openpty()
        with subprocess.Popen(
            ["pratai", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=its,
            stderr=its,
            cwd=self.root,
            env={**self.environment(), **screen.terminal()},
        ) as running:
            os.close(its)
            overdue = threading.Timer(COMMAND_S_MAX, running.kill)
            overdue.start()
            try:
                while data := _read(ours):
                    screen.raw(data)
            finally:
                overdue.cancel()
                os.close(ours)
        return running.returncode

    def get(self, path: str) -> Any:
        """The JSON of a reading operation; {} when it is not there (yet)."""
        answer = self.pool.request(
            "GET", f"{self.url}{path}", headers={"Authorization": f"Bearer {self.key}"}
        )
        return json.loads(answer.data) if answer.status == 200 else {}

    def wait_done(self, request_id: str) -> dict[str, Any]:
        """The record of an asynchronous invocation once it is done."""
        limit = time.monotonic() + DONE_S_MAX
        record: dict[str, Any] = {}
        while record.get("state") != "done" and time.monotonic() < limit:
            record = self.get(f"/v1/invocations/{request_id}")
            time.sleep(LOOK_S)
        return record

    def _write_settings(self) -> None:
        """A file for the shell, so that `pratai` finds this platform."""
        path = self.directory / "env"
        venv = Path(shutil.which("pratai") or "pratai").parent
        path.touch(mode=0o600)
        path.write_text(
            f'export PATH="{venv}:$PATH" PRATAI_SERVER={self.url} PRATAI_KEY={self.key}\n'
        )


def descendants(root: int) -> list[int]:
    """Every living process below `root`, from /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            text = (entry / "stat").read_text("latin-1")
        except OSError:
            continue
        parent = int(text.rpartition(")")[2].split()[1])
        children.setdefault(parent, []).append(int(entry.name))
    found, left = [], [root]
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += below
    return found


def _read(descriptor: int) -> bytes:
    """What a terminal shows next; b"" at its end, which Linux tells by an error."""
    select.select([descriptor], [], [])
    try:
        return os.read(descriptor, 65_536)
    except OSError:
        return b""


def _free_port() -> int:
    for port in (USUAL_PORT, 0):
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(listener.getsockname()[1])
    raise SetupProblem("no port is free on 127.0.0.1")


def _pid_in(ready_file: Path) -> int:
    try:
        return int(json.loads(ready_file.read_text())["pid"])
    except (OSError, ValueError, KeyError):
        return 0


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text("utf-8").replace("\0", " ")
    except OSError:
        return ""
