"""Messages between processes that are one process: delivered in order, within the same turn.

A message sent while another is being delivered waits its turn, so no receiver is entered twice
and the order is that of sending. The queue between them is empty whenever control returns to the
event loop, which is its bound.
"""

from __future__ import annotations

from collections import deque

from pratai.metrics import count
from pratai.transport.base import Receiver
from pratai.wire.messages import Message


class MemoryTransport:
    """A transport for one process."""

    def __init__(self) -> None:
        self._receivers: dict[str, Receiver] = {}
        self._waiting: deque[tuple[Receiver, Message]] = deque()
        self._delivering = False

    def bind(self, address: str, receiver: Receiver) -> None:
        """Hand every message for this address to `receiver`."""
        self._receivers[address] = receiver

    def send(self, to: str, message: Message) -> None:
        """Deliver now, or after what is being delivered."""
        receiver = self._receivers.get(to)
        if receiver is None:
            count("messages_unaddressed")
            return
        self._waiting.append((receiver, message))
        if self._delivering:
            return
        self._delivering = True
        waiting = self._waiting
        try:
            while waiting:
                receiver, message = waiting.popleft()
                receiver(message)
        finally:
            self._delivering = False
