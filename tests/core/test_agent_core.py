"""Timers of the agent's core: counted exactly, over restarts, jumps of the clock and refusals."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from msgspec.structs import replace

from pratai.agent.core import Agent
from pratai.agent.messages import Fire, RunAccepted, TriggerSeen
from pratai.config import schema
from pratai.core.machine import UnknownMessage
from pratai.model.trigger import Missed, TimerSource, Trigger, TriggerState
from pratai.sim.agents import AgentWorld
from pratai.wire.messages import Cancel, Tick

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
KEY = "default/t"


def ms(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp() * 1_000)  # type: ignore[misc]


def timer(
    cron: str = "",
    *,
    every_ms: int = 0,
    zone: str = "UTC",
    missed: Missed = "latest",
    name: str = "t",
) -> Trigger:
    source = TimerSource(cron=cron, every_ms=every_ms, timezone=zone, missed=missed)
    return Trigger(namespace="default", name=name, kind="timer", function="f", timer=source)


def minutes_that_match(start_ms: int, end_ms: int, zone: str, hour: int, minute: int) -> list[int]:
    """Brute force: every real minute in (start, end] whose wall clock shows this time."""
    tz, found = ZoneInfo(zone), []
    at = datetime.fromtimestamp(start_ms / 1_000, UTC)
    end = datetime.fromtimestamp(end_ms / 1_000, UTC)
    while at < end:
        at += timedelta(minutes=1)
        local = at.astimezone(tz)
        if local.minute == minute and hour in (-1, local.hour):
            found.append(int(at.timestamp() * 1_000))
    return found


def test_a_timer_runs_at_each_of_its_times_once() -> None:
    world = AgentWorld(ms(2025, 1, 1))
    world.put(timer("*/5 * * * *"))
    world.start_agent()

    world.run_for(HOUR_MS)

    assert world.due(KEY) == [ms(2025, 1, 1, 0, minute) for minute in range(5, 60, 5)] + [
        ms(2025, 1, 1, 1)
    ]
    assert world.repeated == 0
    state = world.states[KEY][1]
    assert (state.runs, state.skipped, state.failures) == (12, 0, 0)
    assert state.last_due_ms == ms(2025, 1, 1, 1)
    assert state.next_due_ms == ms(2025, 1, 1, 1, 5)
    assert state.last_request_id == "r12"


@pytest.mark.parametrize("day", [(2025, 3, 29), (2025, 10, 25)])
@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
def test_a_clock_jumped_over_a_change_of_daylight_saving_counts_exactly(
    zone: str, day: tuple[int, int, int]
) -> None:
    start_ms = ms(*day)
    world = AgentWorld(start_ms)
    world.put(timer("30 * * * *", zone=zone, missed="all"))
    world.start_agent()
    world.run_for(10 * MINUTE_MS)

    world.jump(2 * DAY_MS)
    world.run_for(2 * HOUR_MS)

    expected = minutes_that_match(start_ms, world.now_ms, zone, -1, 30)
    assert world.due(KEY) == expected
    assert world.states[KEY][1].runs == len(expected)
    assert world.repeated == 0


@pytest.mark.parametrize(
    ("missed", "made_up", "skipped"), [("skip", 0, 24), ("latest", 1, 23), ("all", 24, 0)]
)
def test_what_a_day_of_absence_missed_is_made_up_for_by_policy(
    missed: Missed, made_up: int, skipped: int
) -> None:
    world = AgentWorld(ms(2025, 1, 1, 0, 30))
    world.put(timer("0 * * * *", missed=missed))
    agent = world.start_agent()
    world.run_for(2 * HOUR_MS)
    agent.kill()

    world.jump(DAY_MS)
    agent.start()
    world.run_for(10 * MINUTE_MS)

    hours = [ms(2025, 1, 1, 3) + number * HOUR_MS for number in range(24)]
    assert world.due(KEY)[2:] == hours[24 - made_up :]
    assert world.states[KEY][1].skipped == skipped


@pytest.mark.parametrize("missed", ["skip", "latest", "all"])
def test_a_short_absence_misses_nothing(missed: Missed) -> None:
    world = AgentWorld(ms(2025, 1, 1))
    world.put(timer(every_ms=1_000, missed=missed))
    agent = world.start_agent()
    world.run_for(10_000)
    agent.kill()
    world.run_for(5_000)
    agent.start()
    world.run_for(10_000)

    assert world.due(KEY) == [ms(2025, 1, 1) + second * 1_000 for second in range(1, 26)]


def test_a_clock_that_goes_back_repeats_nothing() -> None:
    world = AgentWorld(ms(2025, 1, 1))
    world.put(timer("* * * * *"))
    agent = world.start_agent()
    world.run_for(10 * MINUTE_MS)

    world.jump(-5 * MINUTE_MS)
    world.run_for(3 * MINUTE_MS)
    agent.kill()
    agent.start()
    world.run_for(4 * MINUTE_MS)

    assert world.due(KEY) == [ms(2025, 1, 1, 0, minute) for minute in range(1, 13)]
    assert world.repeated == 0


def test_a_new_timer_runs_although_the_clock_went_back_before_it_came() -> None:
    world = AgentWorld(ms(2025, 1, 2))
    world.start_agent()
    world.run_for(5_000)
    world.jump(-DAY_MS)
    world.put(timer("* * * * *", missed="skip"))

    world.run_for(3 * MINUTE_MS)

    assert world.due(KEY) == [ms(2025, 1, 1, 0, minute) for minute in (1, 2, 3)]


def test_no_more_is_made_up_for_than_the_timer_allows() -> None:
    world = AgentWorld(ms(2025, 1, 1))
    source = TimerSource(cron="* * * * *", missed="all", missed_max=100)
    world.put(replace(timer("* * * * *"), timer=source))
    world.jump(DAY_MS + 30_000)
    world.start_agent()
    world.run_for(1_000)

    assert world.due(KEY) == [ms(2025, 1, 2) - back * MINUTE_MS for back in range(99, -1, -1)]
    assert world.states[KEY][1].skipped == 24 * 60 - 100


def test_an_agent_killed_after_acceptance_offers_the_run_again_and_it_is_the_same_one() -> None:
    world = AgentWorld(ms(2025, 1, 1))
    trigger = world.put(timer("* * * * *"))
    world.run_for(MINUTE_MS)
    world.accept(trigger, ms(2025, 1, 1, 0, 1))  # by an agent that died before it wrote its state
    world.start_agent()
    world.run_for(MINUTE_MS)

    assert world.due(KEY) == [ms(2025, 1, 1, 0, 1), ms(2025, 1, 1, 0, 2)]
    assert world.repeated == 1
    assert world.states[KEY][1].runs == 2


def test_two_agents_run_each_time_once_and_count_it_once() -> None:
    world = AgentWorld(ms(2025, 1, 1))
    world.put(timer("* * * * *"))
    world.start_agent()
    world.start_agent()

    world.run_for(30 * MINUTE_MS)

    assert len(world.due(KEY)) == 30
    assert world.states[KEY][1].runs == 30


def test_a_disabled_timer_does_not_run_and_nothing_of_that_time_is_made_up_for() -> None:
    world = AgentWorld(ms(2025, 1, 1))
    trigger = world.put(timer("* * * * *", missed="all"))
    world.start_agent()
    world.run_for(2 * MINUTE_MS)
    world.put(replace(trigger, enabled=False))
    world.run_for(3 * MINUTE_MS)
    assert world.states[KEY][1].next_due_ms == 0
    world.put(replace(trigger, enabled=True))
    world.run_for(2 * MINUTE_MS)

    assert world.due(KEY) == [ms(2025, 1, 1, 0, minute) for minute in (1, 2, 6, 7)]


@pytest.mark.parametrize(
    ("missed", "made_up"), [("skip", ()), ("latest", (5,)), ("all", (3, 4, 5))]
)
def test_what_a_paused_timer_missed_is_made_up_for_by_policy(
    missed: Missed, made_up: tuple[int, ...]
) -> None:
    world = AgentWorld(ms(2025, 1, 1))
    trigger = world.put(timer("* * * * *", missed=missed))
    world.start_agent()
    world.run_for(2 * MINUTE_MS)
    world.put(replace(trigger, paused=True))
    world.run_for(3 * MINUTE_MS + 30_000)
    world.put(replace(trigger, paused=False))
    world.run_for(MINUTE_MS)

    assert world.due(KEY) == [ms(2025, 1, 1, 0, minute) for minute in (1, 2, *made_up, 6)]


def test_a_run_that_is_refused_counts_as_a_failure_and_the_next_one_is_tried() -> None:
    world = AgentWorld(ms(2025, 1, 1))
    world.put(timer("* * * * *"))
    world.absent.add("f")
    world.start_agent()
    world.run_for(2 * MINUTE_MS)
    world.absent.clear()
    world.run_for(MINUTE_MS)

    state = world.states[KEY][1]
    assert (state.runs, state.failures, state.last_failure) == (1, 2, "no such function")
    assert world.due(KEY) == [ms(2025, 1, 1, 0, 3)]


@pytest.mark.parametrize("missed", ["skip", "latest", "all"])
def test_runs_that_fell_due_while_the_store_was_out_are_none_of_the_missed(missed: Missed) -> None:
    world = AgentWorld(ms(2025, 1, 1))
    world.put(timer("* * * * *", missed=missed))
    world.start_agent()
    world.run_for(MINUTE_MS)
    world.store_up = False
    world.run_for(10 * MINUTE_MS)
    world.store_up = True
    world.run_for(MINUTE_MS)

    assert world.due(KEY) == [ms(2025, 1, 1, 0, minute) for minute in range(1, 13)]


def test_a_changed_schedule_counts_from_its_change() -> None:
    world = AgentWorld(ms(2025, 1, 1))
    world.put(timer("* * * * *", missed="all"))
    world.start_agent()
    world.run_for(2 * MINUTE_MS + 30_000)
    world.put(timer("*/2 * * * *", missed="all"))
    world.run_for(2 * MINUTE_MS)

    assert world.due(KEY) == [ms(2025, 1, 1, 0, minute) for minute in (1, 2, 4)]


def test_a_deleted_timer_stops_and_one_of_the_same_name_starts_afresh() -> None:
    world = AgentWorld(ms(2025, 1, 1))
    world.put(timer("* * * * *"))
    world.start_agent()
    world.run_for(2 * MINUTE_MS)
    world.delete(KEY)
    world.run_for(2 * MINUTE_MS + 30_000)
    world.put(timer("* * * * *"))
    world.run_for(MINUTE_MS)

    assert world.due(KEY) == [ms(2025, 1, 1, 0, minute) for minute in (1, 2, 5)]
    assert world.states[KEY][1].runs == 1


def test_no_more_runs_are_offered_at_one_time_than_allowed() -> None:
    agent = Agent(schema.Agent(runs_max=2))
    for number in range(5):
        trigger = replace(timer("* * * * *", name=f"t{number}"), since_ms=1, epoch=1)
        state = TriggerState(namespace="default", name=trigger.name)
        agent.handle(TriggerSeen(trigger=trigger, state=state), 1_000)

    first = [e for e in agent.handle(Tick(), MINUTE_MS) if isinstance(e, Fire)]
    agent.check()
    run = RunAccepted(key=first[0].key, due_ms=MINUTE_MS, request_id="r1")
    then = [e for e in agent.handle(run, MINUTE_MS) if isinstance(e, Fire)]

    assert [fire.key for fire in first] == ["default/t0", "default/t1"]
    assert [fire.key for fire in then] == ["default/t2"]
    assert agent.waiting == 4
    assert repr(agent) == "<Agent timers=5 ready=2 firing=2>"


def test_a_run_that_another_agent_settled_holds_up_nothing_when_its_timer_is_changed() -> None:
    """The agent offers a run; another one settles it; the timer is changed and read with that."""
    agent = Agent(schema.Agent(runs_max=1))
    trigger = replace(timer("* * * * *"), since_ms=1, epoch=1)
    state = TriggerState(namespace="default", name="t")
    agent.handle(TriggerSeen(trigger=trigger, state=state), 1_000)
    agent.handle(Tick(), MINUTE_MS)

    theirs = replace(state, cursor_ms=MINUTE_MS, runs=1)
    changed = replace(trigger, description="changed")
    agent.handle(TriggerSeen(trigger=changed, state=theirs), MINUTE_MS + 1)
    agent.check()
    effects = agent.handle(Tick(), 2 * MINUTE_MS)

    assert Fire(KEY, changed, 2 * MINUTE_MS) in effects


def test_ten_thousand_idle_timers_cost_a_tick_nothing() -> None:
    """A tick looks at what is due alone: the schedule of no other timer is evaluated."""
    agent = Agent(schema.Agent())
    for number in range(10_000):
        trigger = replace(timer("0 0 * * *", name=f"t{number}"), since_ms=1, epoch=1)
        state = TriggerState(namespace="default", name=trigger.name)
        agent.handle(TriggerSeen(trigger=trigger, state=state), 1_000)

    effects = agent.handle(Tick(), 2_000)

    assert [type(effect).__name__ for effect in effects] == ["Wake"]


def test_a_message_that_is_none_of_its_own_is_refused() -> None:
    with pytest.raises(UnknownMessage):
        Agent(schema.Agent()).handle(Cancel(request_id="r"), 1)
