"""How many instances to start for what waits. Pure.

What waits is worth another instance when it would wait longer than `start_wait_ms`, judged by the
smoothed run time, or when it has waited that long already; then as many again as are busy, so a
sudden crowd of long calls doubles the instances every few milliseconds.
"""

from __future__ import annotations

from pratai.node.pool import VersionPool


def instances_wanted(pool: VersionPool, start_wait_ms: int, now_ms: int) -> int:
    """Instances to start now, for what waits and to keep the version warm."""
    alive = pool.starting + len(pool.idle) + len(pool.busy)
    missing_warm = max(0, pool.keep_warm - alive)
    waiting = len(pool.queue) - pool.starting
    if waiting <= 0:
        return missing_warm
    if not alive:
        return max(1, missing_warm)
    worth = 0
    if pool.run_us:
        wait_us_max = max(1, start_wait_ms) * 1_000
        worth = min(waiting, len(pool.queue) * pool.run_us // wait_us_max - pool.starting)
    if worth <= 0 and now_ms - pool.queue[0].received_at_ms >= start_wait_ms:
        worth = min(waiting, max(1, len(pool.busy)))
    return max(worth, missing_warm)
