"""Facts about the collector's I/O: handed on before recorded, members written and read again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest
from tests.builders import NOW, event, outcome, settings

from pratai.clock import now_ms
from pratai.collector import records, service
from pratai.collector.service import CollectorService
from pratai.core.effects import Deliver
from pratai.core.leases import Lease, Leases
from pratai.errors import StoreUnavailable
from pratai.model.invocation import Invocation
from pratai.model.node import NODE_KIND, SYSTEM_NAMESPACE, Capacity, NodeRecord
from pratai.store.base import Document
from pratai.store.memory import MemoryStore
from pratai.transport.memory import MemoryTransport
from pratai.wire.messages import DrainNode, Join, Leave, Message

UNAVAILABLE = StoreUnavailable("the store is away", next_step="Wait.")


class Scene:
    """A collector over a store in memory; what it delivers and says is kept."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore()
        self.leases = Leases()
        self.transport = MemoryTransport()
        self.said: list[Message] = []
        self.delivered: list[str] = []
        #: States in the journal at the moment of delivery.
        self.states: list[str] = []
        self.failures = 0
        self.transport.bind("scheduler", self.said.append)
        self.service = CollectorService(
            settings(),
            self.leases,
            transport=self.transport,
            store=self.store,
            observe=lambda _: None,
            deliver=self._deliver,
            scheduler_id="s1",
        )

    async def _deliver(self, effect: Deliver) -> None:
        if self.failures:
            self.failures -= 1
            raise UNAVAILABLE
        invocation = await self.store.invocation("default", "e1")
        assert invocation is not None
        self.delivered.append(effect.function)
        self.states.append(invocation.state)

    async def end(self) -> Invocation:
        """Have one event succeed; its record afterwards."""
        self.leases.open(
            Lease(
                invoke=event("e1"),
                attempt=1,
                node_id="n1",
                expires_at_ms=NOW,
                placed_at_ms=NOW,
            )
        )
        self.service.receive(outcome("e1"))
        assert "e1" in self.service.unrecorded
        await self.service.settle()
        invocation = await self.store.invocation("default", "e1")
        assert invocation is not None
        return invocation


def run(body: Callable[[Scene], Awaitable[None]], store: MemoryStore | None = None) -> None:
    async def main() -> None:
        scene = Scene(store)
        await scene.store.open()
        accepted = Invocation(namespace="default", request_id="e1", function="f", version="1")
        await scene.store.accept(accepted)
        await body(scene)
        scene.service.close()

    asyncio.run(main())


async def node(store: MemoryStore, node_id: str = "n1") -> NodeRecord | None:
    document = await store.get(NODE_KIND, SYSTEM_NAMESPACE, node_id)
    return msgspec.json.decode(document.body, type=NodeRecord) if document is not None else None


def test_an_outcome_is_handed_on_before_it_is_recorded() -> None:
    async def body(scene: Scene) -> None:
        invocation = await scene.end()

        assert (scene.delivered, scene.states) == (["f"], ["queued"])
        assert (invocation.state, invocation.outcome) == ("done", "succeeded")
        assert "e1" not in scene.service.unrecorded

    run(body)


def test_an_outcome_is_handed_on_again_while_the_store_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "RETRY_S_MAX", 0.0)

    async def body(scene: Scene) -> None:
        scene.failures = 3
        invocation = await scene.end()

        assert (scene.delivered, invocation.state) == (["f"], "done")

    run(body)


def test_what_cannot_be_handed_on_is_recorded_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "RETRY_S_MAX", 0.0)

    async def body(scene: Scene) -> None:
        scene.failures = service.DELIVERIES_MAX
        invocation = await scene.end()

        assert (scene.delivered, invocation.state) == ([], "done")

    run(body)


def test_a_node_is_a_document_as_long_as_something_is_known_of_it() -> None:
    async def body(scene: Scene) -> None:
        await scene.service.recover()
        scene.service.receive(
            Join(node_id="n1", endpoint="tcp://n1:5558", capacity=Capacity(slots=4))
        )
        await scene.service.settle()
        joined = await node(scene.store)
        scene.service.receive(Leave(node_id="n1"))
        await scene.service.settle()
        left = await node(scene.store)

        assert joined is not None
        assert (joined.state, joined.slots, joined.scheduler_id) == ("ready", 4, "s1")
        assert left is not None
        assert left.state == "left"

    run(body)


def test_nothing_is_written_of_members_before_what_was_written_is_read() -> None:
    """Otherwise a node that joins first would take the place of what an operator decided."""
    store = MemoryStore()

    async def before(scene: Scene) -> None:
        await scene.service.recover()
        scene.service.receive(Join(node_id="n1", endpoint="memory", capacity=Capacity(slots=4)))
        scene.service.receive(DrainNode(node_id="n1", drain=True))
        await scene.service.settle()

    async def after(scene: Scene) -> None:
        scene.service.receive(Join(node_id="n1", endpoint="memory", capacity=Capacity(slots=4)))
        await scene.service.settle()
        await scene.service.recover()

        assert DrainNode(node_id="n1", drain=True) in scene.said
        scene.service.receive(DrainNode(node_id="n1", drain=True))  # which the scheduler answers
        await scene.service.settle()
        record = await node(store)
        assert record is not None
        assert (record.state, record.draining) == ("draining", True)

    run(before, store)
    asyncio.run(_forget_invocations(store))
    run(after, store)


async def _forget_invocations(store: MemoryStore) -> None:
    await store.open()
    store._invocations.clear()


def test_a_document_that_somebody_else_wrote_or_that_cannot_be_written_is_written_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(records, "RETRY_S", 0.0)

    async def body(scene: Scene) -> None:
        await scene.service.recover()
        other = Document(kind=NODE_KIND, namespace=SYSTEM_NAMESPACE, id="n1", body=b"{}")
        await scene.store.put(other)
        put, failures = scene.store.put, [UNAVAILABLE]

        async def failing_put(document: Document) -> int:
            if failures:
                raise failures.pop()
            return await put(document)

        monkeypatch.setattr(scene.store, "put", failing_put)
        scene.service.receive(Join(node_id="n1", endpoint="memory", capacity=Capacity(slots=4)))
        await scene.service.settle()

        record = await node(scene.store)
        assert record is not None
        assert record.slots == 4

    run(body)


def test_what_a_day_old_document_says_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(scene: Scene) -> None:
        old = NodeRecord(node_id="n1", state="lost", heard_at_ms=now_ms() - 2 * 86_400_000)
        await scene.store.put(
            Document(
                kind=NODE_KIND,
                namespace=SYSTEM_NAMESPACE,
                id="n1",
                body=msgspec.json.encode(old),
            )
        )
        removed, delete = asyncio.Event(), scene.store.delete

        async def watched_delete(document: Document) -> bool:
            done = await delete(document)
            removed.set()
            return done

        monkeypatch.setattr(scene.store, "delete", watched_delete)
        await scene.service.recover()
        async with asyncio.timeout(5):
            await removed.wait()

        assert await node(scene.store) is None

    run(body)
