"""K1, K2: the docker driver beside `docker run` of the same image, on an engine of the bench's own.

The first call of a new function starts a container for it; a further instance is forked in there.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from tests.docker_engine import DockerEngine, docker_engine

from bench.cold_start import PLAIN, _calls, _command
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
    ratio,
    run_rounds,
)
from bench.servers import Nginx
from pratai.config.schema import Driver, Node
from pratai.driver.base import InstanceExit, InstanceSpec
from pratai.driver.docker.images import image_name
from pratai.driver.registry import create_driver
from pratai.model.function import FunctionConfig, Version
from pratai.runtimes import catalog
from pratai.wire import frames

FIRST_GOAL = Goal(better="lower", first=1 / 4, best=1 / 10)
FURTHER_GOAL = Goal(better="lower", first=1 / 10, best=1 / 30)
_RUN = "`docker run ... python3 -c pass`"


def bench(plan: Plan) -> Findings:
    """Measure first calls and further instances beside `docker run`."""
    if shutil.which("dockerd") is None or shutil.which("debootstrap") is None:
        skipped = "needs dockerd and debootstrap"
        row = Row(id="K1", metric="first call, docker driver", against=_RUN, skipped=skipped)
        return Findings(rows=[row], rounds=[])
    with docker_engine() as engine, Nginx() as nginx:
        settings = ("driver.name=docker", f"driver.docker_host={engine.host}")
        with Embedded(*settings) as platform:
            subjects = {
                "pratai": _first_calls(platform, plan.times(8, 4)),
                "further": lambda: asyncio.run(_further(engine, plan.times(20, 8))),
                "docker": _command(_docker_run(engine), plan.times(8, 4)),
            }
            rounds = run_rounds(subjects, nginx_control(nginx.target()), plan)
    return Findings(rows=_rows(rounds), rounds=rounds)


def _rows(rounds: list[Round]) -> list[Row]:
    return [
        _row(rounds, "K1", "first call of a new function in docker, p50", "pratai", FIRST_GOAL),
        _row(rounds, "K2", "further instance in its container, p50", "further", FURTHER_GOAL),
    ]


def _row(rounds: list[Round], number: str, metric: str, subject: str, goal: Goal) -> Row:
    of, to = (subject, "first_ms"), ("docker", "run_ms")
    return Row(
        id=number,
        metric=metric,
        against=_RUN,
        ratio=ratio(rounds, of, to),
        goal=goal,
        detail=f"{median(rounds, *of):.2f} ms : {median(rounds, *to):.2f} ms",
    )


def _docker_run(engine: DockerEngine) -> list[str]:
    image = image_name(catalog.default_runtime().name)
    return ["docker", "-H", engine.host, "run", "--rm", image, "python3", "-c", "pass"]


def _first_calls(platform: Embedded, count: int) -> Measure:
    """Deploy new functions, call each for the first time, then warm; delete them."""
    made = 0

    def measure() -> Figures:
        nonlocal made
        names = [f"plain-{number}" for number in range(made, made + count)]
        made += count
        for name in names:
            platform.deploy(name, PLAIN.replace("NAME", name))
        first_ms, warm_ms = _calls(platform, names)
        for name in names:
            platform.request("DELETE", f"/v1/functions/{name}")
        return {"first_ms": statistics.median(first_ms), "warm_ms": statistics.median(warm_ms)}

    return measure


class _Listener:
    """Notes when instances are ready."""

    def __init__(self) -> None:
        self.ready: dict[str, asyncio.Event] = {}

    def on_frame(self, instance_id: str, kind: int, *_: bytes) -> None:
        """Of interest is READY alone."""
        if kind == frames.READY:
            self.ready[instance_id].set()

    def on_output(self, instance_id: str, stream: str, text: str) -> None:
        """Nothing is written."""

    def on_exit(self, instance_id: str, how: InstanceExit) -> None:
        """Ends are not measured."""


async def _further(engine: DockerEngine, count: int) -> Figures:
    """Instances of one prepared version, one after the other, until each is ready."""
    took_ms = []
    with tempfile.TemporaryDirectory(prefix="pratai-bench-") as folder:
        (Path(folder) / "code").mkdir()
        (Path(folder) / "code" / "main.py").write_text("def main(p):\n    return p\n")
        config = Driver(name="docker", docker_host=engine.host)
        driver = create_driver(config, state_dir=f"{folder}/state", node_config=Node())
        listener = _Listener()
        await driver.open(listener)
        await driver.prepare(_spec("first", f"{folder}/code"))
        for number in range(count):
            spec = _spec(f"i{number}", f"{folder}/code")
            listener.ready[spec.instance_id] = asyncio.Event()
            start = time.perf_counter()
            await driver.start(spec)
            await listener.ready[spec.instance_id].wait()
            took_ms.append((time.perf_counter() - start) * 1e3)
        await driver.close()
    return {"first_ms": statistics.median(took_ms)}


def _spec(instance_id: str, code_dir: str) -> InstanceSpec:
    version = Version(
        namespace="default",
        name="f",
        number=1,
        digest="0" * 64,
        package_bytes=1,
        layer="",
        config=FunctionConfig(handler="main:main"),
        created_at_ms=0,
    )
    return InstanceSpec(
        instance_id=instance_id, version=version, code_dir=code_dir, layer_dir="", environment={}
    )
