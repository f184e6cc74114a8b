"""The agent's core: which timer is due, what is made up for, what is offered again. Pure.

Of each timer one run is on its way at a time, in order of due times. `cursor_ms` divides them: up
to it everything is settled (accepted, refused or skipped), beyond it nothing is. The cursor moves
only after acceptance, and a run's key in the journal is made of its due time; so a run is never
lost and never accepted twice, whoever dies in between. Two agents do the same work; the journal
takes it once, and the one whose write of the state comes second adopts what the first one wrote.

A run counts as *missed* when it was due more than `late_max_ms` before this agent began to watch.
The watch begins anew when time jumps: a machine that slept, a clock that was set forward.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import ClassVar

from pratai.agent.messages import (
    Fire,
    KeepState,
    RunAccepted,
    RunPostponed,
    RunRefused,
    StateKept,
    StateSeen,
    TriggerGone,
    TriggerSeen,
    key_of,
)
from pratai.agent.watched import Settled, Watched
from pratai.config import schema
from pratai.core.deadlines import Deadlines
from pratai.core.effects import Count, Effect, Wake
from pratai.core.machine import UnknownMessage
from pratai.core.schedule import Schedule, schedule_of
from pratai.errors import InvalidField
from pratai.wire.messages import Message, Tick

#: Time between ticks when nothing is due: how soon a jump of the clock is noticed.
BEAT_MS = 1_000
#: First and longest wait before a run that was not accepted is offered again.
RETRY_MS, RETRY_MS_MAX = 200, 15_000
#: Skipped runs are counted exactly up to here, at one time.
SKIPPED_COUNT_MAX = 20_000


class Agent:
    """Decides which timers run, and when. Performs no I/O."""

    def __init__(self, config: schema.Agent) -> None:
        self._config = config
        #: {NAMESPACE/NAME: timer}, the inactive ones included.
        self.watched: dict[str, Watched] = {}
        #: When active timers are due, or are offered again. Disjoint from `_ready` and `_firing`.
        self._deadlines = Deadlines()
        #: Timers whose run waits for room, in order.
        self._ready: deque[str] = deque()
        #: {timer: due time of its run that is being offered}; at most `runs_max`.
        self._firing: dict[str, int] = {}
        #: Since when time was seen passing without a gap; -1 = never yet.
        self._since_ms = -1
        self._seen_ms = -1

    def __repr__(self) -> str:
        return (
            f"<Agent timers={len(self.watched)} ready={len(self._ready)}"
            f" firing={len(self._firing)}>"
        )

    def handle(self, message: Message, now_ms: int) -> list[Effect]:
        """Take one message; say what is to be done."""
        transition = self._TRANSITIONS.get(type(message))
        if transition is None:
            raise UnknownMessage(self, message)
        if self._seen_ms < 0 or now_ms - self._seen_ms > self._config.late_max_ms:
            self._since_ms = now_ms
        self._since_ms = min(self._since_ms, now_ms)
        self._seen_ms = now_ms
        effects: list[Effect] = []
        transition(self, message, now_ms, effects)
        self._pump(effects)
        return effects

    @property
    def waiting(self) -> int:
        """Runs that are due and not accepted yet."""
        return len(self._ready) + len(self._firing)

    # transitions

    def _on_trigger_seen(self, seen: TriggerSeen, now_ms: int, effects: list[Effect]) -> None:
        key = key_of(seen.trigger)
        watched = self.watched.get(key)
        if watched is None:
            watched = self.watched[key] = Watched(seen.trigger, seen.state, now_ms)
        else:
            watched.revise(seen.trigger, now_ms)
            watched.adopt(seen.state)
            self._release_settled(key, watched, effects)
        self._forget_plan(key, watched)
        self._plan(key, watched, now_ms, effects)
        self._keep(watched, now_ms, effects)

    def _on_trigger_gone(self, gone: TriggerGone, now_ms: int, effects: list[Effect]) -> None:  # noqa: ARG002
        watched = self.watched.pop(gone.key, None)
        if watched is not None:
            self._forget_plan(gone.key, watched)
            self._firing.pop(gone.key, None)

    def _on_state_seen(self, seen: StateSeen, now_ms: int, effects: list[Effect]) -> None:
        key = key_of(seen.state)
        watched = self.watched.get(key)
        if watched is None:
            return
        if seen.refused:
            watched.saving = False
        watched.adopt(seen.state)
        self._release_settled(key, watched, effects)
        if watched.due_ms <= watched.cursor_ms and key not in self._firing:
            self._forget_plan(key, watched)
            self._plan(key, watched, now_ms, effects)
        self._keep(watched, now_ms, effects)

    def _on_state_kept(self, kept: StateKept, now_ms: int, effects: list[Effect]) -> None:
        watched = self.watched.get(key_of(kept.state))
        if watched is not None:
            watched.saving = False
            watched.adopt(kept.state)
            self._keep(watched, now_ms, effects)

    def _on_run_accepted(self, run: RunAccepted, now_ms: int, effects: list[Effect]) -> None:
        settled = Settled(due_ms=run.due_ms, at_ms=now_ms, request_id=run.request_id)
        effects.append(Count("timer_runs"))
        self._settle(run.key, settled, now_ms, effects)

    def _on_run_refused(self, run: RunRefused, now_ms: int, effects: list[Effect]) -> None:
        settled = Settled(due_ms=run.due_ms, at_ms=now_ms, failure=run.failure)
        effects.append(Count("timer_runs_failed"))
        self._settle(run.key, settled, now_ms, effects)

    def _on_run_postponed(self, run: RunPostponed, now_ms: int, effects: list[Effect]) -> None:
        watched = self.watched.get(run.key)
        if watched is None or self._firing.get(run.key) != run.due_ms:
            return
        del self._firing[run.key]
        effects.append(Count("timer_runs_postponed"))
        if watched.due_ms != run.due_ms:
            self._forget_plan(run.key, watched)
            self._plan(run.key, watched, now_ms, effects)
            return
        wait_ms = min(RETRY_MS_MAX, RETRY_MS << min(watched.attempts, 10))
        watched.attempts += 1
        self._wake(run.key, now_ms + max(wait_ms, run.retry_after_ms), effects)

    def _on_tick(self, tick: Tick, now_ms: int, effects: list[Effect]) -> None:  # noqa: ARG002
        for key in self._deadlines.due(now_ms):
            watched = self.watched[key]
            if watched.attempts:
                self._queue(key, watched)
            else:
                self._plan(key, watched, now_ms, effects)
                self._keep(watched, now_ms, effects)
        next_ms = self._deadlines.next_ms()
        soonest_ms = now_ms + BEAT_MS
        effects.append(Wake(soonest_ms if next_ms is None else min(next_ms, soonest_ms)))

    # decisions

    def _settle(self, key: str, settled: Settled, now_ms: int, effects: list[Effect]) -> None:
        """A run ended: note it, and plan the next one."""
        watched = self.watched.get(key)
        if watched is None:
            return
        if self._firing.get(key) == settled.due_ms:
            del self._firing[key]
        watched.settle(settled)
        if key not in self._firing:
            self._forget_plan(key, watched)
            self._plan(key, watched, now_ms, effects)
        self._keep(watched, now_ms, effects)

    def _release_settled(self, key: str, watched: Watched, effects: list[Effect]) -> None:
        """Stop waiting for the answer to an offer that another agent made before."""
        if self._firing.get(key, watched.settled_ms + 1) <= watched.settled_ms:
            del self._firing[key]
            watched.attempts = 0
            effects.append(Count("timer_runs_settled_elsewhere"))

    def _plan(self, key: str, watched: Watched, now_ms: int, effects: list[Effect]) -> None:
        """Find the next run beyond the cursor: a time to wait for, or one that is due."""
        watched.attempts = 0
        watched.due_ms = 0
        watched.failure = ""
        if not watched.active or key in self._firing:
            return
        source = watched.trigger.timer
        assert source is not None
        try:
            schedule = schedule_of(source)
        except InvalidField as error:
            watched.failure = error.detail
            return
        self._judge_missed(watched, schedule, now_ms)
        watched.due_ms = schedule.next_after(watched.cursor_ms) or 0
        if not watched.due_ms:
            return
        if watched.due_ms <= now_ms:
            self._queue(key, watched)
        else:
            self._wake(key, watched.due_ms, effects)

    def _judge_missed(self, watched: Watched, schedule: Schedule, now_ms: int) -> None:
        """Skip, once for each watch, what the policy does not make up for."""
        source = watched.trigger.timer
        assert source is not None
        since_ms = max(self._since_ms, min(watched.since_ms, now_ms))
        missed_ms = since_ms - self._config.late_max_ms
        after_ms = max(watched.cursor_ms, watched.judged_ms)
        watched.judged_ms = max(watched.judged_ms, missed_ms)
        first_ms = schedule.next_after(after_ms)
        if first_ms is None or first_ms > missed_ms:
            return
        kept: list[int] = []
        if source.missed == "all":
            limit = min(source.missed_max, self._config.missed_max)
            kept = schedule.newest(after_ms, missed_ms, limit)
        elif source.missed == "latest":
            on_time_ms = schedule.next_after(missed_ms)
            if on_time_ms is None or on_time_ms > now_ms:
                kept = schedule.newest(after_ms, missed_ms, 1)
        until_ms = kept[0] - 1 if kept else missed_ms
        skipped = schedule.count(after_ms, until_ms, SKIPPED_COUNT_MAX)
        if skipped:
            watched.settle(Settled(due_ms=until_ms, at_ms=now_ms, skipped=skipped))

    def _pump(self, effects: list[Effect]) -> None:
        """Offer what is ready while there is room."""
        while self._ready and len(self._firing) < self._config.runs_max:
            key = self._ready.popleft()
            watched = self.watched[key]
            watched.ready = False
            self._firing[key] = watched.due_ms
            effects.append(Fire(key, watched.trigger, watched.due_ms))

    def _keep(self, watched: Watched, now_ms: int, effects: list[Effect]) -> None:
        """Have what changed written down; one write of a timer at a time."""
        if not watched.saving and watched.is_news():
            watched.saving = True
            effects.append(KeepState(watched.state(now_ms)))

    def _queue(self, key: str, watched: Watched) -> None:
        watched.ready = True
        self._ready.append(key)

    def _wake(self, key: str, at_ms: int, effects: list[Effect]) -> None:
        if self._deadlines.add(key, at_ms):
            effects.append(Wake(at_ms))

    def _forget_plan(self, key: str, watched: Watched) -> None:
        """No run of it waits any more; one that is being offered goes on."""
        self._deadlines.discard(key)
        if watched.ready:
            self._ready.remove(key)
            watched.ready = False
        watched.due_ms = 0

    def check(self) -> None:
        """All invariants."""
        self._deadlines.check()
        assert len(self._firing) <= self._config.runs_max
        assert len(set(self._ready)) == len(self._ready)
        for key in self._ready:
            assert key not in self._firing
            assert key not in self._deadlines
            assert self.watched[key].ready
            assert self.watched[key].due_ms > self.watched[key].cursor_ms
        for key in self._firing:
            assert key in self.watched
            assert key not in self._deadlines
        for key, watched in self.watched.items():
            watched.check()
            if key not in self._firing and watched.due_ms:
                assert (key in self._ready) != (key in self._deadlines)
                assert watched.active

    _TRANSITIONS: ClassVar[dict[type[Message], Callable[..., None]]] = {
        TriggerSeen: _on_trigger_seen,
        TriggerGone: _on_trigger_gone,
        StateSeen: _on_state_seen,
        StateKept: _on_state_kept,
        RunAccepted: _on_run_accepted,
        RunRefused: _on_run_refused,
        RunPostponed: _on_run_postponed,
        Tick: _on_tick,
    }
