"""Best-effort writes on their way: leases, records of sync calls, logs. Event loop only; no I/O.

Bounded in number and bytes; what does not fit is counted. While Elasticsearch takes nothing they
wait here, within the same bounds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from pratai.config import schema
from pratai.model.invocation import Invocation, LogRecord
from pratai.store.base import LeaseRecord

#: Bytes of events, results and log text that may wait in all.
BYTES_MAX = 64 * 1024 * 1024
#: Of the successes that come while the buffer is half full, one in so many is kept.
SAMPLE = 4
#: How often it is looked whether the loop is at its limit, and the share of time from which it is.
WINDOW_US = 100_000
BUSY = 0.8


class Buffers:
    """At most `record_buffer_max` leases, records and logs each, and `BYTES_MAX` bytes.

    Of successes that find their buffer half full every `SAMPLE`th is wanted, and beside a busy loop
    only `record_busy_rate_max` a second. A failure that finds no room takes the place of the oldest
    success, or of the oldest failure where there is none.
    """

    def __init__(self, config: schema.Store) -> None:
        self._records_max = config.record_buffer_max
        self._keep_successes = config.record_sync == "all"
        self._each_window = max(1, config.record_busy_rate_max * WINDOW_US // 1_000_000)
        #: {(namespace, request id): newest lease}. Taken out again when its outcome comes first.
        self._leases: dict[tuple[str, str], LeaseRecord] = {}
        self._successes: deque[Invocation] = deque()
        self._failures: deque[Invocation] = deque()
        self._logs: deque[LogRecord] = deque()
        self._bytes = 0
        self._unsampled = 0
        self._window_us = 0
        self._computed_us = 0
        self._is_busy = False
        self._left = 0
        #: Records given up so far.
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._leases) + len(self._successes) + len(self._failures) + len(self._logs)

    @property
    def has_leases(self) -> bool:
        """Whether leases wait."""
        return bool(self._leases)

    @property
    def has_records(self) -> bool:
        """Whether records or logs wait."""
        return len(self) > len(self._leases)

    # giving

    def add_lease(self, record: LeaseRecord) -> None:
        """Keep a lease; beyond the bound it is dropped: the attempt is repeated on recovery."""
        key = (record.namespace, record.request_id)
        if key not in self._leases and len(self._leases) >= self._records_max:
            self.dropped += 1
            return
        known = self._leases.get(key)
        if known is None or known.attempt <= record.attempt:
            self._leases[key] = record

    def drop_lease(self, namespace: str, request_id: str) -> None:
        """Forget a lease whose outcome is about to be written."""
        self._leases.pop((namespace, request_id), None)

    def wants_success(self, now_us: int, computed_us: Callable[[], int]) -> bool:
        """Whether to offer the record of a further success; what is not wanted is counted."""
        if not self._keep_successes:
            return False
        if self._has_time(now_us, computed_us) and (
            2 * len(self._successes) < self._records_max or self._is_sample()
        ):
            return True
        self.dropped += 1
        return False

    def add_record(self, invocation: Invocation) -> None:
        """Keep the record of a sync call, if there is room for it."""
        succeeded = invocation.outcome == "succeeded"
        if succeeded and not self._keep_successes:
            return
        size = _size(invocation)
        if not self._has_room(size) and (succeeded or not self._make_room(size)):
            self.dropped += 1
            return
        self._bytes += size
        (self._successes if succeeded else self._failures).append(invocation)

    def add_logs(self, records: list[LogRecord]) -> None:
        """Keep log records; beyond the bound the rest is dropped."""
        for at, record in enumerate(records):
            size = _size(record)
            if len(self._logs) >= self._records_max or self._bytes + size > BYTES_MAX:
                self.dropped += len(records) - at
                break
            self._bytes += size
            self._logs.append(record)

    def _has_time(self, now_us: int, computed_us: Callable[[], int]) -> bool:
        passed_us = now_us - self._window_us
        if passed_us >= WINDOW_US:
            computed = computed_us()
            self._is_busy = computed - self._computed_us > BUSY * passed_us
            self._window_us, self._computed_us = now_us, computed
            self._left = self._each_window
        if not self._is_busy:
            return True
        self._left -= 1
        return self._left >= 0

    def _is_sample(self) -> bool:
        self._unsampled = (self._unsampled + 1) % SAMPLE
        return self._unsampled == 0

    def _has_room(self, size: int) -> bool:
        records = len(self._successes) + len(self._failures)
        return records < self._records_max and self._bytes + size <= BYTES_MAX

    def _make_room(self, size: int) -> bool:
        for buffer in (self._successes, self._failures):
            while buffer and not self._has_room(size):
                self._bytes -= _size(buffer.popleft())
                self.dropped += 1
        return self._has_room(size)

    # taking

    def take_leases(self, count: int) -> list[LeaseRecord]:
        """Up to so many leases."""
        taken: list[LeaseRecord] = []
        while self._leases and len(taken) < count:
            taken.append(self._leases.pop(next(iter(self._leases))))
        return taken

    def take_records(self, count: int) -> tuple[list[Invocation], list[LogRecord]]:
        """Up to so many: failures first, then logs and successes, half of the rest each."""
        records: list[Invocation] = []
        logs: list[LogRecord] = []
        while self._failures and len(records) < count:
            records.append(self._failures.popleft())
        logs_max = (count - len(records) + 1) // 2
        while self._logs and len(logs) < logs_max:
            logs.append(self._logs.popleft())
        while self._successes and len(records) + len(logs) < count:
            records.append(self._successes.popleft())
        while self._logs and len(records) + len(logs) < count:
            logs.append(self._logs.popleft())
        self._bytes -= sum(map(_size, records)) + sum(map(_size, logs))
        return records, logs


def _size(item: Invocation | LogRecord) -> int:
    if isinstance(item, LogRecord):
        return len(item.text)
    return len(item.event or b"") + len(item.result or b"")
