"""Facts about scaling: how many instances what waits is worth."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import NOW, dispatch

from pratai.node.pool import Held, Pool, VersionPool
from pratai.node.scaling import DEPTH_US_MAX, depth_of, instances_wanted, may_stall, stalled

START_WAIT_MS = 5


def version(
    *, queued: int = 0, starting: int = 0, busy: int = 0, idle: int = 0, **facts: Any
) -> VersionPool:
    """A version with so many of each; its busy instances began `since_ms` ago."""
    since_ms = facts.pop("since_ms", 0)
    pool = Pool()
    made = pool.of("default/f/1")
    for number in range(starting + busy + idle):
        instance = pool.add(made, f"i{number}")
        if number < busy:
            held = Held(dispatch(f"b{number}"), NOW - since_ms)
            held.begin(instance, NOW - since_ms, kept=False)
            pool.make_busy(instance)
        elif number < busy + idle:
            pool.make_idle(instance)
    made.queue.extend(Held(dispatch(f"r{number}"), NOW) for number in range(queued))
    for name, value in facts.items():
        setattr(made, name, value)
    return made


def wanted(made: VersionPool) -> int:
    return instances_wanted(made, START_WAIT_MS, NOW)


def test_nothing_waits_nothing_starts() -> None:
    assert wanted(version(busy=3)) == 0


def test_the_first_calls_start_one() -> None:
    assert wanted(version(queued=10)) == 1


def test_no_more_start_than_wait() -> None:
    assert wanted(version(queued=3, busy=1, run_us=10_000_000)) == 3
    assert wanted(version(queued=3, starting=2, busy=1, run_us=10_000_000)) == 1
    assert wanted(version(queued=3, starting=3, run_us=10_000_000)) == 0


@pytest.mark.parametrize(("queued", "starts"), [(4, 0), (5, 1), (12, 2)])
def test_short_calls_are_worth_an_instance_when_they_would_wait_longer_than_a_start_is_worth(
    queued: int, starts: int
) -> None:
    assert wanted(version(queued=queued, busy=1, run_us=1_000)) == starts


def test_a_call_that_runs_longer_than_known_is_worth_another_instance() -> None:
    assert wanted(version(queued=2, busy=1, run_us=200, since_ms=START_WAIT_MS - 1)) == 0
    assert wanted(version(queued=2, busy=1, run_us=200, since_ms=START_WAIT_MS)) == 1
    assert wanted(version(queued=9, busy=4, run_us=200, since_ms=START_WAIT_MS)) == 4


def test_instances_are_kept_warm() -> None:
    assert wanted(version(keep_warm=3)) == 3
    assert wanted(version(keep_warm=3, starting=1, busy=1)) == 1
    assert wanted(version(keep_warm=3, idle=4)) == 0


def test_keeping_warm_waits_after_failed_starts_and_calls_do_not() -> None:
    assert wanted(version(keep_warm=3, warm_after_ms=NOW + 1)) == 0
    assert wanted(version(keep_warm=3, warm_after_ms=NOW)) == 3
    assert wanted(version(keep_warm=3, warm_after_ms=NOW + 1, queued=1)) == 1


@pytest.mark.parametrize(
    ("run_us", "depth"),
    [(0, 1), (1, 4), (DEPTH_US_MAX // 2, 2), (DEPTH_US_MAX, 1), (10 * DEPTH_US_MAX, 1)],
)
def test_only_functions_known_to_be_short_are_served_at_depth(run_us: int, depth: int) -> None:
    assert depth_of(version(run_us=run_us), 4) == depth


def test_what_waits_behind_a_long_event_is_stalled() -> None:
    made = version(busy=2, since_ms=50)
    first, second = made.busy.values()
    assert not may_stall(made)
    first.given.append("behind")

    assert may_stall(made)
    assert stalled(made, NOW - 51) == []
    assert stalled(made, NOW - 50) == [first]
    first.recalled = True
    assert stalled(made, NOW) == []
    assert second.given == type(second.given)(["b1"])
