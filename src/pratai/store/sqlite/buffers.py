"""Best-effort writes on their way to the writer: leases, records of sync calls, logs.

Added to by the event loop, emptied by the writer's thread, without locks: every step is one
operation of a dict or deque, and each counter is written by one side only.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from pratai.model.invocation import Invocation, LogRecord
from pratai.store.base import LeaseRecord
from pratai.store.sqlite.writes import LEASE, LOG, RECORD

#: Bytes of events, results and log text that may wait in all.
BYTES_MAX = 64 * 1024 * 1024


class Buffers:
    """Holds at most `records_max` of each kind and `BYTES_MAX` bytes; what does not fit is counted.

    A record of a success that finds its buffer full is dropped; one of a failure takes the place
    of the oldest success, or, where there is none, of the oldest failure.
    """

    def __init__(self, records_max: int, *, successes: bool) -> None:
        self._records_max = records_max
        self._keep_successes = successes
        #: {(namespace, request id): newest lease}. Taken out again when its outcome comes first.
        self._leases: dict[tuple[str, str], LeaseRecord] = {}
        self._successes: deque[Invocation] = deque()
        self._failures: deque[Invocation] = deque()
        self._logs: deque[LogRecord] = deque()
        self._bytes_added = 0
        self._bytes_taken = 0
        self._dropped_here = 0
        self._dropped_there = 0

    @property
    def dropped(self) -> int:
        """Records given up so far."""
        return self._dropped_here + self._dropped_there

    def __len__(self) -> int:
        return len(self._leases) + len(self._successes) + len(self._failures) + len(self._logs)

    # the event loop's side

    def add_lease(self, record: LeaseRecord) -> None:
        """Keep a lease; beyond the bound it is dropped: the attempt is repeated on recovery."""
        if len(self._leases) >= self._records_max:
            self._dropped_here += 1
            return
        self._leases[record.namespace, record.request_id] = record

    def drop_lease(self, namespace: str, request_id: str) -> None:
        """Forget a lease whose outcome is about to be written."""
        self._leases.pop((namespace, request_id), None)

    def add_record(self, invocation: Invocation) -> bool:
        """Keep the record of a sync call; False when it need not or cannot be kept."""
        succeeded = invocation.outcome == "succeeded"
        if succeeded and not self._keep_successes:
            return False
        size = len(invocation.event or b"") + len(invocation.result or b"")
        if not self._has_room(size) and (succeeded or not self._make_room(size)):
            self._dropped_here += 1
            return False
        self._bytes_added += size
        (self._successes if succeeded else self._failures).append(invocation)
        return True

    def add_logs(self, records: list[LogRecord]) -> None:
        """Keep log records; beyond the bound the rest is dropped."""
        for at, record in enumerate(records):
            size = len(record.text)
            waiting = self._bytes_added - self._bytes_taken
            if len(self._logs) >= self._records_max or waiting + size > BYTES_MAX:
                self._dropped_here += len(records) - at
                return
            self._bytes_added += size
            self._logs.append(record)

    def _has_room(self, size: int) -> bool:
        records = len(self._successes) + len(self._failures)
        waiting = self._bytes_added - self._bytes_taken
        return records < self._records_max and waiting + size <= BYTES_MAX

    def _make_room(self, size: int) -> bool:
        for buffer in (self._successes, self._failures):
            while not self._has_room(size):
                try:
                    given_up = buffer.popleft()
                except IndexError:
                    break
                self._bytes_added -= _size(given_up)
                self._dropped_here += 1
        return self._has_room(size)

    # the writer's side

    def take(self, count: int) -> list[tuple[int, Any, None]]:
        """Up to `count` writes, leases and failures first."""
        taken: list[tuple[int, Any, None]] = []
        while len(taken) < count and self._leases:
            try:
                taken.append((LEASE, self._leases.popitem()[1], None))
            except KeyError:
                break
        for kind, buffer in (
            (RECORD, self._failures),
            (RECORD, self._successes),
            (LOG, self._logs),
        ):
            while len(taken) < count:
                try:
                    item = buffer.popleft()
                except IndexError:
                    break
                self._bytes_taken += _size(item)
                taken.append((kind, item, None))
        return taken

    def count_lost(self, count: int) -> None:
        """Writes that were taken and could not be written."""
        self._dropped_there += count


def _size(item: Invocation | LogRecord) -> int:
    if isinstance(item, LogRecord):
        return len(item.text)
    return len(item.event or b"") + len(item.result or b"")
