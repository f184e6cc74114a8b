"""Sync calls that gateways say again after a restart of the scheduler.

Such a call may be on a node, which answers its caller by itself, or may have been lost in the queue
of the scheduler before. So it waits here until the nodes have said what they have; it is queued if
none has it, and dropped if one does or if its caller has its answer meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec.structs import replace

from pratai.collector.membership import Member
from pratai.metrics import count
from pratai.wire.messages import Cancel, Invoke, Message

#: Calls held back; further ones end at their deadline.
HELD_MAX = 50_000


class Resent:
    """Calls held back until the nodes have said what they have. `members`: the nodes that are
    there; `queue`: takes a call that none of them has.
    """

    def __init__(self, queue: Callable[[Invoke], None], members: Mapping[str, Member]) -> None:
        self._queue = queue
        self._members = members
        #: {request_id: call}. At most `HELD_MAX`.
        self._held: dict[str, Invoke] = {}
        self._nodes_spoke = False

    def takes(self, message: Message) -> bool:
        """Whether a message is dealt with here: a call said again, or about one that waits."""
        if isinstance(message, Invoke) and message.resent:
            if self._nodes_spoke:
                self._decide(message, self._on_nodes())
            elif len(self._held) < HELD_MAX:
                self._held[message.request_id] = message
            else:
                count("calls_resent_in_vain")
            return True
        return isinstance(message, Cancel) and self._held.pop(message.request_id, None) is not None

    def release(self) -> None:
        """The nodes that are there have spoken: queue what none of them has."""
        self._nodes_spoke = True
        held, self._held = self._held, {}
        on_nodes = self._on_nodes()
        for invoke in held.values():
            self._decide(invoke, on_nodes)

    def _on_nodes(self) -> set[str]:
        return {request_id for member in self._members.values() for request_id, _ in member.held}

    def _decide(self, invoke: Invoke, on_nodes: set[str]) -> None:
        if invoke.request_id in on_nodes:
            count("calls_found_on_nodes")
        else:
            self._queue(replace(invoke, resent=False))
