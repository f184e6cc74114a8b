"""Messages between processes that are one process: handed over within the same turn.

A receiver that is in the middle of a message takes a further one right after it (`runner.py`), so
what one sender says to one receiver arrives in order, and nothing waits here.
"""

from __future__ import annotations

from pratai.metrics import count
from pratai.transport.base import Receiver
from pratai.wire.messages import Message


class MemoryTransport:
    """A transport for one process."""

    def __init__(self) -> None:
        self._receivers: dict[str, Receiver] = {}

    def bind(self, address: str, receiver: Receiver) -> None:
        """Hand every message for this address to `receiver`."""
        self._receivers[address] = receiver

    def send(self, to: str, message: Message) -> None:
        """Hand over now."""
        receiver = self._receivers.get(to)
        if receiver is None:
            count("messages_unaddressed")
        else:
            receiver(message)

    def disconnect(self, address: str) -> None:
        """Nothing leads anywhere: all are in this process."""
