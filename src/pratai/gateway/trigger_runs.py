"""What event triggers did, counted here and written a little later: no event waits for it.

Only triggers of kind `event` are counted here; of all others an agent is the one to write. What is
not written when the process dies is missing in the counts, and in nothing else: invocations are in
the journal.
"""

from __future__ import annotations

import asyncio

import msgspec
import structlog
from msgspec.structs import replace

from pratai.clock import now_ms
from pratai.errors import Conflict, PrataiError
from pratai.model.trigger import TRIGGER_STATE, Trigger, TriggerState
from pratai.store.base import Document, Store

#: Between a run and its being written, and after a failure to write.
WRITE_AFTER_S, RETRY_AFTER_S = 0.5, 5.0
#: Triggers that wait to be written; runs of further ones are not counted.
WAITING_MAX = 10_000
ATTEMPTS_MAX = 8
#: Written at one time, so that they share commits.
TOGETHER = 200
FAILURE_CHARS_MAX = 1_000

_log = structlog.get_logger("pratai.gateway")
_encode = msgspec.json.Encoder().encode
decode_state = msgspec.json.Decoder(TriggerState).decode
Key = tuple[str, str]


class _Counted(msgspec.Struct):
    """What happened since the last writing."""

    epoch: int
    runs: int = 0
    skipped: int = 0
    failures: int = 0
    last_run_at_ms: int = 0
    last_request_id: str = ""
    last_failure: str = ""
    last_failure_at_ms: int = 0

    def added_to(self, state: TriggerState) -> TriggerState:
        """A state with this in it."""
        fresh = replace(
            state,
            epoch=max(state.epoch, self.epoch),
            runs=state.runs + self.runs,
            skipped=state.skipped + self.skipped,
            failures=state.failures + self.failures,
        )
        if self.last_run_at_ms >= state.last_run_at_ms and self.last_run_at_ms:
            fresh = replace(
                fresh, last_run_at_ms=self.last_run_at_ms, last_request_id=self.last_request_id
            )
        if self.last_failure_at_ms >= state.last_failure_at_ms and self.last_failure_at_ms:
            fresh = replace(
                fresh,
                last_failure=self.last_failure,
                last_failure_at_ms=self.last_failure_at_ms,
            )
        return fresh


class TriggerRuns:
    """Counts runs of event triggers and writes them down."""

    def __init__(self, store: Store) -> None:
        self._store = store
        #: {(namespace, name): not written yet}. At most `WAITING_MAX`.
        self._waiting: dict[Key, _Counted] = {}
        self._writing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        """How many triggers wait to be written."""
        return f"<TriggerRuns [{len(self._waiting)} waiting]>"

    def ran(self, trigger: Trigger, request_id: str) -> None:
        """An event was accepted for it."""
        counted = self._of(trigger)
        if counted is not None:
            counted.runs += 1
            counted.last_run_at_ms = now_ms()
            counted.last_request_id = request_id

    def skipped(self, trigger: Trigger) -> None:
        """An event came while it was paused."""
        counted = self._of(trigger)
        if counted is not None:
            counted.skipped += 1

    def failed(self, trigger: Trigger, failure: str) -> None:
        """Nothing can be accepted for it."""
        counted = self._of(trigger)
        if counted is not None:
            counted.failures += 1
            counted.last_failure = failure[:FAILURE_CHARS_MAX]
            counted.last_failure_at_ms = now_ms()

    def forget(self, namespace: str, name: str) -> None:
        """The trigger is gone."""
        self._waiting.pop((namespace, name), None)

    def with_unwritten(self, state: TriggerState) -> TriggerState:
        """A state from the store with what this gateway knows beyond it."""
        counted = self._waiting.get((state.namespace, state.name))
        return state if counted is None else counted.added_to(state)

    async def write(self) -> None:
        """Write what waits; what cannot be written goes on waiting."""
        waiting = list(self._waiting.items())
        for start in range(0, len(waiting), TOGETHER):
            part = waiting[start : start + TOGETHER]
            written = await asyncio.gather(*(self._write_one(*one) for one in part))
            for (key, counted), is_whole in zip(part, written, strict=True):
                if is_whole and self._waiting.get(key) is counted:
                    del self._waiting[key]

    # inside

    def _of(self, trigger: Trigger) -> _Counted | None:
        key = (trigger.namespace, trigger.name)
        counted = self._waiting.get(key)
        if counted is None:
            if len(self._waiting) >= WAITING_MAX:
                return None
            counted = self._waiting[key] = _Counted(trigger.epoch)
        counted.epoch = trigger.epoch
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write_later())
        return counted

    async def _write_later(self) -> None:
        wait_s = WRITE_AFTER_S
        while self._waiting:
            await asyncio.sleep(wait_s)
            try:
                await self.write()
                wait_s = WRITE_AFTER_S
            except PrataiError as error:
                wait_s = RETRY_AFTER_S
                _log.warning("trigger_runs_not_written", error=error.detail)

    async def _write_one(self, key: Key, counted: _Counted) -> bool:
        """Add it to the state in the store; what is counted meanwhile begins anew."""
        namespace, name = key
        for _ in range(ATTEMPTS_MAX):
            document = await self._store.get(TRIGGER_STATE, namespace, name)
            state = (
                TriggerState(namespace=namespace, name=name)
                if document is None
                else decode_state(document.body)
            )
            taken = msgspec.structs.replace(counted)
            fresh = Document(
                kind=TRIGGER_STATE,
                namespace=namespace,
                id=name,
                body=_encode(taken.added_to(state)),
                revision=document.revision if document else 0,
            )
            try:
                await self._store.put(fresh)
            except Conflict:
                continue
            return _only(counted, taken)
        return False


def _only(counted: _Counted, taken: _Counted) -> bool:
    """Take what was written away from what is counted; whether nothing is left."""
    counted.runs -= taken.runs
    counted.skipped -= taken.skipped
    counted.failures -= taken.failures
    return not (counted.runs or counted.skipped or counted.failures)
