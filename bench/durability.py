"""A1: events accepted a second, each on disk before its 202, next to a commit for each.

Every load runs on a fresh platform. After it has stopped, the rows of its SQLite file are
counted: nothing acknowledged may be missing. wrk cuts off at most one call a connection when its
time is over, which may be stored and unanswered; a second load of a fixed number of events by a
client that waits for every answer must match exactly, id by id.
"""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
import time

from bench import wrk
from bench.connection import OpenLoop, at_once
from bench.embedded import Embedded
from bench.harness import (
    Figures,
    Findings,
    Goal,
    Measure,
    Plan,
    Row,
    median,
    nginx_control,
    ratio,
    run_rounds,
)
from bench.servers import Nginx

CONNECTIONS = 64
NO_OP = "def main(payload):\n    return None\n"
GOAL = Goal(better="higher", first=5.0, best=10.0)
#: Out of the way of a short load: refused events would end the bench.
ROOM = ("scheduler.backlog_max=10000000", "scheduler.backlog_total_max=10000000")


def bench(plan: Plan) -> Findings:
    """Measure durable accepts a second in both modes."""
    exact = plan.times(2_000, 300)
    with Nginx() as nginx:
        subjects: dict[str, Measure] = {
            "grouped": _accepts(plan, exact),
            "one by one": _accepts(plan, exact, "store.batch_max=1"),
            "disk": _syncs,
        }
        rounds = run_rounds(subjects, nginx_control(nginx.target()), plan)
    grouped, single = (median(rounds, name, "rate") for name in ("grouped", "one by one"))
    p50_ms = median(rounds, "grouped", "p50_us") / 1e3
    return Findings(
        rows=[
            Row(
                id="A1",
                metric=f"durable accepts a second, {CONNECTIONS} connections",
                against="own commit-per-request mode",
                ratio=ratio(rounds, ("grouped", "rate"), ("one by one", "rate")),
                goal=GOAL,
                detail=f"{grouped:,.0f}/s (p50 {p50_ms:.2f} ms) : {single:,.0f}/s",
            ),
            Row(
                id="",
                metric="durable accepts a second",
                against="write + fdatasync, one after the other",
                ratio=ratio(rounds, ("grouped", "rate"), ("disk", "rate")),
                detail=f"{grouped:,.0f}/s : {median(rounds, 'disk', 'rate'):,.0f}/s",
            ),
        ],
        rounds=rounds,
    )


def _accepts(plan: Plan, exact: int, *settings: str) -> Measure:
    """One load on a fresh platform, then everything acknowledged is looked for in its file."""

    def measure() -> Figures:
        with Embedded(*ROOM, *settings) as platform:
            platform.deploy("no-op", NO_OP)
            platform.invoke("no-op")
            target = platform.target("no-op", asynchronous=True)
            acknowledged = _exact(target, exact)
            load = wrk.run(target, connections=CONNECTIONS, seconds=plan.seconds)
            done = platform.counter("pratai_invocations_total")
            platform.stop()
            stored = _stored(os.path.join(platform.data_dir, "pratai.db"))
        missing = acknowledged - stored
        if missing:
            raise AssertionError(f"{len(missing)} acknowledged events are not stored")
        # One sync call was made to warm up; it is recorded too.
        unanswered = len(stored) - len(acknowledged) - load.requests - 1
        if not 0 <= unanswered <= CONNECTIONS:
            raise AssertionError(f"{unanswered} stored events were never acknowledged")
        return {
            "rate": load.rate,
            "p50_us": load.p50_us,
            "p99_us": load.p99_us,
            "acknowledged": load.requests + len(acknowledged),
            "stored": len(stored) - 1,
            "cut_off": unanswered,
            "done_meanwhile": done,
        }

    return measure


def _exact(target: wrk.Target, count: int) -> set[str]:
    """Request ids of so many events, all answers awaited."""
    client = OpenLoop(target, CONNECTIONS)
    client.run(at_once(count), keep_answers=True)
    client.close()
    acknowledged = {str(json.loads(answer.body)["request_id"]) for answer in client.answers}
    if len(acknowledged) != count:
        raise AssertionError(f"{count} events gave {len(acknowledged)} request ids")
    return acknowledged


def _stored(path: str) -> set[str]:
    """Request ids in the file of a stopped platform."""
    with sqlite3.connect(path) as connection:
        return {row[0] for row in connection.execute("SELECT request_id FROM invocation")}


def _syncs() -> Figures:
    """The floor: how often this disk takes 4 KiB for good, one write after the other."""
    count, seconds = 0, 0.5
    with tempfile.TemporaryFile() as file:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            os.pwrite(file.fileno(), b"\0" * 4_096, count % 1_024 * 4_096)
            os.fdatasync(file.fileno())
            count += 1
    return {"rate": count / seconds}
