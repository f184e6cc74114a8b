"""wrk: one run of it, and what it printed as a value. It decides nothing about rounds or ratios."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import msgspec

SCRIPT = Path(__file__).with_name("post.lua")
#: Over this, wrk is stuck and the bench with it.
GRACE_S = 30.0


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of wrk saw."""

    requests: int
    duration_us: int
    bytes: int
    connect_errors: int
    read_errors: int
    write_errors: int
    timeouts: int
    #: Answers over 399; wrk follows no redirect, so 3xx cannot occur here.
    non_2xx: int
    compared_bodies: int
    wrong_bodies: int
    p50_us: int
    p90_us: int
    p99_us: int
    p999_us: int
    max_us: int
    mean_us: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests * 1e6 / self.duration_us

    @property
    def errors(self) -> int:
        """Everything that was not a good answer; a socket that its server closed is not one."""
        return self.connect_errors + self.write_errors + self.timeouts + self.non_2xx


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a server: the same POST each time."""

    url: str
    body: str = '{"name":"bench","number":1}'
    headers: dict[str, str] = {}
    #: The body of each right answer; "" where it differs from call to call.
    expect: str = ""


class BadAnswers(Exception):
    """A server answered something else than it should: its figures mean nothing."""


def parse(output: str) -> Load:
    """Read the line that `post.lua` prints, wherever wrk's own report put it.

    Raises:
        ValueError: there is no such line.

    """
    for line in output.splitlines():
        if line.startswith('{"requests"'):
            return msgspec.json.decode(line, type=Load)
    raise ValueError(f"wrk printed no figures: {output[-400:]!r}")


def run(target: Target, *, connections: int, seconds: float, compare: bool = False) -> Load:
    """Load a server for so long. `compare` looks at every body, which costs wrk some speed.

    Raises:
        BadAnswers: an answer was an error or, when compared, had another body.

    """
    whole_seconds = max(1, round(seconds))
    finished = subprocess.run(
        command(target, connections=connections, seconds=whole_seconds),
        env=environment(target, compare=compare),
        capture_output=True,
        text=True,
        timeout=whole_seconds + GRACE_S,
        check=True,
    )
    load = parse(finished.stdout)
    if load.errors or load.wrong_bodies or not load.requests:
        raise BadAnswers(f"{target.url}: {load}")
    return load


def command(target: Target, *, connections: int, seconds: int) -> list[str]:
    """Command line of a run: one thread, so that all servers meet the same loader."""
    options = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s"]
    return ["wrk", *options, "-s", str(SCRIPT), target.url]


def environment(target: Target, *, compare: bool = False) -> dict[str, str]:
    """What `post.lua` reads."""
    headers = {"content-type": "application/json", **target.headers}
    return {
        **os.environ,
        "BENCH_BODY": target.body,
        "BENCH_HEADERS": "\n".join(f"{name}: {value}" for name, value in headers.items()),
        "BENCH_EXPECT": target.expect if compare else "",
    }
