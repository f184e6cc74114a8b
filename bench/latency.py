"""W1: how long a warm sync call takes at one keep-alive connection, next to other servers."""

from __future__ import annotations

from collections.abc import Callable

from bench import wrk
from bench.embedded import HELLO, HELLO_ANSWER, Embedded
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
from bench.servers import FunctionsFramework, Nginx, UvicornHello

GOAL = Goal(better="lower", first=5.0, best=3.0)


def bench(plan: Plan) -> Findings:
    """Measure p50 and p99 at one connection."""
    with (
        Nginx() as nginx,
        UvicornHello() as uvicorn,
        FunctionsFramework() as framework,
        Embedded() as platform,
    ):
        platform.deploy("hello", HELLO)
        subjects = {
            "pratai": _measure(lambda: platform.target("hello", expect=HELLO_ANSWER), plan),
            "nginx": _measure(nginx.target, plan),
            "uvicorn hello": _measure(uvicorn.target, plan),
            "functions-framework": _measure(framework.target, plan),
        }
        rounds = run_rounds(subjects, nginx_control(nginx.target()), plan)
    rows = []
    for peer in ("nginx", "uvicorn hello", "functions-framework"):
        mine, theirs = (median(rounds, name, "p50_us") for name in ("pratai", peer))
        rows.append(
            Row(
                id="W1" if peer == "nginx" else "",
                metric="warm call, p50, 1 connection",
                against="nginx `return 200`" if peer == "nginx" else peer,
                ratio=ratio(rounds, ("pratai", "p50_us"), (peer, "p50_us")),
                goal=GOAL if peer == "nginx" else None,
                detail=f"{mine:.0f} us : {theirs:.0f} us",
            )
        )
    return Findings(rows=rows, rounds=rounds)


def _measure(target: Callable[[], wrk.Target], plan: Plan) -> Measure:
    """A second in which every body is compared, then the timed load."""

    def measure() -> Figures:
        wrk.run(target(), connections=1, seconds=1, compare=True)
        load = wrk.run(target(), connections=1, seconds=plan.seconds)
        return {"p50_us": load.p50_us, "p99_us": load.p99_us, "rate": load.rate}

    return measure
