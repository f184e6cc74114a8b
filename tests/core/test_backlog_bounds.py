"""All backlogs together are bounded: gateways refuse every function's events until there is room."""

from __future__ import annotations

from pratai.config import schema
from pratai.core.effects import Effect, Send
from pratai.core.leases import Leases
from pratai.gateway.core import Gateway
from pratai.scheduler.core.scheduler import Scheduler
from pratai.wire.messages import BACKLOG_LASTS_MS, Backlog, Invoke, Tick


def event(number: int, *, deadline_ms: int = 1_000) -> Invoke:
    return Invoke(
        request_id=f"r{number}",
        namespace="default",
        function=f"f{number}",
        version_id=f"v{number}",
        reply_to="",
        deadline_ms=deadline_ms,
        timeout_ms=1_000,
        accepted_at_ms=0,
        payload=b"1",
        journalled=True,
    )


def told(effects: list[Effect]) -> list[Backlog]:
    return [
        effect.message
        for effect in effects
        if isinstance(effect, Send) and isinstance(effect.message, Backlog)
    ]


def test_events_of_many_functions_fill_the_whole_and_expiry_empties_it() -> None:
    config = schema.Scheduler(backlog_total_max=10, backlog_max=5)
    scheduler = Scheduler(config, Leases(), ["gateway:a"])
    gateway = Gateway(schema.Gateway(), "gateway:a")

    said = [told(scheduler.handle(event(number), 0)) for number in range(10)]

    assert [len(one) for one in said] == [0] * 9 + [1]
    gateway.handle(said[-1][0], 0)
    assert gateway.backlog_wait_s("default", "any") >= 1

    for backlog in told(scheduler.handle(Tick(), 2_000)):
        gateway.handle(backlog, 2_000)
    scheduler.check()
    assert gateway.backlog_wait_s("default", "any") == 0


def test_a_gateway_that_hears_no_more_of_a_full_backlog_believes_it_for_a_while_only() -> None:
    """Its scheduler ended, or the word that there is room was lost."""
    gateway = Gateway(schema.Gateway(), "gateway:a")
    full = Backlog(namespace="default", function="f", full=True, retry_after_s=3)
    gateway.handle(full, 0)
    gateway.handle(full, 5_000)

    gateway.handle(Tick(), BACKLOG_LASTS_MS)
    gateway.check()
    assert gateway.backlog_wait_s("default", "f") == 3

    gateway.handle(Tick(), 5_000 + BACKLOG_LASTS_MS)
    gateway.check()
    assert gateway.backlog_wait_s("default", "f") == 0
