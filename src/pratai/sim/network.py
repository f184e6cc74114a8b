"""How messages travel in the simulation: late, and between nodes and the rest also lost, doubled
and out of order. Links of a gateway keep their order and lose nothing but what is on its way to or
from a process that dies, or while one is cut off, as a TCP connection does.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from pratai.sim.timeline import Timeline
from pratai.wire.messages import Message

LOSS = 0.03
DOUBLE = 0.03
#: Share of messages of a faulty link that are held up for up to `HELD_UP_MS_MAX`.
HELD_UP = 0.05
HELD_UP_MS_MAX = 400
DELAY_MS_MAX = 3

#: Both in one process: nothing comes between them but time.
_ONE_PROCESS = frozenset({"scheduler", "collector"})

Receiver = Callable[[Message], None]


class Mailbox:
    """Where one life of a process is reached; its next life has another one."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver


class Network:
    """Carries messages between addresses, badly while `faulty`."""

    def __init__(self, timeline: Timeline, chance: Random) -> None:
        self._timeline = timeline
        self._chance = chance
        self._mailboxes: dict[str, Mailbox] = {}
        #: {(sender, receiver): when the last message arrives} of links that keep their order.
        self._last_ms: dict[tuple[str, str], int] = {}
        #: Addresses that nobody reaches and that reach nobody.
        self.cut_off: set[str] = set()
        self.faulty = False
        #: {sender: how often it died}.
        self._lives: dict[str, int] = {}

    def bind(self, address: str, receiver: Receiver) -> None:
        """A process lives at this address from now on."""
        self._mailboxes[address] = Mailbox(receiver)

    def unbind(self, address: str) -> None:
        """The process at this address is dead, and what is on its way to it is lost."""
        self._mailboxes.pop(address, None)

    def drop_from(self, sender: str) -> None:
        """A process died: what it said and did not arrive yet may not arrive at all."""
        self._lives[sender] = self._lives.get(sender, 0) + 1

    def send(self, sender: str, to: str, message: Message) -> None:
        """Send a message; it arrives once, twice or never."""
        mailbox = self._mailboxes.get(to)
        if mailbox is None or sender in self.cut_off or to in self.cut_off:
            return
        if {sender, to} <= _ONE_PROCESS:
            self._arrive_later(0, sender, to, mailbox, message)
            return
        if not (self.faulty and self._may_fail(sender, to)):
            self._arrive_in_order(sender, to, mailbox, message)
            return
        chance = self._chance
        if chance.random() < LOSS:
            return
        for _ in range(2 if chance.random() < DOUBLE else 1):
            late_ms = chance.randint(0, DELAY_MS_MAX)
            if chance.random() < HELD_UP:
                late_ms = chance.randint(0, HELD_UP_MS_MAX)
            self._arrive_later(late_ms, sender, to, mailbox, message)

    def _may_fail(self, sender: str, to: str) -> bool:
        of_node = sender.startswith("node:") or to.startswith("node:")
        return of_node and not to.startswith("gateway:")

    def _arrive_in_order(self, sender: str, to: str, mailbox: Mailbox, message: Message) -> None:
        at_ms = self._timeline.now_ms + self._chance.randint(0, DELAY_MS_MAX)
        at_ms = self._last_ms[sender, to] = max(at_ms, self._last_ms.get((sender, to), 0))
        self._arrive_later(at_ms - self._timeline.now_ms, sender, to, mailbox, message)

    def _arrive_later(
        self, delay_ms: int, sender: str, to: str, mailbox: Mailbox, message: Message
    ) -> None:
        life = self._lives.get(sender, 0)

        def arrive() -> None:
            if self._mailboxes.get(to) is mailbox and self._lives.get(sender, 0) == life:
                mailbox.receiver(message)

        self._timeline.after(delay_ms, arrive)
