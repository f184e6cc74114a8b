"""The only file that reads a clock. Cores get the time as an argument; services take it here."""

from __future__ import annotations

import time


def now_ms() -> int:
    """Wall-clock time in whole milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


def monotonic_us() -> int:
    """Time in microseconds for measuring durations; its zero means nothing."""
    return time.monotonic_ns() // 1_000


def thread_us() -> int:
    """Time in microseconds that the calling thread has computed; for telling how busy it is."""
    return time.thread_time_ns() // 1_000
