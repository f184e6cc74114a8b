"""When the event loop stops for the store's threads (`store/sqlite/turns.py`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from pratai import clock
from pratai.store.sqlite.turns import EVERY_S, Turns


class FakeLoop:
    def __init__(self) -> None:
        self.later: list[Callable[[], None]] = []

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        assert delay_s == EVERY_S
        self.later.append(callback)

    def run_next(self) -> None:
        self.later.pop(0)()


class World:
    """A loop that computed for `busy` of the time, and a lock that counts its stops."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, busy: float) -> None:
        self.loop = FakeLoop()
        self.outstanding = True
        self.stops: list[float] = []
        self._now_us = 0
        monkeypatch.setattr(clock, "monotonic_us", lambda: self._now_us)
        monkeypatch.setattr(clock, "thread_us", lambda: int(self._now_us * busy))
        self.turns = Turns(cast("asyncio.AbstractEventLoop", self.loop), lambda: self.outstanding)
        self.turns._answered = self  # type: ignore[assignment]
        self.is_locked = True

    def acquire(self, timeout: float) -> bool:
        self.stops.append(timeout)
        return True

    def locked(self) -> bool:
        return self.is_locked

    def release(self) -> None:
        assert self.is_locked
        self.is_locked = False

    def pass_ms(self, ms: int) -> None:
        for _ in range(ms):
            self._now_us += 1_000
            if self.loop.later:
                self.loop.run_next()


def test_a_busy_loop_stops_once_a_millisecond_for_less_than_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch, busy=1.0)
    world.turns.watch()
    world.pass_ms(5)
    assert len(world.stops) == 5
    assert max(world.stops) < EVERY_S


def test_a_loop_with_idle_time_never_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, busy=0.5)
    world.turns.watch()
    world.pass_ms(5)
    assert world.stops == []


def test_looking_ends_with_the_work_and_begins_with_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch, busy=1.0)
    world.turns.watch()
    world.turns.watch()
    assert len(world.loop.later) == 1, "one look at a time"
    world.outstanding = False
    world.pass_ms(3)
    assert (world.stops, world.loop.later) == ([], [])
    world.outstanding = True
    world.turns.watch()
    world.pass_ms(1)
    assert len(world.stops) == 1


def test_an_answer_ends_the_stop_and_a_second_one_is_harmless(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch, busy=1.0)
    world.turns.answered()
    world.turns.answered()
    assert not world.is_locked
