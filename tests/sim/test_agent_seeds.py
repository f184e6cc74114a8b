"""Agents from seeds: killed, doubled, cut off from the store, their clock set, their timers changed.

The reference of each timer is the list of its due times in the stretches in which it was enabled.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from pratai.agent.core import Agent
from pratai.agent.messages import RunPostponed, StateSeen
from pratai.agent.watched import Watched
from pratai.core.schedule import schedule_of
from pratai.model.trigger import Missed, TimerSource, Trigger
from pratai.sim.agents import AgentWorld

#: Saturday evening before the clock of Berlin goes forward.
START_MS = 1_743_270_000_000
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
#: Seeds within which a mutation must be noticed.
NOTICED_WITHIN = 60
SOURCES = [
    TimerSource(cron="*/3 * * * *"),
    TimerSource(cron="*/5 * * * *", timezone="Europe/Berlin"),
    TimerSource(cron="30 2 * * *", timezone="Europe/Berlin"),
    TimerSource(cron="15 * * * *", timezone="Australia/Lord_Howe"),
    TimerSource(every_ms=90_000),
    TimerSource(every_ms=7 * MINUTE_MS, start_at_ms=START_MS + HOUR_MS),
]
POLICIES: tuple[Missed, ...] = ("skip", "latest", "all")


class Story:
    """One seed: what befalls the world, and what must be true afterwards."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.world = AgentWorld(START_MS, chance=self.chance)
        self.set_back = False
        #: {trigger: [(enabled at, disabled at)]}; due times whose fate a change left open.
        self.stretches: dict[str, list[tuple[int, int]]] = {}
        self.open: dict[str, set[int]] = {}
        #: Stretches of trouble, in which nothing has to be accepted in time.
        self.troubled: list[tuple[int, int]] = []

    def run(self) -> AgentWorld:
        world, chance = self.world, self.chance
        for number, source in enumerate(SOURCES):
            policy = POLICIES[number % 3] if chance.random() < 0.5 else "all"
            timer = replace(source, missed=policy, missed_max=10_000)
            self.put(
                Trigger(
                    namespace="default", name=f"t{number}", kind="timer", function="f", timer=timer
                )
            )
        for _ in range(chance.choice([1, 2])):
            world.start_agent()
        for _ in range(12):
            world.run_for(chance.randrange(1_000, 4 * MINUTE_MS))
            self.befall()
        self.recover()
        world.run_for(3 * MINUTE_MS)
        for _ in range(20):
            if any(agent.core.waiting for agent in world.agents):
                world.run_for(MINUTE_MS)
        self.verify()
        return world

    # what happens

    def put(self, trigger: Trigger) -> None:
        world, key = self.world, f"default/{trigger.name}"
        before = world.triggers.get(key)
        after = world.put(trigger)
        if before is None or after.epoch != before[1].epoch or not after.enabled:
            self.end_stretch(key)
        if after.enabled and (before is None or after.epoch != before[1].epoch):
            self.stretches.setdefault(key, []).append((world.now_ms, -1))

    def end_stretch(self, key: str) -> None:
        """What is not settled now may stay undone: its owner wanted it to end."""
        stretches = self.stretches.get(key)
        if not stretches or stretches[-1][1] >= 0:
            return
        began_ms, _ = stretches[-1]
        stretches[-1] = (began_ms, self.world.now_ms)
        due = self.reference(key, began_ms, self.world.now_ms)
        done = set(self.world.due(key))
        self.open.setdefault(key, set()).update(set(due) - done)

    def befall(self) -> None:
        world, chance = self.world, self.chance
        agent = chance.choice(world.agents)
        match chance.choice(
            ["kill", "store", "jump", "back", "disable", "pause", "change", "none"]
        ):
            case "kill":
                if agent.lives:
                    agent.kill()
                    world.run_for(chance.choice([0, 3_000, 5 * MINUTE_MS]))
                    agent.start()
            case "store":
                began_ms = world.now_ms
                world.store_up = False
                world.run_for(chance.randrange(100, 3 * MINUTE_MS))
                world.store_up = True
                self.troubled.append((began_ms, world.now_ms + 20_000))
            case "jump":
                world.jump(chance.choice([5_000, HOUR_MS, HOUR_MS, 9 * HOUR_MS, DAY_MS]))
            case "back":
                self.set_back = True
                world.jump(-chance.choice([2_000, 10 * MINUTE_MS]))
            case "disable":
                trigger = chance.choice(list(world.triggers.values()))[1]
                self.put(replace(trigger, enabled=not trigger.enabled))
            case "pause":
                trigger = chance.choice(list(world.triggers.values()))[1]
                self.troubled.append((world.now_ms, world.now_ms + 10 * DAY_MS))
                self.put(replace(trigger, paused=not trigger.paused))
            case "change":
                trigger = chance.choice(list(world.triggers.values()))[1]
                assert trigger.timer is not None
                self.put(
                    replace(trigger, timer=replace(trigger.timer, every_ms=4 * MINUTE_MS, cron=""))
                )

    def recover(self) -> None:
        for _, trigger in list(self.world.triggers.values()):
            self.put(replace(trigger, enabled=True, paused=False))

    # what must be true

    def reference(self, key: str, after_ms: int, until_ms: int) -> list[int]:
        source = self.world.triggers[key][1].timer
        assert source is not None
        schedule, found = schedule_of(source), []
        due_ms = schedule.next_after(after_ms)
        while due_ms is not None and due_ms <= until_ms:
            found.append(due_ms)
            due_ms = schedule.next_after(due_ms)
        return found

    def verify(self) -> None:
        assert not any(agent.core.waiting for agent in self.world.agents), "a run is stuck"
        for key in self.world.triggers:
            self.verify_timer(key)

    def verify_timer(self, key: str) -> None:
        world = self.world
        trigger = world.triggers[key][1]
        due = world.due(key)
        assert len(due) == len(set(due)), f"{key} ran twice"
        # of the last stretch alone: before it, the schedule may have been another one
        began_ms, _ = self.stretches[key][-1]
        if self.set_back and len(self.stretches[key]) > 1:
            return  # runs of an earlier schedule may look like ones of this stretch
        expected = self.reference(key, began_ms, world.now_ms - 2_000)
        done = {due_ms for due_ms in due if due_ms > began_ms}
        assert done <= set(self.reference(key, began_ms, max([world.now_ms, *due]))), f"{key} early"
        assert trigger.timer is not None
        missing = [due_ms for due_ms in expected if due_ms not in done]
        if trigger.timer.missed == "all":
            assert missing == [], f"{key} lost {missing}"
            return
        if self.set_back:
            return
        if trigger.timer.missed == "latest" and expected:
            assert expected[-1] in done, f"{key} lost its latest"
        lost = [due_ms for due_ms in missing if self.watched(due_ms)]
        assert lost == [], f"{key} lost {lost}"

    def watched(self, due_ms: int) -> bool:
        """Whether an agent certainly saw this time come, with nothing in its way."""
        if any(began <= due_ms + 5_000 and due_ms <= ended for began, ended in self.troubled):
            return False
        for agent in self.world.agents:
            agent.close_stretch()
            agent.open_stretch()
        return any(began <= due_ms and due_ms + 5_000 <= ended for began, ended in self.world.alive)


@pytest.mark.parametrize("first", range(1, 61, 15))
def test_no_run_is_lost_or_repeated(first: int) -> None:
    accepted = repeated = 0
    for seed in range(first, first + 15):
        world = Story(seed).run()
        accepted += len(world.accepted)
        repeated += world.repeated

    assert accepted > 1_000
    assert repeated > 0, "stories in which nothing is offered twice prove nothing"


def test_a_seed_is_the_same_story_every_time() -> None:
    assert Story(3).run().accepted == Story(3).run().accepted


# mutations: each breaks the core in one place, as a careless change would


def the_journal_takes_a_key_twice(patch: pytest.MonkeyPatch) -> None:
    original = AgentWorld.accept

    def accept(self: AgentWorld, trigger: Trigger, due_ms: int) -> str:
        self.journal.clear()
        return original(self, trigger, due_ms)

    patch.setattr(AgentWorld, "accept", accept)


def the_cursor_moves_before_acceptance(patch: pytest.MonkeyPatch) -> None:
    def on_run_postponed(self: Agent, run: Any, now_ms: int, effects: list[Any]) -> None:
        self._on_run_refused(run, now_ms, effects)

    patch.setitem(Agent._TRANSITIONS, RunPostponed, on_run_postponed)


def every_late_run_is_missed(patch: pytest.MonkeyPatch) -> None:
    original = Agent._judge_missed

    def judge(self: Agent, watched: Watched, schedule: Any, now_ms: int) -> None:
        self._since_ms = now_ms + self._config.late_max_ms
        original(self, watched, schedule, now_ms)

    patch.setattr(Agent, "_judge_missed", judge)


def a_run_that_another_agent_settled_blocks_its_timer(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(Agent._TRANSITIONS, StateSeen, lambda self, seen, now_ms, effects: None)


@pytest.mark.parametrize(
    "mutation",
    [
        the_journal_takes_a_key_twice,
        the_cursor_moves_before_acceptance,
        every_late_run_is_missed,
        a_run_that_another_agent_settled_blocks_its_timer,
    ],
)
def test_a_broken_agent_is_noticed(
    mutation: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutation(monkeypatch)

    def all_hold() -> bool:
        try:
            for seed in range(1, NOTICED_WITHIN):
                Story(seed).run()
        except (AssertionError, RuntimeError):
            return False
        return True

    assert not all_hold()
