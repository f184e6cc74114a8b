"""What gateways are told of full backlogs, so that they refuse what could not be queued. Pure.

Said once when a backlog fills or has room again, to a gateway that comes all that is full, and
repeated while anything is full, since a message to a gateway may be lost.
"""

from __future__ import annotations

from collections.abc import Iterable

from pratai.core.effects import Disconnect, Effect, Send, Wake
from pratai.wire.messages import BACKLOG_REPEAT_MS, Backlog

#: (namespace, function); two empty ones = all backlogs together.
Key = tuple[str, str]


class Backlogs:
    """Gateways, and which backlogs they know to be full."""

    def __init__(self, gateways: Iterable[str]) -> None:
        #: Addresses of the gateways there are.
        self.gateways = list(gateways)
        #: {key: what was said last} of backlogs that are full, and of those that had room again
        #: since the last repetition.
        self._said: dict[Key, Backlog] = {}
        #: When what was said is repeated; 0 = not.
        self._repeat_at_ms = 0

    def say(self, backlog: Backlog, now_ms: int, effects: list[Effect]) -> None:
        """Tell every gateway."""
        self._said[backlog.namespace, backlog.function] = backlog
        effects.extend(Send(gateway, backlog) for gateway in self.gateways)
        if not self._repeat_at_ms:
            self._repeat_at_ms = now_ms + BACKLOG_REPEAT_MS
            effects.append(Wake(self._repeat_at_ms))

    def meet(self, gateways: list[str], effects: list[Effect]) -> None:
        """These are the gateways from now on."""
        known = set(self.gateways)
        effects.extend(Disconnect(gateway) for gateway in self.gateways if gateway not in gateways)
        self.gateways = gateways
        for gateway in gateways:
            if gateway not in known:
                full = (backlog for backlog in self._said.values() if backlog.full)
                effects.extend(Send(gateway, backlog) for backlog in full)

    def repeat(self, now_ms: int, effects: list[Effect]) -> None:
        """Say again what is due to be."""
        if not self._repeat_at_ms or now_ms < self._repeat_at_ms:
            return
        for key, backlog in list(self._said.items()):
            effects.extend(Send(gateway, backlog) for gateway in self.gateways)
            if not backlog.full:
                del self._said[key]
        self._repeat_at_ms = now_ms + BACKLOG_REPEAT_MS if self._said else 0

    def next_ms(self) -> int | None:
        """When something is to be repeated."""
        return self._repeat_at_ms or None

    def check(self) -> None:
        """What is to be repeated has its time."""
        assert bool(self._repeat_at_ms) or not self._said
