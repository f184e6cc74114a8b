"""Best-effort writes on their way to the writer: leases, records of sync calls, logs.

Added to by the event loop, emptied by the writer's thread, without locks: every step is one
operation of a dict or deque, and each counter is written by one side only.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from pratai.model.invocation import Invocation, LogRecord
from pratai.store.base import LeaseRecord
from pratai.store.sqlite.pace import Pace
from pratai.store.sqlite.writes import LEASE, LOG, RECORD

#: Bytes of events, results and log text that may wait in all.
BYTES_MAX = 64 * 1024 * 1024
#: A lease is in a batch at the latest after this: until then its loss repeats an attempt.
LEASES_EVERY_US = 25_000
#: Records and logs are in a batch at the latest after this, where no more come than fit in one.
RECORDS_EVERY_US = 250_000
#: Of the successes that come while the buffer is half full, one in so many is kept.
SAMPLE = 4

_Write = tuple[int, Any, None]


class Buffers:
    """Holds at most `records_max` of each kind and `BYTES_MAX` bytes; what does not fit is counted.

    Of successes that find their buffer half full every `SAMPLE`th is wanted; one that finds it full
    is dropped; one of a failure takes the place of the oldest success, or, where there
    is none, of the oldest failure. At most `batch_max` records and logs leave in a period.
    """

    def __init__(self, records_max: int, *, batch_max: int, successes: bool) -> None:
        self._records_max = records_max
        self._leases_pace = Pace(LEASES_EVERY_US, records_max)
        self._records_pace = Pace(RECORDS_EVERY_US, batch_max)
        self._unsampled = 0
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

    # `add_...` answer whether the writer has to be told: it knows of nothing of this pace yet.

    def add_lease(self, record: LeaseRecord) -> bool:
        """Keep a lease; beyond the bound it is dropped: the attempt is repeated on recovery."""
        if len(self._leases) >= self._records_max:
            self._dropped_here += 1
            return False
        self._leases[record.namespace, record.request_id] = record
        return _stir(self._leases_pace)

    def drop_lease(self, namespace: str, request_id: str) -> None:
        """Forget a lease whose outcome is about to be written."""
        self._leases.pop((namespace, request_id), None)

    def wants_success(self) -> bool:
        """Whether to offer the record of a further success; what is not wanted is counted."""
        if not self._keep_successes:
            return False
        if 2 * len(self._successes) < self._records_max or self._is_sample():
            return True
        self._dropped_here += 1
        return False

    def count_dropped(self) -> None:
        """A record that was not wanted."""
        self._dropped_here += 1

    def add_record(self, invocation: Invocation) -> bool:
        """Keep the record of a sync call, if there is room for it."""
        succeeded = invocation.outcome == "succeeded"
        if succeeded and not self._keep_successes:
            return False
        size = len(invocation.event or b"") + len(invocation.result or b"")
        if not self._has_room(size) and (succeeded or not self._make_room(size)):
            self._dropped_here += 1
            return False
        self._bytes_added += size
        (self._successes if succeeded else self._failures).append(invocation)
        return _stir(self._records_pace)

    def add_logs(self, records: list[LogRecord]) -> bool:
        """Keep log records; beyond the bound the rest is dropped."""
        for at, record in enumerate(records):
            size = len(record.text)
            waiting = self._bytes_added - self._bytes_taken
            if len(self._logs) >= self._records_max or waiting + size > BYTES_MAX:
                self._dropped_here += len(records) - at
                break
            self._bytes_added += size
            self._logs.append(record)
        return len(self._logs) > 0 and _stir(self._records_pace)

    def _is_sample(self) -> bool:
        self._unsampled = (self._unsampled + 1) % SAMPLE
        return self._unsampled == 0

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

    def due_us(self, now_us: int) -> int | None:
        """When `take` will have something by itself; None for not before something is added."""
        due = [pace.due_us(now_us) for pace in (self._leases_pace, self._records_pace)]
        return min((at for at in due if at is not None), default=None)

    def take(self, now_us: int, *, at_once: bool = False) -> list[_Write]:
        """What is due, up to a slice of each pace. `at_once`: whether or not it is due."""
        taken: list[_Write] = []
        if count := self._leases_pace.begin(now_us, at_once=at_once):
            self._take_leases(taken, count)
            self._leases_pace.end(now_us, len(taken), is_empty=not self._leases)
        if count := self._records_pace.begin(now_us, at_once=at_once):
            records = self._take_records(count)
            is_empty = not (self._failures or self._successes or self._logs)
            self._records_pace.end(now_us, len(records), is_empty=is_empty)
            taken += records
        return taken

    def _take_leases(self, taken: list[_Write], count: int) -> None:
        while len(taken) < count and self._leases:
            try:
                taken.append((LEASE, self._leases.popitem()[1], None))
            except KeyError:
                break

    def _take_records(self, count: int) -> list[_Write]:
        """Failures first; then logs and successes, neither of which keeps the other waiting."""
        taken: list[_Write] = []
        self._move(RECORD, self._failures, taken, count)
        self._move(LOG, self._logs, taken, (len(taken) + count + 1) // 2)
        self._move(RECORD, self._successes, taken, count)
        self._move(LOG, self._logs, taken, count)
        return taken

    def _move(self, kind: int, buffer: deque[Any], taken: list[_Write], upto: int) -> None:
        while len(taken) < upto:
            try:
                item = buffer.popleft()
            except IndexError:
                break
            self._bytes_taken += _size(item)
            taken.append((kind, item, None))

    def count_lost(self, count: int) -> None:
        """Writes that were taken and could not be written."""
        self._dropped_there += count


def _stir(pace: Pace) -> bool:
    if pace.stirred:
        return False
    pace.stirred = True
    return True


def _size(item: Invocation | LogRecord) -> int:
    if isinstance(item, LogRecord):
        return len(item.text)
    return len(item.event or b"") + len(item.result or b"")
