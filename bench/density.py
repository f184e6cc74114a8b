"""D1: what an idle warm instance keeps in memory, next to a fresh process with the same imports.

A sleeping handler called many times at once makes that many instances; each gives itself a name,
by which it is found from outside. Memory is PSS: shared pages count by their share.
"""

from __future__ import annotations

import importlib.metadata
import statistics
import subprocess
import sys
import sysconfig
import threading
import time

from bench import processes
from bench.embedded import Embedded
from bench.harness import Figures, Findings, Goal, Measure, Plan, Row, median, ratio, run_rounds

GOAL = Goal(better="lower", first=1 / 10, best=1 / 25)
INSTANCES = 20
NAME = "bench-idle"
SETTLE_S_MAX = 30.0
IMPORTS = {
    "standard library": (
        "",
        "import asyncio, datetime, decimal, email.message, http.client, json, logging, ssl",
    ),
    "numpy": ("numpy", "import json, logging, numpy"),
}
SOURCE = """\
{header}{imports}
import time

with open("/proc/self/comm", "w") as file:
    file.write("{name}")


def main(payload):
    time.sleep(payload)
    return 1
"""
FRESH = """\
import sys
sys.path.append({packages!r})
{imports}
print("ready", flush=True)
sys.stdin.read()
"""


def bench(plan: Plan) -> Findings:
    """Measure memory of idle instances for each set of imports."""
    subjects: dict[str, Measure] = {}
    for kind, (package, imports) in IMPORTS.items():
        subjects[f"instance, {kind}"] = _instances(package, imports, plan.times(INSTANCES, 6))
        subjects[f"process, {kind}"] = _fresh(imports)
    short = Plan(quick=plan.quick, rounds=min(3, plan.rounds), extra_rounds=0, seconds=1)
    # Memory does not depend on how busy the machine is: no control.
    rounds = run_rounds(subjects, lambda: 1.0, short)
    rows = []
    for kind in IMPORTS:
        of, to = (f"instance, {kind}", "pss_kb"), (f"process, {kind}", "pss_kb")
        rows.append(
            Row(
                id="D1",
                metric=f"memory (PSS) of an idle instance, {kind}",
                against="fresh process, same imports",
                ratio=ratio(rounds, of, to),
                goal=GOAL,
                detail=f"{median(rounds, *of) / 1024:.2f} MB : {median(rounds, *to) / 1024:.2f} MB",
            )
        )
    return Findings(rows=rows, rounds=rounds)


def _instances(package: str, imports: str, count: int) -> Measure:
    def measure() -> Figures:
        header = ""
        if package:
            version = importlib.metadata.version(package)
            header = f'# /// script\n# dependencies = ["{package}=={version}"]\n# ///\n'
        source = SOURCE.format(header=header, imports=imports, name=NAME)
        with Embedded() as platform:
            platform.deploy("idle", source, concurrency_max=count)
            pids = _started(platform, count)
            every_kb = [processes.pss_kb(pid) for pid in pids]
            private_kb = [processes.private_kb(pid) for pid in pids]
            tree_kb = sum(processes.pss_kb(pid) for pid in processes.descendants(platform.pid))
            return {
                "pss_kb": statistics.median(every_kb),
                "private_kb": statistics.median(private_kb),
                "instances": len(pids),
                # Zygotes and spare workers included, the supervisor itself not.
                "tree_pss_kb_each": tree_kb / len(pids),
                "supervisor_pss_kb": processes.pss_kb(platform.pid),
            }

    return measure


def _started(platform: Embedded, count: int) -> list[int]:
    """Call the sleeping handler until that many instances live, then wait until all are idle."""
    limit = time.monotonic() + SETTLE_S_MAX
    sleep_s = 0.5
    while True:
        callers = [
            threading.Thread(target=platform.invoke, args=("idle", sleep_s)) for _ in range(count)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        pids = _named(platform)
        if len(pids) >= count:
            return pids
        if time.monotonic() > limit:
            raise RuntimeError(f"{len(pids)} of {count} instances started")
        sleep_s *= 2


def _named(platform: Embedded) -> list[int]:
    """Instances by their name, without zygotes, which share it but have children."""
    named = processes.named(platform.pid, NAME)
    return [pid for pid in named if not processes.descendants(pid)]


def _fresh(imports: str) -> Measure:
    """A process that imported the same and waits."""

    def measure() -> Figures:
        code = FRESH.format(packages=sysconfig.get_path("purelib"), imports=imports)
        with subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout
            assert process.stdin
            process.stdout.readline()
            pss_kb = processes.pss_kb(process.pid)
            process.stdin.close()
        return {"pss_kb": pss_kb}

    return measure
