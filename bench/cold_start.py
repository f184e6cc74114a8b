"""C1, C2, C3: the first call of a function that nobody called before.

Each round deploys functions that differ from all others, calls each once, then again warm. Beside
them stand a fresh interpreter and, where an engine answers, `docker run`.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import statistics
import subprocess
import sys
import sysconfig
import time

from bench.connection import Connection
from bench.embedded import Embedded
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
    run_rounds,
)
from bench.servers import Nginx

PLAIN = 'def main(payload):\n    return {"function": "NAME"}\n'
#: The package whose import is the dear part, and a function that needs it.
PACKAGE = "numpy"
IMPORTING = """\
# /// script
# dependencies = ["PACKAGE==VERSION"]
# ///
import PACKAGE

def main(payload):
    return {"function": "NAME", "version": PACKAGE.__version__}
"""
WARM_CALLS = 10
DOCKER_S_MAX = 60.0
WARM_GOAL = Goal(better="lower", first=50.0, best=8.0)
DOCKER_GOAL = Goal(better="lower", first=1 / 20, best=1 / 100)
IMPORT_GOAL = Goal(better="lower", first=1 / 20, best=1 / 100)


def bench(plan: Plan) -> Findings:
    """Measure first calls with and without a dear import."""
    version = importlib.metadata.version(PACKAGE)
    importing = IMPORTING.replace("PACKAGE", PACKAGE).replace("VERSION", version)
    image = _docker_image()
    with Nginx() as nginx, Embedded() as platform:
        subjects = {
            "pratai": _first_calls(platform, "plain", plan.times(30, 10), PLAIN),
            "python": _command([sys.executable, "-I", "-S", "-c", "pass"], 10),
            f"pratai {PACKAGE}": _first_calls(platform, PACKAGE, plan.times(10, 4), importing),
            f"python {PACKAGE}": _command(_import_command(), 5),
        }
        if image:
            docker = ["docker", "run", "--rm", "--network", "none", image, "python", "-c", "pass"]
            subjects["docker"] = _command(docker, 5)
        rounds = run_rounds(subjects, nginx_control(nginx.target()), plan)
    return Findings(rows=_rows(rounds, image), rounds=rounds)


def _rows(rounds: list[Round], image: str) -> list[Row]:
    first = ("pratai", "first_ms")
    importing = (f"pratai {PACKAGE}", "first_ms")
    docker = Row(
        id="C1",
        metric="first call of a new function, p50",
        against="docker run",
        skipped="no Docker engine with a Python image answers here",
    )
    if image:
        docker = _row(rounds, "C1", first, ("docker", "run_ms"), DOCKER_GOAL)
    return [
        docker,
        _row(rounds, "", first, ("python", "run_ms"), None),
        _row(rounds, "C2", first, ("pratai", "warm_ms"), WARM_GOAL),
        _row(rounds, "C3", importing, (f"python {PACKAGE}", "run_ms"), IMPORT_GOAL),
        _row(rounds, "", importing, (f"pratai {PACKAGE}", "warm_ms"), None),
    ]


def _row(
    rounds: list[Round], number: str, of: tuple[str, str], to: tuple[str, str], goal: Goal | None
) -> Row:
    plain = of[0] == "pratai"
    against = {
        "docker": "`docker run ... python -c pass`",
        "python": "`python -I -S -c pass`",
        f"python {PACKAGE}": f"`python -c 'import {PACKAGE}'`",
    }.get(to[0], "its own warm call, p50")
    return Row(
        id=number,
        metric="first call of a new function, p50" if plain else f"the same, importing {PACKAGE}",
        against=against,
        ratio=ratio(rounds, of, to),
        goal=goal,
        detail=f"{median(rounds, *of):.2f} ms : {median(rounds, *to):.2f} ms",
    )


def _first_calls(platform: Embedded, kind: str, count: int, source: str) -> Measure:
    """Deploy new functions, call each for the first time, then warm; delete them."""
    made = 0

    def measure() -> Figures:
        nonlocal made
        names = [f"{kind}-{number}" for number in range(made, made + count)]
        made += count
        started = time.perf_counter()
        for name in names:
            platform.deploy(name, source.replace("NAME", name))
        deploy_ms = (time.perf_counter() - started) * 1e3 / count
        first_ms, warm_ms = _calls(platform, names)
        for name in names:
            platform.request("DELETE", f"/v1/functions/{name}")
        return {
            "first_ms": statistics.median(first_ms),
            "first_p90_ms": percentile(first_ms, 90),
            "warm_ms": statistics.median(warm_ms),
            "deploy_ms": deploy_ms,
        }

    return measure


def _calls(platform: Embedded, names: list[str]) -> tuple[list[float], list[float]]:
    """Times of the cold and of the warm calls, each answer checked for what it should be."""
    connection = Connection(platform.target(names[0]))
    first_ms: list[float] = []
    warm_ms: list[float] = []
    for name in names:
        for number in range(1 + WARM_CALLS):
            took_ms, answer = connection.call(platform.target(name))
            kind = answer.header("pratai-start-kind")
            if name.encode() not in answer.body or kind != ("warm" if number else "cold"):
                raise RuntimeError(f"call {number} of {name}: {kind}, {answer.body!r}")
            (warm_ms if number else first_ms).append(took_ms)
    connection.close()
    return first_ms, warm_ms


def _command(command: list[str], times: int) -> Measure:
    """Median time from starting a program to its end."""

    def measure() -> Figures:
        took_ms = []
        for _ in range(times):
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, timeout=DOCKER_S_MAX)
            took_ms.append((time.perf_counter() - start) * 1e3)
        return {"run_ms": statistics.median(took_ms)}

    return measure


def _import_command() -> list[str]:
    """A fresh interpreter that imports the package, without the cost of `.pth` files."""
    packages = sysconfig.get_path("purelib")
    code = f"import sys; sys.path.append({packages!r}); import {PACKAGE}"
    return [sys.executable, "-I", "-S", "-c", code]


def _docker_image() -> str:
    """A local image with Python in it; "" where no engine answers or none is there."""
    if shutil.which("docker") is None:
        return ""
    listed = subprocess.run(
        ["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=DOCKER_S_MAX,
    )
    names = listed.stdout.split() if listed.returncode == 0 else []
    return next((name for name in names if name.startswith("python:")), "")
