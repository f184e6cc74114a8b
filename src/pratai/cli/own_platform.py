"""A platform of one's own for the time of a command: `pratai up` as a child process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from pratai import clock
from pratai.cli.session import Session
from pratai.errors import PlatformError

_START_MAX_MS = 60_000
_POLL_S = 0.05
#: `pratai up` lets running calls end; then it is killed.
_STOP_MAX_S = 40.0
_TAIL_CHARS = 2_000


class _Ready(msgspec.Struct, frozen=True):
    url: str
    pid: int
    key: str = ""


@contextmanager
def running_platform(session: Session) -> Iterator[None]:
    """Start the platform, point the session to it, and stop it at the end."""
    with tempfile.TemporaryDirectory(prefix="pratai-dev-") as folder:
        ready_file = Path(folder, "ready.json")
        log = Path(folder, "up.log")
        with log.open("wb") as sink:
            # A session of its own: Ctrl-C in the terminal is for us, who then stop it in order.
            child = subprocess.Popen(
                [sys.executable, "-m", "pratai", "up", "--ready-file", str(ready_file)],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            ready = _wait(child, ready_file, log)
            session.server = ready.url
            session.key = ready.key or session.key
            session.output.remark(f"The platform runs at {ready.url}.", "dim")
            yield
        finally:
            _stop(child)


def _wait(child: subprocess.Popen[bytes], ready_file: Path, log: Path) -> _Ready:
    """What the platform says of itself once it serves."""
    pause = threading.Event()
    started_us = clock.monotonic_us()
    while child.poll() is None:
        if ready_file.exists():
            try:
                return msgspec.json.decode(ready_file.read_bytes(), type=_Ready)
            except msgspec.DecodeError:
                pause.wait(_POLL_S)  # not written to its end yet
        if (clock.monotonic_us() - started_us) // 1_000 > _START_MAX_MS:
            break
        pause.wait(_POLL_S)
    said = log.read_text(encoding="utf-8", errors="replace")[-_TAIL_CHARS:].strip()
    raise PlatformError(
        f"The platform did not start:{os.linesep}{said or 'it said nothing.'}",
        next_step="Run `pratai up` by itself to see more.",
        code="not_started",
    )


def _stop(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(_STOP_MAX_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
