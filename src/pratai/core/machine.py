"""The shape of every core: messages in, effects out, invariants on demand."""

from __future__ import annotations

from typing import Protocol

from pratai.core.effects import Effect
from pratai.wire.messages import Message


class UnknownMessage(ValueError):
    """A core was given a message that its transition table does not list."""

    def __init__(self, core: object, message: Message) -> None:
        super().__init__(f"{type(core).__name__} has no transition for {type(message).__name__}")


class Machine(Protocol):
    """A core: pure, deterministic, all time given to it."""

    def handle(self, message: Message, now_ms: int) -> list[Effect]:
        """Take one message, change state, say what is to be done. Never blocks, never raises
        for anything a peer can send except `UnknownMessage`.
        """
        ...

    def check(self) -> None:
        """Assert every invariant. Runs after each step in tests and simulation."""
        ...
