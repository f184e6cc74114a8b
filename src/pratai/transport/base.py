"""The contract of transports: give a message to whoever is at an address.

A transport may lose messages when a process dies; it never invents or alters one. What must not be
lost is in the journal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pratai.wire.messages import Message

Receiver = Callable[[Message], None]


class Transport(Protocol):
    """Carries messages to addresses (`scheduler`, `collector`, `node:ID`, `gateway:ID`)."""

    def bind(self, address: str, receiver: Receiver) -> None:
        """Hand every message for this address to `receiver`."""
        ...

    def send(self, to: str, message: Message) -> None:
        """Send, never blocking. Unknown addresses are counted and dropped."""
        ...

    def disconnect(self, address: str) -> None:
        """Close what leads to an address and drop what waits for it; a later `send` opens anew.
        Unknown addresses, and those of this process, are fine.
        """
        ...
