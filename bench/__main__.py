"""`scripts/bench [NAME...] [--quick] [--docs]`: runs benches, prints the table, writes results."""

from __future__ import annotations

import argparse
import datetime as dt
import importlib
import shlex
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from bench import machine, report
from bench.harness import FULL, QUICK, Findings, Plan, Result, say, settled

#: In the order in which they run and stand in the table.
NAMES = [
    "latency",
    "throughput",
    "cold_start",
    "docker",
    "durability",
    "elasticsearch",
    "cluster",
    "density",
    "load",
    "placement",
]


def main() -> int:
    """Run what was asked for; 0 when all of it could be measured."""
    options = _options()
    signal.signal(signal.SIGTERM, _on_terminate)
    names = options.names or NAMES
    if options.docs:
        report.write_page(report.read(NAMES))
        say(f"wrote {report.PAGE}")
        return 0
    plan = QUICK if options.quick else FULL
    # What a quick run finds must not stand where results stand.
    directory = Path(tempfile.gettempdir()) / "pratai-bench-quick" if plan.quick else report.RESULTS
    results, failed = [], []
    for name in names:
        try:
            result = run(name, plan)
        except Exception as error:  # the boundary: one bench that fails must not lose the others
            say(f"{name} failed: {type(error).__name__}: {error}")
            failed.append(name)
            continue
        say(f"  wrote {report.write(result, directory)} after {result.seconds_taken:.0f} s")
        results.append(result)
    report.show(results)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run(name: str, plan: Plan) -> Result:
    """Run one bench and describe where and when."""
    say(f"{name}:")
    described = machine.describe()
    date = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    start = time.monotonic()
    findings: Findings = importlib.import_module(f"bench.{name}").bench(plan)
    return Result(
        name=name,
        date=date,
        command=shlex.join(["scripts/bench", *sys.argv[1:]]),
        quick=plan.quick,
        seconds_taken=round(time.monotonic() - start, 1),
        machine=described,
        settled=settled(findings.rounds),
        rows=findings.rows,
        rounds=findings.rounds,
        extra=findings.extra,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="short; results go to a temporary dir")
    parser.add_argument("--docs", action="store_true", help="rewrite the table of the page, no run")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(NAMES))
    if unknown:
        parser.error(f"no bench named {', '.join(unknown)}; there are: {', '.join(NAMES)}")
    return options


def _on_terminate(number: int, _: FrameType | None) -> None:
    """Leave through every context manager, so that servers stop."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
