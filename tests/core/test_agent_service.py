"""The agent's service over a store in memory: what is offered, written, repeated and refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest
from msgspec.structs import replace

from pratai.agent import service as service_module
from pratai.agent.messages import Emission
from pratai.agent.service import AgentService
from pratai.config import schema
from pratai.errors import NotFound, PrataiError, StoreUnavailable, Throttled
from pratai.model.invocation import Invocation
from pratai.model.trigger import (
    TRIGGER,
    TRIGGER_STATE,
    Missed,
    TimerSource,
    Trigger,
    TriggerState,
    revised,
)
from pratai.store.base import Document
from pratai.store.memory import MemoryStore
from pratai.transport import runner
from pratai.transport.memory import MemoryTransport
from pratai.wire.messages import Tick

START_MS = 1_735_689_600_000
MINUTE_MS = 60_000
#: Turns of the loop after which whatever was begun must have ended.
TURNS = 400


class Bench:
    """A store, a clock that is set by hand, and agents whose loops are turned by hand."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now_ms = START_MS
        self.store = MemoryStore()
        self.emitted: list[Emission] = []
        #: Raised by the next offers, in order.
        self.errors: list[Exception] = []
        self.agents: list[AgentService] = []
        patch.setattr(runner, "now_ms", lambda: self.now_ms)

    async def emit(self, emission: Emission) -> str:
        if self.errors:
            raise self.errors.pop(0)
        self.emitted.append(emission)
        accepted = await self.store.accept(
            Invocation(
                namespace=emission.namespace,
                request_id=f"r{len(self.emitted)}",
                function=emission.function,
                version="1",
                event=emission.event,
                idempotency_key=emission.idempotency_key,
            )
        )
        return accepted.request_id

    async def agent(self) -> AgentService:
        agent = AgentService(
            schema.Agent(),
            f"a{len(self.agents)}",
            store=self.store,
            emit=self.emit,
            transport=MemoryTransport(),
        )
        self.agents.append(agent)
        await self.turn()
        return agent

    async def turn(self, by_ms: int = 0) -> None:
        """Let time pass in steps of a second; every agent looks and ticks in each."""
        for step in range(max(1, by_ms // 1_000)):
            self.now_ms += 1_000 if by_ms else 0
            for agent in self.agents:
                agent.receive(Tick())
                await agent._looking.round()
            for _ in range(TURNS):
                await asyncio.sleep(0)
                if not any(agent._tasks for agent in self.agents):
                    break
            assert step >= 0

    async def put(self, trigger: Trigger) -> Trigger:
        found = await self.store.get(TRIGGER, trigger.namespace, trigger.name)
        before = None if found is None else msgspec.json.decode(found.body, type=Trigger)
        after = revised(before, trigger, self.now_ms)
        await self.store.put(
            Document(
                kind=TRIGGER,
                namespace=after.namespace,
                id=after.name,
                body=msgspec.json.encode(after),
                revision=0 if found is None else found.revision,
            )
        )
        return after

    async def state(self, name: str = "t") -> TriggerState:
        found = await self.store.get(TRIGGER_STATE, "default", name)
        assert found is not None
        return msgspec.json.decode(found.body, type=TriggerState)

    async def journal(self) -> int:
        return len(await self.store.pending())

    async def end(self) -> None:
        for agent in self.agents:
            await agent.stop()


def timer(name: str = "t", *, cron: str = "* * * * *", missed: Missed = "all") -> Trigger:
    return Trigger(
        namespace="default",
        name=name,
        kind="timer",
        function="f",
        timer=TimerSource(cron=cron, missed=missed),
    )


Scene = Callable[[Bench], Awaitable[None]]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[[Scene], None]:
    def run(scene: Scene) -> None:
        async def whole() -> None:
            bench = Bench(monkeypatch)
            await bench.store.open()
            try:
                await scene(bench)
            finally:
                await bench.end()

        asyncio.run(whole())

    return run


def test_a_timer_that_is_due_becomes_an_event_with_its_time(play: Callable[[Scene], None]) -> None:
    async def scene(bench: Bench) -> None:
        await bench.agent()
        await bench.put(replace(timer(), qualifier="live"))
        await bench.turn(MINUTE_MS)

        (emission,) = bench.emitted
        assert (emission.function, emission.qualifier, emission.trigger) == ("f", "live", "timer:t")
        assert msgspec.json.decode(emission.event)["due_at_ms"] == START_MS + MINUTE_MS
        assert emission.idempotency_key == f"timer:default/t:{START_MS + MINUTE_MS}"
        state = await bench.state()
        assert (state.runs, state.last_request_id) == (1, "r1")
        assert state.next_due_ms == START_MS + 2 * MINUTE_MS

    play(scene)


def test_the_input_of_a_timer_is_its_event(play: Callable[[Scene], None]) -> None:
    async def scene(bench: Bench) -> None:
        await bench.agent()
        await bench.put(replace(timer(), input=msgspec.Raw(b'{"a": 1}')))
        await bench.turn(MINUTE_MS)

        assert [emission.event for emission in bench.emitted] == [b'{"a": 1}']

    play(scene)


@pytest.mark.parametrize(
    "error", [Throttled("full", retry_after_s=2), StoreUnavailable("out"), ValueError("odd")]
)
def test_a_run_that_cannot_be_accepted_now_is_offered_until_it_is(
    error: Exception, play: Callable[[Scene], None]
) -> None:
    async def scene(bench: Bench) -> None:
        await bench.agent()
        await bench.put(timer())
        bench.errors = [error, error, error]
        await bench.turn(MINUTE_MS + 10_000)

        state = await bench.state()
        assert (state.runs, state.failures) == (1, 0)
        assert bench.errors == []

    play(scene)


def test_a_run_of_a_function_that_does_not_exist_is_a_failure(
    play: Callable[[Scene], None],
) -> None:
    async def scene(bench: Bench) -> None:
        await bench.agent()
        await bench.put(timer())
        bench.errors = [NotFound("there is no function f")]
        await bench.turn(2 * MINUTE_MS)

        state = await bench.state()
        assert (state.runs, state.failures) == (1, 1)
        assert state.last_failure == "there is no function f"

    play(scene)


def test_a_run_whose_key_was_used_with_another_event_is_the_same_run(
    play: Callable[[Scene], None],
) -> None:
    """Accepted, the agent killed before it wrote that down, and the input changed since."""

    async def scene(bench: Bench) -> None:
        await bench.agent()
        await bench.put(timer())
        bench.errors = [PrataiError("reused", code="idempotency_key_reused")]
        await bench.turn(MINUTE_MS)

        assert (await bench.state()).runs == 1

    play(scene)


def test_an_agent_that_starts_again_goes_on_where_the_last_one_ended(
    play: Callable[[Scene], None],
) -> None:
    async def scene(bench: Bench) -> None:
        first = await bench.agent()
        await bench.put(timer())
        await bench.turn(2 * MINUTE_MS)
        await first.stop()
        bench.agents.clear()
        bench.now_ms += 10 * MINUTE_MS
        await bench.agent()
        await bench.turn(MINUTE_MS)

        assert await bench.journal() == 13
        assert (await bench.state()).runs == 13

    play(scene)


def test_two_agents_accept_each_run_once(play: Callable[[Scene], None]) -> None:
    async def scene(bench: Bench) -> None:
        await bench.agent()
        await bench.agent()
        await bench.put(timer())
        await bench.turn(5 * MINUTE_MS)

        assert await bench.journal() == 5
        assert (await bench.state()).runs == 5

    play(scene)


def test_a_timer_that_was_disabled_a_moment_ago_does_not_run(
    play: Callable[[Scene], None],
) -> None:
    """Its agent has not looked since, and reads it once more before it offers the run."""

    async def scene(bench: Bench) -> None:
        agent = await bench.agent()
        trigger = await bench.put(timer())
        await bench.turn(30_000)
        await bench.put(replace(trigger, enabled=False))
        bench.now_ms = START_MS + MINUTE_MS
        agent.receive(Tick())
        for _ in range(TURNS):
            await asyncio.sleep(0)

        assert bench.emitted == []
        assert not agent._tasks

    play(scene)


def test_a_timer_that_is_deleted_leaves_nothing_behind(play: Callable[[Scene], None]) -> None:
    async def scene(bench: Bench) -> None:
        agent = await bench.agent()
        await bench.put(timer())
        await bench.turn(MINUTE_MS)
        for kind in (TRIGGER, TRIGGER_STATE):
            await bench.store.delete(Document(kind=kind, namespace="default", id="t", body=b""))
        await bench.turn(2 * MINUTE_MS)

        assert await bench.journal() == 1
        assert agent.core.watched == {}
        assert await bench.store.get(TRIGGER_STATE, "default", "t") is None

    play(scene)


def test_what_another_agent_wrote_is_adopted(play: Callable[[Scene], None]) -> None:
    async def scene(bench: Bench) -> None:
        await bench.agent()
        await bench.put(timer())
        await bench.turn(MINUTE_MS)
        found = await bench.store.get(TRIGGER_STATE, "default", "t")
        assert found is not None
        theirs = replace(await bench.state(), cursor_ms=START_MS + 2 * MINUTE_MS, runs=7)
        await bench.store.put(
            Document(
                kind=TRIGGER_STATE,
                namespace="default",
                id="t",
                body=msgspec.json.encode(theirs),
                revision=found.revision,
            )
        )
        await bench.turn(2 * MINUTE_MS)

        assert await bench.journal() == 2, "the second minute was theirs"
        assert (await bench.state()).runs == 8

    play(scene)


def test_a_look_reads_only_what_changed(
    play: Callable[[Scene], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(bench: Bench) -> None:
        for number in range(1_200):
            await bench.put(timer(f"t{number}", cron="0 0 1 1 *"))
        agent = await bench.agent()
        decoded: list[bytes] = []
        original = service_module._trigger_of

        def trigger_of(body: bytes) -> Trigger:
            decoded.append(body)
            return original(body)

        monkeypatch.setattr(service_module, "_trigger_of", trigger_of)
        await bench.put(replace(timer("t7", cron="0 0 1 1 *"), description="changed"))
        await agent._look()

        assert len(agent.core.watched) == 1_200
        assert len(decoded) == 1
        assert agent.gauges()["agent_timers"][1] == 1_200

    play(scene)


def test_the_store_out_at_a_look_is_no_end(play: Callable[[Scene], None]) -> None:
    async def scene(bench: Bench) -> None:
        agent = await bench.agent()
        assert agent.ready
        await bench.put(timer())
        healthy = bench.store.documents

        async def out(*_: object, **__: object) -> list[Document]:
            raise StoreUnavailable("out")

        bench.store.documents = out  # type: ignore[assignment]
        await bench.turn(2_000)
        assert not agent.ready
        bench.store.documents = healthy  # type: ignore[method-assign]
        await bench.turn(MINUTE_MS)

        assert agent.ready
        assert await bench.journal() == 1

    play(scene)


def test_a_started_agent_runs_by_itself() -> None:
    async def story() -> None:
        store = MemoryStore()
        await store.open()
        thrice = asyncio.Event()
        emitted: list[str] = []

        async def emit(emission: Emission) -> str:
            emitted.append(emission.idempotency_key)
            if len(emitted) == 3:
                thrice.set()
            return f"r{len(emitted)}"

        agent = AgentService(
            schema.Agent(), "a", store=store, emit=emit, transport=MemoryTransport()
        )
        agent.start()
        trigger = Trigger(
            namespace="default",
            name="t",
            kind="timer",
            function="f",
            timer=TimerSource(every_ms=100),
        )
        body = msgspec.json.encode(revised(None, trigger, runner.now_ms()))
        await store.put(Document(kind=TRIGGER, namespace="default", id="t", body=body))
        agent.look_now()
        await asyncio.wait_for(thrice.wait(), 20)
        await agent.stop()

        assert len(set(emitted)) == len(emitted)

    asyncio.run(story())
