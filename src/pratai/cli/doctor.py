"""`pratai doctor`: is the server well, and is this machine? Each finding says what to do."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from typing import Literal

import click
import msgspec

from pratai import clock
from pratai.cli.client import Answer, Client, ServerProblem, route
from pratai.cli.command import Command
from pratai.cli.output import ms, size
from pratai.cli.problems import PLATFORM_FAILED
from pratai.cli.session import Session
from pratai.errors import PrataiError

State = Literal["ok", "failed", "skipped"]

#: The date header has whole seconds only.
SKEW_MAX_MS = 5_000
DISK_FREE_MIN_BYTES = 512 * 1024 * 1024
_PYTHON_MIN = (3, 11)
_PATIENCE_S = 5.0
_STYLES = {"ok": "green", "failed": "bold red", "skipped": "dim"}


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one check found."""

    name: str
    state: State
    text: str
    next: str = ""


@click.command(cls=Command, example="pratai doctor\npratai doctor --server http://10.0.0.5:9996")
@click.pass_obj
def doctor(session: Session) -> int:
    """Check the server and this machine; exit code 3 when something is wrong."""
    findings = [*check_server(session), *check_machine()]
    failed = sum(finding.state == "failed" for finding in findings)
    if session.output.as_json:
        session.output.write_json({"healthy": not failed, "checks": findings})
    else:
        _draw(session, findings)
    return PLATFORM_FAILED if failed else 0


def check_server(session: Session) -> Iterator[Finding]:
    """Reachable, ready, clock, key: what needs an answer is skipped where there is none."""
    client = session.new_client(patience_s=_PATIENCE_S)
    started_us = clock.monotonic_us()
    try:
        answer = client.request("GET", "/healthz")
    except PrataiError as error:
        yield Finding(name="server", state="failed", text=error.detail, next=error.next_step)
        for name in ("ready", "clock", "key"):
            yield Finding(name=name, state="skipped", text="Needs a server that answers.")
        return
    took_ms = (clock.monotonic_us() - started_us) / 1000
    yield Finding(name="server", state="ok", text=f"{client.server} answers in {ms(took_ms)}.")
    yield _asked("ready", "It takes calls.", lambda: client.request("GET", "/readyz"))
    yield _clock(client, answer)
    yield _key(client)


def check_machine() -> Iterator[Finding]:
    """Python, uv, disk, credentials, configuration of this machine."""
    yield _python()
    yield _uv()
    yield _disk()
    yield _credentials()
    yield _config()


def _asked(name: str, text: str, ask: Callable[[], object]) -> Finding:
    try:
        ask()
    except PrataiError as error:
        return Finding(name=name, state="failed", text=error.detail, next=error.next_step)
    return Finding(name=name, state="ok", text=text)


def _key(client: Client) -> Finding:
    said = "It is accepted." if client.has_key else "None is given, and none is needed."
    return _asked(
        "key", said, lambda: client.request("GET", route("functions"), query={"limit": 1})
    )


def _clock(client: Client, answer: Answer) -> Finding:
    server_ms = _told_ms(answer) or _ticked_ms(client)
    if not server_ms:
        return Finding(name="clock", state="skipped", text="The server does not tell its time.")
    skew_ms = abs(clock.now_ms() - server_ms)
    if skew_ms > SKEW_MAX_MS:
        return Finding(
            name="clock",
            state="failed",
            text=f"This machine's clock and the server's are {ms(skew_ms)} apart.",
            next="Set both by NTP, e.g. `timedatectl set-ntp true`.",
        )
    return Finding(name="clock", state="ok", text="It agrees with the server's.")


def _told_ms(answer: Answer) -> int:
    """The server's time by its Date header; 0 without one."""
    try:
        return int(parsedate_to_datetime(answer.headers.get("date", "")).timestamp() * 1000)
    except (TypeError, ValueError):
        return 0


def _ticked_ms(client: Client) -> int:
    """The server's time by a request id it just made: a UUID of version 7 begins with it."""
    try:
        client.request("GET", route("invocations", "0"))
    except ServerProblem as problem:
        digits = problem.request_id.replace("-", "")
        if len(digits) == 32 and digits[12] == "7":
            return int(digits[:12], 16)
    return 0


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info[:2] >= _PYTHON_MIN:
        return Finding(name="python", state="ok", text=f"Python {version}.")
    return Finding(
        name="python",
        state="failed",
        text=f"Python {version} is too old.",
        next="Install Python 3.11 or newer.",
    )


def _uv() -> Finding:
    beside = os.path.join(os.path.dirname(sys.executable), "uv")
    found = beside if os.access(beside, os.X_OK) else shutil.which("uv")
    if found:
        return Finding(name="uv", state="ok", text=f"Dependencies are resolved by {found}.")
    return Finding(
        name="uv",
        state="failed",
        text="uv is not installed, so functions cannot have dependencies.",
        next="Install it: pip install uv.",
    )


def _disk() -> Finding:
    from pratai.config.client import default_data_dir

    folder = os.path.abspath(default_data_dir(os.environ, is_root=os.geteuid() == 0))
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    free = shutil.disk_usage(folder).free
    if free >= DISK_FREE_MIN_BYTES:
        return Finding(name="disk", state="ok", text=f"{size(free)} are free at {folder}.")
    return Finding(
        name="disk",
        state="failed",
        text=f"Only {size(free)} are free at {folder}.",
        next="Make room, or keep the data elsewhere: `pratai up --data-dir DIR`.",
    )


def _credentials() -> Finding:
    from pratai.config.client import credentials_file

    path = credentials_file(os.environ)
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
    except FileNotFoundError:
        return Finding(name="credentials", state="skipped", text=f"There is no {path}.")
    if mode & 0o077:
        return Finding(
            name="credentials",
            state="failed",
            text=f"{path} can be read by others (mode {mode:04o}).",
            next=f"chmod 600 {path}",
        )
    return Finding(name="credentials", state="ok", text=f"{path} is yours alone.")


def _config() -> Finding:
    from pratai.cli.config import load

    return _asked("config", "All settings are valid.", lambda: load("up", (), ()))


def _draw(session: Session, findings: list[Finding]) -> None:
    from rich.text import Text

    rows = [
        (finding.name, Text(finding.state, style=_STYLES[finding.state]), finding.text)
        for finding in findings
    ]
    session.output.table(("check", "state", "finding"), rows, empty="Nothing was checked.")
    for finding in findings:
        if finding.next and finding.state == "failed":
            session.output.say(f"next ({finding.name}): {finding.next}")
