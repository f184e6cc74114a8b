"""The runner: effects are done in the order in which the core decided them."""

from __future__ import annotations

import asyncio

from pratai.core.effects import Effect, Send
from pratai.transport.memory import MemoryTransport
from pratai.transport.runner import Runner
from pratai.wire.messages import Cancel, Message


class Relay:
    """A core that answers `first` with two sends; the first of them comes back at once."""

    def handle(self, message: Message, now_ms: int) -> list[Effect]:
        assert isinstance(message, Cancel)
        if message.request_id == "first":
            return [
                Send("echo", Cancel(request_id="second")),
                Send("log", Cancel(request_id="first")),
            ]
        return [Send("log", message)]

    def check(self) -> None:
        return


def test_a_message_that_an_effect_brings_back_does_not_overtake_the_other_effects() -> None:
    order: list[str] = []

    async def run() -> None:
        transport = MemoryTransport()
        runner = Runner(Relay(), transport)
        transport.bind("echo", runner.receive)
        transport.bind("log", lambda message: order.append(message.request_id))
        runner.receive(Cancel(request_id="first"))

    asyncio.run(run())

    assert order == ["first", "second"]
