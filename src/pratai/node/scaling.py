"""How many instances to start for what waits, and how many events to give each. Pure.

What waits is worth another instance when it would wait longer than `start_wait_ms`, judged by the
smoothed run time. The past may be wrong about the present: for every instance whose call has run
longer than that, one more is started, so a sudden crowd of long calls doubles the instances every
few milliseconds. A queue that moves is left alone however long it is: its instances are short of
processors, and more of them would only share the same.
"""

from __future__ import annotations

from pratai.node.pool import Instance, VersionPool

#: Events given to one instance may take this long together; longer ones are given singly.
DEPTH_US_MAX = 500


def instances_wanted(pool: VersionPool, start_wait_ms: int, now_ms: int) -> int:
    """Instances to start now, for what waits and to keep the version warm."""
    alive = pool.alive
    missing_warm = max(0, pool.keep_warm - alive) if now_ms >= pool.warm_after_ms else 0
    waiting = len(pool.queue) - pool.starting
    if waiting <= 0:
        return missing_warm
    if not alive:
        return max(1, missing_warm)
    worth = 0
    if pool.run_us:
        wait_us_max = max(1, start_wait_ms) * 1_000
        worth = min(waiting, len(pool.queue) * pool.run_us // wait_us_max - pool.starting)
    if worth <= 0:
        stalled = sum(
            now_ms - instance.head_since_ms >= start_wait_ms for instance in pool.busy.values()
        )
        worth = min(waiting, stalled - pool.starting)
    return max(worth, missing_warm, 0)


def depth_of(pool: VersionPool, depth_max: int) -> int:
    """Events that one instance of this version may be given at once."""
    return max(1, min(depth_max, DEPTH_US_MAX // pool.run_us)) if pool.run_us else 1


def may_stall(pool: VersionPool) -> bool:
    """Whether an event waits behind another one in an instance."""
    return any(len(instance.given) > 1 for instance in pool.busy.values())


def stalled(pool: VersionPool, limit_ms: int) -> list[Instance]:
    """Instances whose first event has run since `limit_ms` or longer, with others behind it."""
    found = []
    for instance in pool.busy.values():
        waits = len(instance.given) > 1 and not instance.recalled
        if waits and instance.head_since_ms <= limit_ms:
            found.append(instance)
    return found
