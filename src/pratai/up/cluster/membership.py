"""A process's place in the cluster: it says that it lives, and hears who else does.

Gateways also tell each other what was changed through one of them, and wait until the others know
(at most `ACK_S`; whoever is not heard reads it again within seconds by itself). So a call through
any gateway sees a deployment that was answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal

import structlog
from msgspec.structs import replace

from pratai import ids
from pratai.clock import now_ms
from pratai.errors import PrataiError
from pratai.metrics import count
from pratai.model.node import address_of
from pratai.transport.base import Transport
from pratai.wire.messages import Announce, Changed, ChangeSeen, Message, Peer, Roster

_log = structlog.get_logger("pratai.cluster")
#: How long a change waits for the other gateways to know of it.
ACK_S = 2.0
#: Announcements without an answer after which the scheduler counts as gone.
MISSED_MAX = 3

Heard = Callable[[Changed], Awaitable[None]]


async def remember_nothing(changed: Changed) -> None:
    """Hook of a process that remembers nothing that others change."""


class Membership:
    """Who this process is to the others. `heard`: told of what others changed."""

    def __init__(
        self,
        kind: Literal["gateway", "agent"],
        process_id: str,
        *,
        endpoint: str,
        url: str,
        announce_ms: int,
        transport: Transport,
        heard: Heard = remember_nothing,
        scheduler_changed: Callable[[], None] | None = None,
        introduced: Callable[[], None] | None = None,
    ) -> None:
        """`introduced`: told when the other gateways begin to know this one, which may have missed
        changes before that.
        """
        self._announcement = Announce(process_id=process_id, kind=kind, endpoint=endpoint, url=url)
        self.address = address_of(kind, process_id, endpoint)
        self._announce_s = announce_ms / 1_000
        self._transport = transport
        self._heard = heard
        #: Changes of others being taken in.
        self._hearing: set[asyncio.Task[None]] = set()
        self._scheduler_changed = scheduler_changed
        self._introduced = introduced
        self._is_known = False
        #: The newest answer of the scheduler; None before the first.
        self.roster: Roster | None = None
        self._heard_at_ms = 0
        self._announcing: asyncio.Task[None] | None = None
        #: {change id: (gateways that have not said that they know, resolved when all have)}.
        self._awaited: dict[str, tuple[set[str], asyncio.Future[None]]] = {}

    def start(self) -> None:
        """Begin to say that this process lives."""
        self._announcing = asyncio.get_running_loop().create_task(self._announce())

    def stop(self) -> None:
        """Say nothing more."""
        if self._announcing is not None:
            self._announcing.cancel()
        for task in self._hearing:
            task.cancel()

    @property
    def scheduler_lost(self) -> str:
        """What is wrong with the scheduler, one sentence; "" when it answers."""
        if self.roster is None:
            return "the scheduler has not answered yet"
        if self.roster.refused:
            return self.roster.refused
        silence_ms = now_ms() - self._heard_at_ms
        if silence_ms > 1_000 * self._announce_s * MISSED_MAX:
            return f"the scheduler has not answered for {silence_ms // 1_000} s"
        return ""

    @property
    def nodes(self) -> int:
        """Nodes that the scheduler has."""
        return self.roster.nodes if self.roster is not None else 0

    def receive(self, message: Message) -> bool:
        """Take a message if it is about the cluster; whether it was."""
        if isinstance(message, Roster):
            self._on_roster(message)
        elif isinstance(message, Changed):
            task = asyncio.get_running_loop().create_task(self._hear(message))
            self._hearing.add(task)
            task.add_done_callback(self._hearing.discard)
        elif isinstance(message, ChangeSeen):
            self._on_seen(message)
        else:
            return False
        return True

    async def _hear(self, changed: Changed) -> None:
        try:
            await self._heard(changed)
        except PrataiError as error:  # it is read again by itself soon; who told waits a little
            count("changes_unread")
            _log.warning("change_unread", error=error.detail)
            return
        seen = ChangeSeen(change_id=changed.change_id, process_id=self._announcement.process_id)
        self._transport.send(changed.reply_to, seen)

    async def tell(self, changed: Changed) -> None:
        """Tell the other gateways of a change; return when they know. Its id is given here."""
        peers = self._peers()
        if not peers:
            return
        change_id = ids.request_id()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._awaited[change_id] = ({peer.process_id for peer in peers}, done)
        changed = replace(changed, change_id=change_id, reply_to=self.address)
        for peer in peers:
            self._transport.send(_address(peer), changed)
        try:
            async with asyncio.timeout(ACK_S):
                await done
        except TimeoutError:
            count("changes_unseen", len(self._awaited[change_id][0]))
        finally:
            del self._awaited[change_id]

    def _peers(self) -> list[Peer]:
        own = self._announcement.process_id
        gateways = self.roster.gateways if self.roster is not None else []
        return [peer for peer in gateways if peer.process_id != own]

    def _on_roster(self, roster: Roster) -> None:
        before, self.roster = self.roster, roster
        self._heard_at_ms = now_ms()
        if roster.refused:
            count("announcements_refused")
            _log.error("refused_by_scheduler", why=roster.refused)
        own = self._announcement.process_id
        known = any(peer.process_id == own for peer in roster.gateways)
        if known and not self._is_known and self._introduced is not None:
            self._introduced()
        self._is_known = known
        restarted = before is not None and before.scheduler_id != roster.scheduler_id
        if restarted and self._scheduler_changed is not None:
            _log.warning("scheduler_restarted", scheduler_id=roster.scheduler_id)
            self._scheduler_changed()

    def _on_seen(self, seen: ChangeSeen) -> None:
        awaited = self._awaited.get(seen.change_id)
        if awaited is None:
            return
        missing, done = awaited
        missing.discard(seen.process_id)
        if not missing and not done.done():
            done.set_result(None)

    async def _announce(self) -> None:
        while True:
            self._transport.send("collector", self._announcement)
            await asyncio.sleep(self._announce_s)


def _address(peer: Peer) -> str:
    return address_of("gateway", peer.process_id, peer.endpoint)
