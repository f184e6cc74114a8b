"""W2: warm sync calls a second at 32 connections, and the processor time they cost."""

from __future__ import annotations

import time

from bench import processes, wrk
from bench.embedded import HELLO, HELLO_ANSWER, Embedded
from bench.harness import (
    Figures,
    Findings,
    Goal,
    Measure,
    Plan,
    Round,
    Row,
    median,
    nginx_control,
    ratio,
    run_rounds,
)
from bench.servers import FunctionsFramework, Nginx, Server, UvicornHello

CONNECTIONS = 32
UVICORN_GOAL = Goal(better="higher", first=0.3, best=1.0)
FRAMEWORK_GOAL = Goal(better="higher", first=2.5, best=5.0)
SETTLE_S_MAX = 10.0


def bench(plan: Plan) -> Findings:
    """Measure requests a second and processor seconds of 1,000 calls."""
    with (
        Nginx() as nginx,
        UvicornHello() as uvicorn,
        FunctionsFramework() as framework,
        Embedded() as platform,
    ):
        platform.deploy("hello", HELLO)
        subjects = {
            "pratai": _platform(platform, plan),
            "uvicorn hello": _peer(uvicorn, plan),
            "functions-framework": _peer(framework, plan),
        }
        rounds = run_rounds(subjects, nginx_control(nginx.target()), plan)
    return Findings(
        rows=[
            _row(rounds, "W2", "uvicorn hello", UVICORN_GOAL),
            _row(rounds, "W3*", "functions-framework", FRAMEWORK_GOAL),
            Row(
                id="",
                metric="processor time of a warm call",
                against="uvicorn hello",
                ratio=ratio(rounds, ("pratai", "cpu_s"), ("uvicorn hello", "cpu_s")),
                detail=" : ".join(
                    f"{median(rounds, name, 'cpu_s') * 1e3:.0f} us"
                    for name in ("pratai", "uvicorn hello")
                ),
            ),
        ],
        rounds=rounds,
    )


def _row(rounds: list[Round], number: str, peer: str, goal: Goal) -> Row:
    mine, theirs = (median(rounds, name, "rate") for name in ("pratai", peer))
    return Row(
        id=number,
        metric=f"warm calls a second, {CONNECTIONS} connections",
        against=peer,
        ratio=ratio(rounds, ("pratai", "rate"), (peer, "rate")),
        goal=goal,
        detail=f"{mine:,.0f}/s : {theirs:,.0f}/s",
    )


def _load(target: wrk.Target, pid: int, plan: Plan) -> Figures:
    before_s = processes.cpu_seconds(pid)
    load = wrk.run(target, connections=CONNECTIONS, seconds=plan.seconds + 1)
    spent_s = processes.cpu_seconds(pid) - before_s
    return {
        "rate": load.rate,
        "requests": load.requests,
        "p50_us": load.p50_us,
        "p99_us": load.p99_us,
        # Processor seconds of 1,000 calls.
        "cpu_s": spent_s / load.requests * 1e3,
    }


def _peer(server: Server, plan: Plan) -> Measure:
    """A second in which every body is compared, then the timed load."""

    def measure() -> Figures:
        wrk.run(server.target(), connections=CONNECTIONS, seconds=1, compare=True)
        return _load(server.target(), server.pid, plan)

    return measure


def _platform(platform: Embedded, plan: Plan) -> Measure:
    """The same, with the counters of both ends compared.

    wrk drops what is under way when its time is over, at most one call a connection.
    """

    def measure() -> Figures:
        target = platform.target("hello", expect=HELLO_ANSWER)
        wrk.run(target, connections=CONNECTIONS, seconds=1, compare=True)
        before = _settled_count(platform)
        figures = _load(target, platform.pid, plan)
        counted = _settled_count(platform) - before
        if not 0 <= counted - figures["requests"] <= CONNECTIONS:
            raise wrk.BadAnswers(f"{counted} calls counted, {figures['requests']} answered")
        dropped = platform.counter("pratai_store_records_dropped")
        return {**figures, "counted": counted, "records_dropped": dropped}

    return measure


def _settled_count(platform: Embedded) -> float:
    """Invocations counted by the platform, once none is under way."""
    limit = time.monotonic() + SETTLE_S_MAX
    while platform.counter("pratai_calls_waiting"):
        if time.monotonic() > limit:
            raise RuntimeError("calls are still waiting after the load has ended")
        time.sleep(0.01)
    return platform.counter("pratai_invocations_total")
