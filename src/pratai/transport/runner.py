"""Runs a core: hands it messages with the time, does its effects, wakes it when it asked.

Every service is one of these plus the effects that are its own. This is also the one boundary at
which an unforeseen exception of a core is caught, told and counted, so that one bad message never
stops a process.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import structlog

from pratai.clock import now_ms
from pratai.core.effects import Count, Effect, Send, Wake
from pratai.core.machine import Machine
from pratai.metrics import count
from pratai.transport.base import Transport
from pratai.wire.messages import Message, Tick

_log = structlog.get_logger("pratai.service")
_TICK = Tick()


class Runner:
    """A core with its I/O. Subclasses add their own effects to `_does`."""

    def __init__(self, core: Machine, transport: Transport) -> None:
        self._core = core
        self._transport = transport
        self._does: dict[type[Effect], Callable[..., None]] = {
            Send: self._send,
            Wake: self._wake,
            Count: self._count,
        }
        #: Whether effects are being done, and what came meanwhile; empty between turns.
        self._receiving = False
        self._inbox: deque[Message] = deque()
        self._loop = asyncio.get_running_loop()
        #: The earliest wake asked for and its timer.
        self._wake_at_ms = 0
        self._timer: asyncio.TimerHandle | None = None
        #: Tasks begun for effects; held so that they are not collected, and ended by `close`.
        self._tasks: set[asyncio.Task[None]] = set()

    def receive(self, message: Message) -> None:
        """Take a message now, or right after the one whose effects are being done.

        An effect may bring this core a further message before the next effect is done. Taken at
        once, its effects would overtake those, and an instance would get its events in another
        order than the core believes.
        """
        if self._receiving:
            self._inbox.append(message)
            return
        self._receiving = True
        does, inbox = self._does, self._inbox
        while True:
            try:
                for effect in self._core.handle(message, now_ms()):
                    does[type(effect)](effect)
            except Exception:  # noqa: BLE001  the one boundary, see above
                count("messages_failed")
                _log.exception(
                    "message_failed", message=type(message).__name__, core=repr(self._core)
                )
            if not inbox:
                break
            message = inbox.popleft()
        self._receiving = False

    def close(self) -> None:
        """Stop waking; cancel what was begun."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()

    def _send(self, effect: Send) -> None:
        self._transport.send(effect.to, effect.message)

    def _count(self, effect: Count) -> None:
        count(effect.name, effect.by)

    def _wake(self, effect: Wake) -> None:
        if self._timer is not None:
            if self._wake_at_ms <= effect.at_ms:
                return
            self._timer.cancel()
        self._wake_at_ms = effect.at_ms
        delay_s = max(0, effect.at_ms - now_ms()) / 1_000
        self._timer = self._loop.call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.receive(_TICK)

    def _begin(self, work: asyncio.Task[None]) -> None:
        self._tasks.add(work)
        work.add_done_callback(self._ended)

    def _ended(self, work: asyncio.Task[None]) -> None:
        self._tasks.discard(work)
        if not work.cancelled() and work.exception() is not None:
            count("tasks_failed")
            _log.error("task_failed", core=repr(self._core), exc_info=work.exception())
