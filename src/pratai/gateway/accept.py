"""Accepting events: written to the journal first, sent on their way afterwards.

The moment of 202. Used by the gateway for callers, and by whoever else has events: triggers,
destinations, replays.
"""

from __future__ import annotations

from collections.abc import Callable

from pratai import ids
from pratai.clock import now_ms
from pratai.errors import Throttled
from pratai.gateway.calls import invoke_of, new_invocation
from pratai.model.function import Version
from pratai.model.invocation import Invocation
from pratai.store.base import Accepted, Store
from pratai.transport.base import Transport

#: Seconds until an event of (namespace, function) may be accepted; 0 = now.
BacklogWait = Callable[[str, str], int]


def no_wait(namespace: str, function: str) -> int:  # noqa: ARG001 - shape of a hook
    """Hook of who is not told of backlogs."""
    return 0


class Acceptor:
    """Keeps events durably and hands them to the scheduler."""

    def __init__(
        self, store: Store, transport: Transport, *, backlog_wait_s: BacklogWait = no_wait
    ) -> None:
        self._store = store
        self._transport = transport
        self._backlog_wait_s = backlog_wait_s
        #: Request ids journalled by this process while the scheduler recovers; None afterwards.
        self.fresh: set[str] | None = set()

    async def accept(
        self,
        version: Version,
        event: bytes,
        *,
        content_type: str = "application/json",
        qualifier: str = "",
        timeout_ms: int = 0,
        idempotency_key: str = "",
        trace: str = "",
        trigger: str = "http",
        replay_of: str = "",
    ) -> Accepted:
        """Accept an async event: durable when this returns, then on its way.

        Raises:
            Throttled: the function's backlog is full.
            StoreUnavailable: the journal cannot be written.
            Conflict: the idempotency key was used with another event.

        """
        wait_s = self._backlog_wait_s(version.namespace, version.name)
        if wait_s:
            raise Throttled(
                f"too many events of {version.name}, or of all functions, wait already",
                next_step=f"Send it again in {wait_s} s.",
                retry_after_s=wait_s,
            )
        invocation = new_invocation(
            version,
            ids.request_id(),
            now_ms=now_ms(),
            mode="async",
            event=event,
            content_type=content_type,
            qualifier=qualifier,
            timeout_ms=timeout_ms,
            idempotency_key=idempotency_key,
            trace=trace,
            trigger=trigger,
            replay_of=replay_of,
        )
        accepted = await self.journal(invocation)
        if accepted.created:
            self._transport.send("scheduler", invoke_of(invocation, reply_to=""))
        return accepted

    async def journal(self, invocation: Invocation) -> Accepted:
        """Keep an invocation, without sending it anywhere."""
        if self.fresh is not None:
            self.fresh.add(invocation.request_id)
        return await self._store.accept(invocation)
