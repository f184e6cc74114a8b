"""S1: processor time of one invocation in the scheduler's cores, by the size of the cluster.

The real cores of scheduler and collector, without process, socket or store: an invocation comes, is
placed and leased, its outcome closes the lease and gives the credit back. Functions are drawn
evenly, which is the worst case for everything that is remembered of them. Two situations: half of
all slots are busy, so each invocation is placed as it comes; and all are busy with a queue behind
them, so each outcome takes the next from its queue. What is large is really there: nodes have
joined, functions have run, leases are open.
"""

from __future__ import annotations

import gc
import random
import time
from collections import deque

from bench.harness import (
    Figures,
    Findings,
    Goal,
    Measure,
    Plan,
    Row,
    median,
    ratio,
    run_rounds,
)
from pratai.collector.core import Collector
from pratai.config import schema
from pratai.core.effects import Effect, Send
from pratai.core.leases import Leases
from pratai.model.node import Capacity
from pratai.scheduler.core.scheduler import Scheduler
from pratai.wire.messages import Dispatch, Freed, Invoke, Join, Joined, Outcome

SLOTS = 64
#: {name: (nodes, functions)}; the first is what the others are compared with.
SIZES = {
    "1 node, 10 functions": (1, 10),
    "1,000 nodes, 100,000 functions": (1_000, 100_000),
}
GOAL = Goal(better="lower", first=2.0, best=1.2)
#: Messages made ahead of the clock at one time, as a process decodes what its sockets hold.
CHUNK = 16
#: Share of the slots that is busy, and of them so many more that wait.
SITUATIONS = {"placed at once": 0.5, "from the queue": 1.25}
NOW = 1_000_000


class Cluster:
    """The cores of one scheduler with nodes, functions and load."""

    def __init__(self, nodes: int, functions: int, load: float) -> None:
        config = schema.Scheduler(queue_max=1_000_000)
        leases = Leases()
        self._scheduler = Scheduler(config, leases, ["gateway:g1"])
        self._collector = Collector(config, leases)
        self._chance = random.Random(7)
        self._functions = functions
        self._made = 0
        #: (request id, node id) of what runs on nodes, oldest first. Copies: nodes are elsewhere,
        #: and what they say is new to the processor's caches, not what the cores keep.
        self._running: deque[tuple[bytes, str]] = deque()
        self.dispatched: list[Effect] = []
        for number in range(nodes):
            self._join(f"node-{number:08x}")
        self._warm_up(nodes)
        self.begin(self.invokes(round(nodes * SLOTS * load)))
        self.note()

    def invokes(self, count: int) -> list[Invoke]:
        """New calls of functions drawn evenly."""
        return [self._invoke(self._chance.randrange(self._functions)) for _ in range(count)]

    def outcomes(self, count: int) -> list[Outcome]:
        """How the oldest ended."""
        made = []
        for _ in range(count):
            request_id, node_id = self._running.popleft()
            made.append(
                Outcome(
                    request_id=request_id.decode(),
                    attempt=1,
                    node_id=node_id,
                    outcome="succeeded",
                    run_us=1_000,
                )
            )
        return made

    def begin(self, invokes: list[Invoke]) -> None:
        """Calls come."""
        handle, dispatched = self._scheduler.handle, self.dispatched
        for invoke in invokes:
            dispatched += handle(invoke, NOW)

    def end(self, outcomes: list[Outcome]) -> None:
        """Calls end."""
        close, free, dispatched = self._collector.handle, self._scheduler.handle, self.dispatched
        for outcome in outcomes:
            for effect in close(outcome, NOW):
                if type(effect) is Send and type(effect.message) is Freed:
                    dispatched += free(effect.message, NOW)

    def note(self) -> None:
        """Send what was dispatched."""
        for effect in self.dispatched:
            if type(effect) is Send and type(effect.message) is Dispatch:
                node_id = effect.to.partition("@")[0].removeprefix("node:")
                self._running.append((effect.message.request_id.encode(), node_id))
        self.dispatched.clear()

    def _invoke(self, function: int) -> Invoke:
        self._made += 1
        name = f"function-{function}"
        return Invoke(
            request_id=f"01933b7e-8f1a-7c3e-9d0a-{self._made:012x}",
            namespace="default",
            function=name,
            version_id=f"default/{name}/1",
            reply_to="gateway:g1",
            deadline_ms=NOW + 30_000,
            timeout_ms=30_000,
            accepted_at_ms=NOW,
            payload=b"{}",
        )

    def _join(self, node_id: str) -> None:
        capacity = Capacity(slots=SLOTS, memory_mb=65_536)
        join = Join(node_id=node_id, endpoint=f"tcp://{node_id}:5558", capacity=capacity)
        for effect in self._collector.handle(join, NOW):
            if type(effect) is Send and type(effect.message) is Joined:
                self._scheduler.handle(effect.message, NOW)

    def _warm_up(self, nodes: int) -> None:
        """Every function has run once."""
        for function in range(self._functions):
            self.begin([self._invoke(function)])
            self.note()
            if len(self._running) > nodes * SLOTS // 2:
                self.end(self.outcomes(1))
        self.end(self.outcomes(len(self._running)))


def bench(plan: Plan) -> Findings:
    """Measure every size in both situations."""
    subjects: dict[str, Measure] = {}
    for situation, load in SITUATIONS.items():
        for name, (nodes, functions) in SIZES.items():
            cluster = Cluster(nodes, functions, load)
            subjects[f"{name}, {situation}"] = _measure(cluster, plan.times(40_000, 10_000))
    gc.collect()
    gc.freeze()  # as a scheduler process does with what lives as long as it
    gc.set_threshold(50_000, 20, 50)
    rounds = run_rounds(subjects, _control, plan)
    first, *others = SIZES
    rows = [
        Row(
            id="S1",
            metric=f"processor time of an invocation in the scheduler, {name}, {situation}",
            against=first,
            ratio=ratio(rounds, (f"{name}, {situation}", "us"), (f"{first}, {situation}", "us")),
            goal=GOAL,
            detail=" : ".join(
                f"{median(rounds, f'{each}, {situation}', 'us'):.1f} us" for each in (name, first)
            ),
        )
        for name in others
        for situation in SITUATIONS
    ]
    return Findings(rows=rows, rounds=rounds)


def _measure(cluster: Cluster, count: int) -> Measure:
    def measure() -> Figures:
        spent_s = 0.0
        for _ in range(count // CHUNK):
            invokes, outcomes = cluster.invokes(CHUNK), cluster.outcomes(CHUNK)
            start_s = time.thread_time()
            cluster.begin(invokes)
            cluster.end(outcomes)
            spent_s += time.thread_time() - start_s
            cluster.note()
        return {"us": spent_s / count * 1e6}

    return measure


def _control() -> float:
    """What this processor does meanwhile: changes of a dict a second."""
    numbers: dict[int, int] = {}
    count = 300_000
    start_s = time.thread_time()
    for number in range(count):
        numbers[number & 1_023] = number
    return count / (time.thread_time() - start_s)
