"""When a timer is due: cron expressions in a time zone, and intervals. Pure: time is an argument.

cronsim parses expressions and finds the matching *local* times; what a local time is in real time
is decided here (`docs/decisions/0010-timers.md`), because cronsim's own stepping through a change
of daylight saving leaves out runs in zones that shift by half an hour. The rules are Debian cron's:

- fixed jobs (neither minute nor hour begins with `*`) follow the wall clock: what falls into a
  skipped hour is due at the first moment after it, what falls into a repeated hour is due once, the
  first time; several runs that fall on one moment are one run;
- wildcard jobs follow real time: they are due whenever the wall clock shows a time that matches,
  so not at all in a skipped hour and both times in a repeated one.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from pratai.errors import InvalidField
from pratai.model.trigger import TimerSource

EVERY_MS_MIN = 100
#: Expressions kept as they were read, since many timers share one.
EXPRESSIONS_MAX = 1_024
#: Due times are looked for up to here (year 9000), far from where `datetime` ends.
END_MS = 221_845_392_000_000
NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  local times are naive here on purpose
_EPOCH_UTC = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
#: No zone's clock was ever moved by more than this at once, rounded up.
_SHIFT_MAX_S = 26 * 3_600


class Schedule:
    """The due times of one timer."""

    def next_after(self, at_ms: int) -> int | None:
        """The first due time later than `at_ms`; None when there is none."""
        raise NotImplementedError

    def newest(self, after_ms: int, until_ms: int, limit: int) -> list[int]:
        """The newest due times, at most `limit`, in (`after_ms`, `until_ms`], ascending."""
        raise NotImplementedError

    def count(self, after_ms: int, until_ms: int, limit: int) -> int:
        """How many due times are in (`after_ms`, `until_ms`]; no further counted than `limit`."""
        counted = 0
        due_ms = self.next_after(after_ms)
        while due_ms is not None and due_ms <= until_ms and counted < limit:
            counted += 1
            due_ms = self.next_after(due_ms)
        return counted


class Interval(Schedule):
    """Every `every_ms`, counted from `start_at_ms`, the first one then."""

    def __init__(self, every_ms: int, start_at_ms: int) -> None:
        self._every_ms = every_ms
        self._start_at_ms = start_at_ms

    def next_after(self, at_ms: int) -> int | None:
        """Plain arithmetic."""
        if at_ms < self._start_at_ms:
            return self._start_at_ms
        elapsed = (at_ms - self._start_at_ms) // self._every_ms
        return self._start_at_ms + (elapsed + 1) * self._every_ms

    def newest(self, after_ms: int, until_ms: int, limit: int) -> list[int]:
        """Plain arithmetic."""
        count = min(limit, self.count(after_ms, until_ms, END_MS))
        last = (until_ms - self._start_at_ms) // self._every_ms
        return [
            self._start_at_ms + number * self._every_ms
            for number in range(last - count + 1, last + 1)
        ]

    def count(self, after_ms: int, until_ms: int, limit: int) -> int:
        """Plain arithmetic."""
        first = max(-1, (after_ms - self._start_at_ms) // self._every_ms)
        last = max(-1, (until_ms - self._start_at_ms) // self._every_ms)
        return min(limit, max(0, last - first))


class Cron(Schedule):
    """A cron expression in a time zone, not due before `start_at_ms`."""

    def __init__(self, expression: str, zone: ZoneInfo, start_at_ms: int = 0) -> None:
        self._matches = _matches(expression)
        self._zone = zone
        self._start_at_ms = start_at_ms

    def next_after(self, at_ms: int) -> int | None:
        """The first due time later than `at_ms`."""
        at_s = max(at_ms, self._start_at_ms - 1) // 1_000
        if at_s * 1_000 > END_MS:
            return None
        due_s = self._next_fixed(at_s) if self._matches.fixed else self._next_real(at_s)
        return None if due_s is None else due_s * 1_000

    def newest(self, after_ms: int, until_ms: int, limit: int) -> list[int]:
        """Looks back in windows that double, so dense and rare schedules cost alike."""
        window_ms = limit * self._matches.least_gap_s * 1_000
        while True:
            start_ms = max(after_ms, until_ms - window_ms)
            found = list(self._between(start_ms, until_ms))
            if len(found) >= limit or start_ms == after_ms:
                return found[-limit:]
            window_ms *= 2

    def _between(self, after_ms: int, until_ms: int) -> Iterator[int]:
        due_ms = self.next_after(after_ms)
        while due_ms is not None and due_ms <= until_ms:
            yield due_ms
            due_ms = self.next_after(due_ms)

    def _next_fixed(self, at_s: int) -> int | None:
        """Local times in order, each at its first real moment, or the first one after a gap."""
        local = _naive(at_s + self._offset_s(at_s))
        while True:
            matched = self._matches.after(local)
            if matched is None:
                return None
            due_s = self._first_moment(matched)
            if due_s > at_s:
                return due_s
            local = matched

    def _first_moment(self, local: datetime) -> int:
        """The first second at which the wall clock shows `local` or, if it never does, later."""
        early_s = _seconds(local) - int(_offset(self._zone, local, fold=0).total_seconds())
        if _naive(early_s + self._offset_s(early_s)) == local:
            return early_s
        # inside a gap: fold=0 reads it with the offset before, so `early_s` is after the gap
        before_s = early_s - _SHIFT_MAX_S
        return self._transition(before_s, early_s)

    def _next_real(self, at_s: int) -> int | None:
        """The wall clock followed in real time, one stretch of constant offset after another."""
        while True:
            offset_s = self._offset_s(at_s + 1)
            matched = self._matches.after(_naive(at_s + offset_s))
            if matched is None:
                return None
            due_s = _seconds(matched) - offset_s
            look_s = min(due_s, at_s + _SHIFT_MAX_S)
            if self._offset_s(look_s) != offset_s:
                at_s = self._transition(at_s + 1, look_s) - 1
            elif look_s == due_s:
                return due_s
            else:
                # Far away. A later change of the clock shows again only what comes after `at_s`,
                # none of which matches; the last stretch before the match is looked at closely.
                at_s = max(look_s, due_s - _SHIFT_MAX_S)

    def _transition(self, before_s: int, after_s: int) -> int:
        """The first second of the offset that holds at `after_s`, another one at `before_s`."""
        offset_s = self._offset_s(after_s)
        while after_s - before_s > 1:
            middle_s = (before_s + after_s) // 2
            if self._offset_s(middle_s) == offset_s:
                after_s = middle_s
            else:
                before_s = middle_s
        return after_s

    def _offset_s(self, at_s: int) -> int:
        moment = (_EPOCH_UTC + timedelta(seconds=at_s)).astimezone(self._zone)
        offset = moment.utcoffset()
        assert offset is not None
        return int(offset.total_seconds())


class _Matches:
    """Local times, without any zone, that match an expression."""

    def __init__(self, expression: str) -> None:
        fields = NICKNAMES.get(expression.strip().lower(), expression).split()
        self._sim = CronSim(" ".join(fields), _EPOCH)
        seconds = len(fields) == 6
        minute, hour = fields[-5], fields[-4]
        #: Neither minute nor hour begins with a star, as Debian cron tells fixed jobs.
        self.fixed = not minute.startswith("*") and not hour.startswith("*")
        self.least_gap_s = 1 if seconds else 60

    def after(self, local: datetime) -> datetime | None:
        """The first one later than `local`; None when there is none within fifty years."""
        sim = copy(self._sim)
        sim.dt = local
        return next(sim, None)


@lru_cache(maxsize=EXPRESSIONS_MAX)
def _matches(expression: str) -> _Matches:
    return _Matches(expression)


def schedule_of(source: TimerSource) -> Schedule:
    """The schedule that a timer's source describes.

    Raises:
        InvalidField: it describes none; the field, value and what is allowed are told.

    """
    if bool(source.cron) == bool(source.every_ms):
        raise InvalidField(
            "A timer has either cron or every_ms.",
            field="timer",
            value="both" if source.cron else "neither",
            allowed="cron (five fields, or six with seconds first) or every_ms",
            next_step="Give one of them.",
        )
    if source.every_ms:
        if source.every_ms < EVERY_MS_MIN:
            raise InvalidField(
                f"A timer runs at most every {EVERY_MS_MIN} ms.",
                field="timer.every_ms",
                value=source.every_ms,
                allowed=f"a whole number from {EVERY_MS_MIN}",
                next_step="Set a longer interval.",
            )
        return Interval(source.every_ms, source.start_at_ms)
    zone = _zone(source.timezone)
    try:
        return Cron(source.cron, zone, source.start_at_ms)
    except CronSimError as error:
        raise InvalidField(
            f"{source.cron!r} is no cron expression: {error}.",
            field="timer.cron",
            value=source.cron,
            allowed="minute hour day-of-month month day-of-week, or six fields with seconds first",
            next_step="Correct it; `*/5 * * * *` is every five minutes.",
        ) from error


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidField(
            f"{name!r} is no time zone that is known here.",
            field="timer.timezone",
            value=name,
            allowed="an IANA name such as Europe/Berlin or UTC",
            next_step="Correct the name; a machine without zones needs the package tzdata.",
        ) from error


def _offset(zone: ZoneInfo, local: datetime, *, fold: int) -> timedelta:
    offset = local.replace(tzinfo=zone, fold=fold).utcoffset()
    assert offset is not None
    return offset


def _naive(shown_s: int) -> datetime:
    return _EPOCH + timedelta(seconds=shown_s)


def _seconds(local: datetime) -> int:
    return (local - _EPOCH) // _SECOND
