"""E1: durable accepts a second into three Elasticsearch nodes, grouped against one at a time.

The store alone, without a platform around it: so many writers, each of which accepts its next
event when the last one is acknowledged, in one process. Three real nodes on this machine, one copy
of everything. After each load what is stored is compared with what was acknowledged, id by id.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.harness import (
    Figures,
    Findings,
    Goal,
    Measure,
    Plan,
    Row,
    median,
    nginx_control,
    percentile,
    ratio,
    run_rounds,
)
from bench.servers import Nginx
from pratai import ids
from pratai.config import schema
from pratai.model.invocation import Invocation
from pratai.store.elasticsearch import ElasticsearchStore

NODES = 3
WRITERS = 64
EVENT = b'{"text": "' + b"x" * 1_000 + b'"}'
GOAL = Goal(better="higher", first=2.0, best=4.0)
SCRIPT = Path(__file__).parent.parent / "scripts" / "elasticsearch"
#: {subject: (writes in one bulk, bulks at one time)}.
MODES = {"grouped": (2_000, 3), "one by one": (1, 32), "one at a time": (1, 1)}


def bench(plan: Plan) -> Findings:
    """Measure durable accepts a second in each mode."""
    with _cluster() as urls, Nginx() as nginx:
        subjects: dict[str, Measure] = {
            name: _accepts(urls, plan.seconds, batch_max, bulks_max)
            for name, (batch_max, bulks_max) in MODES.items()
        }
        # The servers' code is compiled while it runs: not in the first round.
        asyncio.run(_load(_store(urls, *MODES["grouped"]), plan.times(5, 1)))
        rounds = run_rounds(subjects, nginx_control(nginx.target()), plan)

    def told(name: str) -> str:
        p50_ms = median(rounds, name, "p50_us") / 1e3
        return f"{median(rounds, name, 'rate'):,.0f}/s (p50 {p50_ms:.1f} ms)"

    return Findings(
        rows=[
            Row(
                id="E1" if name == "one by one" else "",
                metric=f"durable accepts a second into {NODES} nodes, {WRITERS} writers",
                against=against,
                ratio=ratio(rounds, ("grouped", "rate"), (name, "rate")),
                goal=GOAL if name == "one by one" else None,
                detail=f"{told('grouped')} : {told(name)}",
            )
            for name, against in (
                ("one by one", "a request for each, 32 at one time"),
                ("one at a time", "a request for each, one at a time"),
            )
        ],
        rounds=rounds,
    )


def _accepts(urls: str, seconds: float, batch_max: int, bulks_max: int) -> Measure:
    """One load into fresh indices."""

    def measure() -> Figures:
        return asyncio.run(_load(_store(urls, batch_max, bulks_max), seconds))

    return measure


def _store(urls: str, batch_max: int, bulks_max: int) -> ElasticsearchStore:
    """A store over indices that nobody used."""
    prefix = f"bench-{os.urandom(4).hex()}"
    config = schema.Elasticsearch(urls=urls, index_prefix=prefix, bulks_max=bulks_max)
    return ElasticsearchStore(config, schema.Store(batch_max=batch_max))


async def _load(store: ElasticsearchStore, seconds: float) -> Figures:
    await store.open()
    try:
        await store.accept(_invocation())
        before = store.stats()
        acknowledged: set[str] = set()
        took_us: list[float] = []
        begun = time.perf_counter()

        async def write() -> None:
            while time.perf_counter() - begun < seconds:
                given = _invocation()
                at = time.perf_counter()
                accepted = await store.accept(given)
                took_us.append((time.perf_counter() - at) * 1e6)
                acknowledged.add(accepted.request_id)

        await asyncio.gather(*[write() for _ in range(WRITERS)])
        passed = time.perf_counter() - begun
        after = store.stats()
        stored = {item.request_id for item in await store.pending(limit=1_000_000)}
    finally:
        await store.close()
    if len(acknowledged) != len(took_us) or not acknowledged <= stored:
        raise AssertionError(f"{len(acknowledged - stored)} acknowledged events are not stored")
    if len(stored) != len(acknowledged) + 1:
        raise AssertionError(f"{len(stored)} events are stored, {len(acknowledged)} acknowledged")
    bulks = after.commits - before.commits
    return {
        "rate": len(acknowledged) / passed,
        "p50_us": percentile(took_us, 50),
        "p99_us": percentile(took_us, 99),
        "acknowledged": len(acknowledged),
        "stored": len(stored) - 1,
        "batch_mean": len(acknowledged) / bulks,
    }


def _invocation() -> Invocation:
    return Invocation(
        namespace="default",
        request_id=ids.request_id(),
        function="f",
        version="1",
        mode="async",
        event=EVENT,
    )


@contextmanager
def _cluster() -> Iterator[str]:
    """Real nodes, gone again afterwards."""
    directory = tempfile.mkdtemp(prefix="pratai-bench-elasticsearch-")
    os.chmod(directory, 0o755)
    try:
        started = subprocess.run(
            [SCRIPT, "start", str(NODES), directory], check=True, capture_output=True, text=True
        )
        yield ",".join(started.stdout.split())
    finally:
        subprocess.run([SCRIPT, "stop", directory], check=True, capture_output=True)
        shutil.rmtree(directory)
