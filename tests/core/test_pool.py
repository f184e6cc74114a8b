"""Facts about the pool: what an instance is worth, what is kept warm, what is remembered."""

from __future__ import annotations

import pytest
from tests.builders import NOW, dispatch

from pratai.node.pool import WARM_RETRY_MS, WARM_RETRY_MS_MAX, Held, Instance, Pool, VersionPool


def idle(pool: Pool, name: str, version_id: str = "f", **facts: int) -> Instance:
    """An idle instance: `uses`, `start_us`, `memory_bytes`."""
    instance = pool.add(pool.of(version_id), name)
    for fact, value in facts.items():
        setattr(instance, fact, value)
    pool.make_idle(instance)
    pool.check({}, 1)
    return instance


@pytest.mark.parametrize(
    ("worthless", "worthy"),
    [
        ({"uses": 1, "start_us": 9_000}, {"uses": 5, "start_us": 9_000}),
        ({"uses": 2, "start_us": 1_000}, {"uses": 2, "start_us": 900_000}),
        (
            {"uses": 2, "start_us": 9_000, "memory_bytes": 1 << 30},
            {"uses": 2, "start_us": 9_000, "memory_bytes": 1 << 20},
        ),
    ],
    ids=["rarely used", "cheap to start", "large"],
)
def test_what_is_rarely_used_cheap_to_start_or_large_goes_first(
    worthless: dict[str, int], worthy: dict[str, int]
) -> None:
    pool = Pool()
    idle(pool, "keep", "f", **worthy)
    first = idle(pool, "go", "g", **worthless)

    assert pool.least_valuable() is first


def test_an_instance_used_long_ago_loses_to_one_used_since_others_were_evicted() -> None:
    """The clock rises with each eviction, so old worth fades."""
    pool = Pool()
    old = idle(pool, "old", uses=3, start_us=9_000)
    victim = idle(pool, "victim", "g", uses=3, start_us=8_000)
    assert pool.least_valuable() is victim
    pool.begin_stop(victim, "evicted")
    pool.remove(victim)
    new = idle(pool, "new", "h", uses=1, start_us=9_000)

    assert pool.least_valuable() is old
    assert new.worth > old.worth


def test_nothing_is_given_up_of_a_version_that_has_no_more_than_it_keeps_warm() -> None:
    pool = Pool()
    first, second = idle(pool, "a"), idle(pool, "b")
    pool.of("f").keep_warm = 1

    assert pool.least_valuable() in {first, second}
    pool.begin_stop(first, "evicted")
    assert pool.least_valuable() is None


def test_a_version_to_be_kept_warm_is_not_forgotten_while_it_has_nothing() -> None:
    pool = Pool()
    version = pool.of("f")
    version.keep_warm = 1
    pool.drop_if_unused(version)
    assert pool.versions == {"f": version}

    version.keep_warm = 0
    pool.drop_if_unused(version)

    assert pool.versions == {}


def test_run_times_are_smoothed() -> None:
    version = VersionPool("f")
    version.learn_run(800)
    version.learn_run(1_600)

    assert version.run_us == 900


def test_failed_starts_put_off_further_ones_up_to_a_bound_until_one_answers() -> None:
    version = VersionPool("f")
    waits = []
    for _ in range(9):
        version.learn_failed_start(NOW)
        waits.append(version.warm_after_ms - NOW)
    assert waits[:3] == [WARM_RETRY_MS, 2 * WARM_RETRY_MS, 4 * WARM_RETRY_MS]
    assert waits[-1] == WARM_RETRY_MS_MAX

    version.learn_run(100)
    version.learn_failed_start(NOW)

    assert version.warm_after_ms == NOW + WARM_RETRY_MS


def test_why_a_start_is_cold() -> None:
    pool = Pool()
    version = pool.of("f")
    assert version.cold_reason() == "first call of this version on this node"
    instance = pool.add(version, "a")
    instance.given.append("r1")
    pool.make_busy(instance)
    assert version.cold_reason() == "all 1 instances were busy"

    instance.given.clear()
    pool.begin_stop(instance, "the instance before it was evicted: the node was full")

    assert version.cold_reason() == "the instance before it was evicted: the node was full"


def test_measuring_knows_only_what_is_still_here() -> None:
    pool = Pool()
    instance = idle(pool, "a")

    assert pool.measure({"a": 7, "gone": 9}) == 7
    assert instance.memory_bytes == 7


def test_a_pool_shows_its_versions() -> None:
    pool = Pool()
    idle(pool, "a")
    pool.add(pool.of("g"), "b")
    pool.of("g").queue.append(Held(dispatch("r1"), NOW))

    assert repr(pool) == (
        "[f absent: 0 queued | 0 starting, 1 idle, 0 busy] "
        "[g absent: 1 queued | 1 starting, 0 idle, 0 busy]"
    )
