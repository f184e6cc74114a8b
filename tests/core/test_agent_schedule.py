"""Due times of timers against an enumeration that steps through real time minute by minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from pratai.core.schedule import Schedule, schedule_of
from pratai.errors import InvalidField
from pratai.model.trigger import TimerSource

DAY_MS = 86_400_000
#: (zone, two days before a change of its clock).
CHANGES = [
    ("Europe/Berlin", datetime(2025, 3, 28, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2025, 10, 24, tzinfo=UTC)),
    ("America/New_York", datetime(2025, 3, 7, tzinfo=UTC)),
    ("America/New_York", datetime(2025, 10, 31, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2025, 10, 3, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2025, 4, 3, tzinfo=UTC)),
    ("America/Santiago", datetime(2025, 9, 5, tzinfo=UTC)),
    ("Asia/Kathmandu", datetime(2025, 3, 28, tzinfo=UTC)),
    ("Pacific/Apia", datetime(2011, 12, 28, tzinfo=UTC)),
    ("UTC", datetime(2025, 3, 28, tzinfo=UTC)),
]
EXPRESSIONS = [
    "* * * * *",
    "*/10 * * * *",
    "0 * * * *",
    "30 * * * *",
    "45 */2 * * *",
    "30 2 * * *",
    "0,30 2 * * *",
    "0 2,3 * * *",
    "15 1-3 * * *",
    "*/20 2 * * *",
    "*/7 1 * * *",
    "0 0 * * *",
    "10 0 * * sun",
    "0 12 * * mon-fri",
    "59 23 30 * *",
]


def numbers(field: str, low: int, high: int) -> set[int]:
    """A field of digits, ranges, lists and steps over `*`; written for these tests alone."""
    found: set[int] = set()
    for part in field.split(","):
        base, _, step = part.partition("/")
        first, _, last = base.partition("-")
        span = range(low, high + 1) if base == "*" else range(int(first), int(last or first) + 1)
        found.update(list(span)[:: int(step or 1)])
    return found


def reference(expression: str, zone: str, start: datetime, days: int) -> list[int]:
    """Every due time, by looking at the wall clock in each real minute.

    Wildcard jobs run in each minute whose wall clock matches. Fixed jobs run in the first minute
    that shows a time, and where the clock jumps over minutes, right after the jump.
    """
    tz = ZoneInfo(zone)
    named = expression.replace("mon-fri", "1-5").replace("sun", "0")
    minute, hour, dom, _, dow = named.split()
    minutes, hours = numbers(minute, 0, 59), numbers(hour, 0, 23)
    doms, dows = numbers(dom, 1, 31), numbers(dow, 0, 7)
    fixed = not minute.startswith("*") and not hour.startswith("*")

    def matches(local: datetime) -> bool:
        return (
            local.minute in minutes
            and local.hour in hours
            and local.day in doms
            and (local.weekday() + 1) % 7 in dows
        )

    def wall(at: datetime) -> datetime:
        return at.astimezone(tz).replace(tzinfo=None)

    due: list[int] = []
    highest = max(wall(start - timedelta(minutes=back)) for back in range(4 * 60))
    for step in range(1, days * 24 * 60 + 1):
        at = start + timedelta(minutes=step)
        shown = wall(at)
        if not fixed:
            runs = matches(shown)
        else:
            runs = False
            while highest < shown:
                highest += timedelta(minutes=1)
                runs = runs or matches(highest)
        if runs:
            due.append(int(at.timestamp()) * 1_000)
    return due


def all_after(schedule: Schedule, start_ms: int, until_ms: int) -> list[int]:
    found, due_ms = [], schedule.next_after(start_ms)
    while due_ms is not None and due_ms <= until_ms:
        found.append(due_ms)
        due_ms = schedule.next_after(due_ms)
    return found


@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize(("zone", "start"), CHANGES)
def test_cron_is_due_exactly_when_the_wall_clock_says_so(
    expression: str, zone: str, start: datetime
) -> None:
    schedule = schedule_of(TimerSource(cron=expression, timezone=zone))
    start_ms = int(start.timestamp()) * 1_000

    found = all_after(schedule, start_ms, start_ms + 4 * DAY_MS)

    assert found == reference(expression, zone, start, 4)


@pytest.mark.parametrize(
    ("expression", "zone"),
    [("30 2 * * *", "Europe/Berlin"), ("*/20 1 * * *", "Australia/Lord_Howe")],
)
def test_a_year_of_cron_has_as_many_runs_as_the_reference(expression: str, zone: str) -> None:
    schedule = schedule_of(TimerSource(cron=expression, timezone=zone))
    start = datetime(2025, 1, 1, tzinfo=UTC)
    start_ms = int(start.timestamp()) * 1_000
    expected = reference(expression, zone, start, 365)

    assert schedule.count(start_ms, start_ms + 365 * DAY_MS, 10**6) == len(expected)
    assert schedule.newest(start_ms, start_ms + 365 * DAY_MS, 7) == expected[-7:]


def test_a_due_time_does_not_depend_on_where_the_search_begins() -> None:
    for expression in ("0,30 2 * * *", "*/10 2 * * *"):
        for zone, start in CHANGES:
            schedule = schedule_of(TimerSource(cron=expression, timezone=zone))
            start_ms = int(start.timestamp()) * 1_000
            due = all_after(schedule, start_ms, start_ms + 5 * DAY_MS)
            for at_ms in range(start_ms, start_ms + 4 * DAY_MS, 47 * 60_000):
                assert schedule.next_after(at_ms) == next(d for d in due if d > at_ms)


def test_a_job_inside_the_skipped_hour_is_due_right_after_it() -> None:
    schedule = schedule_of(TimerSource(cron="30 2 * * *", timezone="Europe/Berlin"))
    before = datetime(2025, 3, 30, 0, 0, tzinfo=UTC)

    due_ms = schedule.next_after(int(before.timestamp() * 1_000))

    assert due_ms == int(datetime(2025, 3, 30, 1, 0, tzinfo=UTC).timestamp() * 1_000)


def test_a_rare_job_is_found_far_ahead_and_an_impossible_one_never() -> None:
    leap = schedule_of(TimerSource(cron="*/30 3 29 2 *", timezone="Europe/Berlin"))
    start_ms = int(datetime(2025, 3, 1, tzinfo=UTC).timestamp() * 1_000)

    assert leap.next_after(start_ms) == int(
        datetime(2028, 2, 29, 2, 0, tzinfo=UTC).timestamp() * 1_000
    )
    with pytest.raises(InvalidField):
        schedule_of(TimerSource(cron="0 0 30 2 *"))


def test_a_wildcard_job_of_one_night_runs_in_both_of_its_repeated_hours() -> None:
    schedule = schedule_of(TimerSource(cron="*/30 2 26 10 *", timezone="Europe/Berlin"))
    start_ms = int(datetime(2025, 1, 1, tzinfo=UTC).timestamp() * 1_000)

    assert schedule.count(start_ms, start_ms + 365 * DAY_MS, 100) == 4


def test_seconds_come_first_and_keep_the_rules_of_fixed_jobs() -> None:
    schedule = schedule_of(TimerSource(cron="15 30 2 * * *", timezone="Europe/Berlin"))
    start_ms = int(datetime(2025, 10, 25, 22, 0, tzinfo=UTC).timestamp() * 1_000)

    first = schedule.next_after(start_ms)

    assert first == int(datetime(2025, 10, 26, 0, 30, 15, tzinfo=UTC).timestamp() * 1_000)
    assert schedule.count(start_ms, start_ms + DAY_MS, 10) == 1


def test_nicknames_are_what_they_stand_for() -> None:
    hourly = schedule_of(TimerSource(cron="@hourly"))

    assert hourly.next_after(3_600_000) == 7_200_000


def test_intervals_count_from_their_start() -> None:
    schedule = schedule_of(TimerSource(every_ms=1_000, start_at_ms=5_500))

    assert schedule.next_after(0) == 5_500
    assert schedule.next_after(5_500) == 6_500
    assert schedule.newest(0, 9_000, 2) == [7_500, 8_500]
    assert schedule.newest(8_500, 9_000, 2) == []
    assert schedule.count(0, 9_000, 100) == 4
    assert schedule.count(7_500, 9_000, 100) == 1


def test_cron_waits_for_its_start() -> None:
    schedule = schedule_of(TimerSource(cron="* * * * *", start_at_ms=10 * 60_000))

    assert schedule.next_after(0) == 10 * 60_000


@pytest.mark.parametrize(
    ("source", "field"),
    [
        (TimerSource(), "timer"),
        (TimerSource(cron="* * * * *", every_ms=5_000), "timer"),
        (TimerSource(cron="61 * * * *"), "timer.cron"),
        (TimerSource(cron="* * *"), "timer.cron"),
        (TimerSource(cron="* * * * *", timezone="Mars/Base"), "timer.timezone"),
        (TimerSource(cron="* * * * *", timezone="../../etc/passwd"), "timer.timezone"),
        (TimerSource(every_ms=1), "timer.every_ms"),
    ],
)
def test_what_is_no_schedule_is_told_by_field(source: TimerSource, field: str) -> None:
    with pytest.raises(InvalidField) as told:
        schedule_of(source)

    assert told.value.field == field
    assert told.value.next_step
