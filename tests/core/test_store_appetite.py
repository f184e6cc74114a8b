"""Which successes are recorded: all beside an idle loop, a bounded rate beside a busy one."""

from __future__ import annotations

from pratai.store.sqlite.appetite import BUSY, WINDOW_US, Appetite


def wanted(appetite: Appetite, window: int, *, busy: float, calls: int = 500) -> int:
    """How many of the calls of one window are wanted, after a loop computed that share of it."""
    now_us = window * WINDOW_US
    computed_us = round(now_us * busy)
    return sum(appetite.wants(now_us + n, lambda: computed_us) for n in range(calls))


def test_beside_a_loop_with_time_every_success_is_wanted() -> None:
    appetite = Appetite(1_000)
    assert [wanted(appetite, window, busy=BUSY / 2) for window in (1, 2, 3)] == [500, 500, 500]


def test_beside_a_loop_at_its_limit_a_bounded_rate_is_wanted() -> None:
    appetite = Appetite(1_000)
    assert [wanted(appetite, window, busy=1.0) for window in (1, 2, 3)] == [100, 100, 100]


def test_once_the_loop_has_time_again_every_success_is_wanted() -> None:
    appetite = Appetite(1_000)
    wanted(appetite, 1, busy=1.0)
    assert appetite.wants(5 * WINDOW_US, lambda: WINDOW_US)
    assert sum(appetite.wants(5 * WINDOW_US + n, lambda: WINDOW_US) for n in range(300)) == 300
