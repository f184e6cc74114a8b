"""Latency against load, at fixed rates rather than in a closed loop; and fairness (S2).

Arrivals are random (Poisson, seeded) at shares of the capacity that the same client measured, and
latency counts from when a call was due. The curve is drawn into `docs/images/latency-load.svg`.
"""

from __future__ import annotations

import statistics
import subprocess
from pathlib import Path

from bench import report, wrk
from bench.connection import OpenLoop, poisson, until
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
    percentile,
    ratio,
    raw,
    run_rounds,
    say,
)
from bench.servers import FunctionsFramework, Nginx

SHARES = (10, 25, 50, 80, 90)
CONNECTIONS = 64
#: Connections of the closed loop that finds the capacity, as in `throughput.py`.
CAPACITY_CONNECTIONS = 32
RARE_RATE = 100.0
NEIGHBOUR_CONNECTIONS = 32
FAIRNESS_GOAL = Goal(better="lower", first=3.0, best=1.5)


def bench(plan: Plan) -> Findings:
    """Measure both curves, then a rare function alone and beside a busy one."""
    with Nginx() as nginx, FunctionsFramework() as framework, Embedded() as platform:
        for name in ("hello", "rare", "busy"):
            platform.deploy(name, HELLO)
        targets = {
            "pratai": platform.target("hello", expect=HELLO_ANSWER),
            "functions-framework": framework.target(),
        }
        control = nginx_control(nginx.target())
        short = Plan(
            quick=plan.quick,
            rounds=min(3, plan.rounds),
            extra_rounds=min(1, plan.extra_rounds),
            seconds=plan.seconds,
        )
        rounds = run_rounds(
            {name: _curve(target, short) for name, target in targets.items()}, control, short
        )
        fairness = run_rounds(_fairness(platform, short), control, short)
    curves = {name: _points(rounds, name) for name in targets}
    if not plan.quick:
        draw(curves, report.IMAGE)
    return Findings(
        rows=[*_rows(rounds), _fairness_row(fairness)],
        rounds=[*rounds, *fairness],
        extra={"curves": raw(curves)},
    )


def _curve(target: wrk.Target, plan: Plan) -> Measure:
    """Capacity in a closed loop, then latency at each share of it."""

    def measure() -> Figures:
        closed = OpenLoop(target, CAPACITY_CONNECTIONS)
        closed.run(until(plan.seconds))
        closed.close()
        capacity = len(closed.latencies_ms) / plan.seconds
        figures = {"capacity": capacity}
        for share in SHARES:
            client = OpenLoop(target, CONNECTIONS)
            rate = capacity * share / 100
            client.run(poisson(rate, plan.seconds, seed=share))
            client.close()
            figures[f"rate_{share}"] = rate
            figures[f"p50_ms_{share}"] = percentile(client.latencies_ms, 50)
            figures[f"p99_ms_{share}"] = percentile(client.latencies_ms, 99)
        return figures

    return measure


def _fairness(platform: Embedded, plan: Plan) -> dict[str, Measure]:
    rare = platform.target("rare", expect=HELLO_ANSWER)
    busy = platform.target("busy", expect=HELLO_ANSWER)
    seconds = plan.times(4, 1)

    def alone() -> Figures:
        client = OpenLoop(rare, 16)
        client.run(poisson(RARE_RATE, seconds, seed=1))
        client.close()
        return {
            "p50_ms": percentile(client.latencies_ms, 50),
            "p99_ms": percentile(client.latencies_ms, 99),
        }

    def beside() -> Figures:
        with subprocess.Popen(
            wrk.command(busy, connections=NEIGHBOUR_CONNECTIONS, seconds=seconds + 2),
            env=wrk.environment(busy),
            stdout=subprocess.PIPE,
            text=True,
        ) as neighbour:
            figures = alone()
            load = wrk.parse(neighbour.communicate(timeout=wrk.GRACE_S + seconds)[0])
        if load.errors:
            raise wrk.BadAnswers(f"{busy.url}: {load}")
        return {**figures, "neighbour_rate": load.rate}

    return {"rare alone": alone, "rare beside": beside}


def _rows(rounds: list[Round]) -> list[Row]:
    rows = []
    for share in (50, 90):
        figure = f"p99_ms_{share}"
        mine, theirs = (median(rounds, name, figure) for name in ("pratai", "functions-framework"))
        rows.append(
            Row(
                id="",
                metric=f"p99 at {share} % of its own capacity",
                against="functions-framework, the same",
                ratio=ratio(rounds, ("pratai", figure), ("functions-framework", figure)),
                detail=f"{mine:.2f} ms : {theirs:.2f} ms",
            )
        )
    return rows


def _fairness_row(rounds: list[Round]) -> Row:
    beside, alone = ("rare beside", "p99_ms"), ("rare alone", "p99_ms")
    return Row(
        id="S2",
        metric="p99 of a rare function beside a saturating neighbour",
        against="the same function alone",
        ratio=ratio(rounds, beside, alone),
        goal=FAIRNESS_GOAL,
        detail=f"{median(rounds, *beside):.2f} ms : {median(rounds, *alone):.2f} ms",
    )


def _points(rounds: list[Round], subject: str) -> list[Figures]:
    """Medians over the rounds, a point for each share."""
    return [
        {
            "share": share,
            "rate": median(rounds, subject, f"rate_{share}"),
            "p50_ms": median(rounds, subject, f"p50_ms_{share}"),
            "p99_ms": median(rounds, subject, f"p99_ms_{share}"),
        }
        for share in SHARES
    ]


def draw(curves: dict[str, list[Figures]], path: Path) -> None:
    """Draw p50 and p99 over the rate, both logarithmic."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "pratai", "font.family": "sans-serif"})
    from matplotlib import pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(figsize=(7, 4))
    for colour, (name, points) in zip(("#1f6feb", "#b35900"), curves.items(), strict=False):
        rates = [point["rate"] for point in points]
        for key, line in (("p50_ms", "-"), ("p99_ms", "--")):
            axes.plot(
                rates,
                [point[key] for point in points],
                line,
                color=colour,
                marker="o",
                markersize=4,
                label=f"{name}, {key.removesuffix('_ms')}",
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("calls a second (10, 25, 50, 80, 90 % of each one's capacity)")
    axes.set_ylabel("latency, ms")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    say(
        f"  drew {path} ({statistics.fmean(len(each) for each in curves.values()):.0f} points each)"
    )
