"""What the agent's core knows of one timer: the stored state, and what has happened since. Pure."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from pratai.model.trigger import Trigger, TriggerState


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """A run that ended (accepted with a request id, or failed), or runs skipped up to a time."""

    due_ms: int
    at_ms: int
    request_id: str = ""
    failure: str = ""
    skipped: int = 0


class Watched:
    """One timer."""

    __slots__ = (
        "_base",
        "_news",
        "attempts",
        "due_ms",
        "failure",
        "judged_ms",
        "ready",
        "saving",
        "since_ms",
        "trigger",
    )

    def __init__(self, trigger: Trigger, state: TriggerState, now_ms: int) -> None:
        self.trigger = trigger
        #: Since when it is watched: when it was first seen active, or resumed.
        self.since_ms = now_ms
        #: Up to here it was decided which missed runs are made up for.
        self.judged_ms = 0
        #: The run that is next; 0 = none.
        self.due_ms = 0
        #: Times the next run was offered in vain.
        self.attempts = 0
        #: Whether the next run waits for room.
        self.ready = False
        #: Why it cannot run at all, though it is active.
        self.failure = ""
        #: Whether a write of its state is on its way.
        self.saving = False
        self._base = state
        #: What is not in `_base` yet, in order of due times. All above its cursor.
        self._news: list[Settled] = []

    @property
    def active(self) -> bool:
        """Whether it runs at all."""
        trigger = self.trigger
        return trigger.enabled and not trigger.paused and trigger.timer is not None

    @property
    def cursor_ms(self) -> int:
        """Everything due up to here is settled."""
        return max(self.settled_ms, self.trigger.since_ms)

    @property
    def settled_ms(self) -> int:
        """The same, of runs that were really due: also before its source was changed."""
        return self._news[-1].due_ms if self._news else self._base.cursor_ms

    def revise(self, trigger: Trigger, now_ms: int) -> None:
        """Its owner changed it."""
        was_active = self.active
        self.trigger = trigger
        if self.active and not was_active:
            self.since_ms = now_ms

    def adopt(self, state: TriggerState) -> None:
        """Take what the store has as the base; what it tells already is no news."""
        if state.cursor_ms < self._base.cursor_ms:
            return
        self._base = state
        self._news = [run for run in self._news if run.due_ms > state.cursor_ms]

    def settle(self, settled: Settled) -> None:
        """Note what ended, unless it is behind the cursor already."""
        if settled.due_ms > self.settled_ms:
            self._news.append(settled)

    def is_news(self) -> bool:
        """Whether the store's state is behind."""
        next_due_ms = self.due_ms if self.active else 0
        told = not self.failure or self.failure == self._base.last_failure
        return bool(self._news) or next_due_ms != self._base.next_due_ms or not told

    def state(self, now_ms: int) -> TriggerState:
        """The state as it is to be written."""
        state = replace(
            self._base, epoch=self.trigger.epoch, next_due_ms=self.due_ms if self.active else 0
        )
        for run in self._news:
            state = _with(state, run)
        if self.failure:
            state = replace(state, last_failure=self.failure, last_failure_at_ms=now_ms)
        return state

    def check(self) -> None:
        """News are in order, above the base."""
        due = [self._base.cursor_ms, *(run.due_ms for run in self._news)]
        assert due == sorted(set(due))


def _with(state: TriggerState, run: Settled) -> TriggerState:
    if run.skipped:
        return replace(state, cursor_ms=run.due_ms, skipped=state.skipped + run.skipped)
    if run.failure:
        return replace(
            state,
            cursor_ms=run.due_ms,
            failures=state.failures + 1,
            last_failure=run.failure,
            last_failure_at_ms=run.at_ms,
        )
    return replace(
        state,
        cursor_ms=run.due_ms,
        runs=state.runs + 1,
        last_due_ms=run.due_ms,
        last_run_at_ms=run.at_ms,
        last_request_id=run.request_id,
    )
