"""Folder triggers: looks at each watched folder, offers what settled, and remembers what was taken.

Per file: its event is accepted; that is written down (`TriggerState.taken`); then the file is moved
or deleted. Dying after the first step, the same event is offered again and the journal knows it by
its key; dying after the second, the last one is done at the next look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog
from msgspec.structs import replace

from pratai.agent.claims import Claims
from pratai.agent.messages import Emission, Emit, key_of
from pratai.agent.sources.folder import (
    File,
    check_allowed,
    event_of,
    key_of_file,
    put_away,
    scan,
)
from pratai.clock import now_ms
from pratai.config import schema
from pratai.errors import Conflict, PrataiError, StoreUnavailable
from pratai.metrics import count
from pratai.model.trigger import TRIGGER_STATE, Trigger, TriggerState
from pratai.store.base import Document, Store

_log = structlog.get_logger("pratai.agent")
#: Files of one folder offered in one look, and at one time.
FILES_A_LOOK, TOGETHER = 200, 16
#: First and longest wait before a file that was refused is offered again.
RETRY_MS, RETRY_MS_MAX = 2_000, 300_000
WRITE_ATTEMPTS_MAX = 8
#: How long a folder that could not be looked at is left to other agents.
FAILED_MS = 2_000
FAILURE_CHARS_MAX = 500

_encode = msgspec.json.Encoder().encode
_state_of = msgspec.json.Decoder(TriggerState).decode


class _Waiting(msgspec.Struct):
    """A file that is not taken: since when it is as it is, and how often it was refused."""

    fingerprint: str
    since_ms: int
    attempts: int = 0
    retry_at_ms: int = 0


class _Offered(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was accepted, or refused for good."""

    file: File
    request_id: str = ""
    failure: str = ""


_Change = Callable[[TriggerState], TriggerState]


class _Folder:
    """What is remembered of one folder between looks."""

    def __init__(self, trigger: Trigger) -> None:
        self.trigger = trigger
        #: {file name: how it waits}; at most `folder_files_max`.
        self.waiting: dict[str, _Waiting] = {}
        #: What is wrong with it now; told once.
        self.failure = ""
        #: A folder that could not be looked at is left to other agents until then.
        self.retry_at_ms = 0


class FolderWatch:
    """The folders of this agent."""

    def __init__(self, config: schema.Agent, agent_id: str, *, store: Store, emit: Emit) -> None:
        self._config = config
        self._store = store
        self._emit = emit
        self._claims = Claims(store, agent_id, config.lease_ms)
        self._roots = [root.strip() for root in config.folders.split(",") if root.strip()]
        #: {NAMESPACE/NAME: folder}, the active ones.
        self._folders: dict[str, _Folder] = {}

    @property
    def watched(self) -> int:
        """Active folder triggers."""
        return len(self._folders)

    def take(self, trigger: Trigger) -> None:
        """A trigger is new or was changed."""
        key = key_of(trigger)
        if trigger.folder is None or not trigger.enabled or trigger.paused:
            self._folders.pop(key, None)
        elif key in self._folders:
            self._folders[key].trigger = trigger
        else:
            self._folders[key] = _Folder(trigger)

    def forget(self, key: str) -> None:
        """A trigger was deleted."""
        self._folders.pop(key, None)

    async def stop(self) -> None:
        """Let other agents watch."""
        await self._claims.release_all()

    async def look(self) -> None:
        """Look at every folder once. One that fails does not keep the others from being seen."""
        for folder in list(self._folders.values()):
            trigger = folder.trigger
            claim = f"folder.{trigger.name}"
            if now_ms() < folder.retry_at_ms <= now_ms() + FAILED_MS:
                continue
            if not await self._claims.hold(trigger.namespace, claim):
                folder.waiting.clear()
                continue
            try:
                failure = await self._look_at(folder)
            except StoreUnavailable:
                raise
            except PrataiError as error:
                # it may be there on the machine of another agent
                failure = error.detail
                folder.retry_at_ms = now_ms() + FAILED_MS
                await self._claims.release(trigger.namespace, claim)
            await self._tell(folder, failure)

    async def _look_at(self, folder: _Folder) -> str:
        """Take what settled; "" or what is wrong."""
        trigger, config = folder.trigger, self._config
        source = trigger.folder
        assert source is not None
        path = check_allowed(source.path, self._roots)
        move_to = check_allowed(source.move_to, self._roots) if source.after == "move" else ""
        files, more = await asyncio.to_thread(scan, path, source.pattern, config.folder_files_max)
        state, _ = await self._read(trigger)
        settled = self._settled(folder, files, state)
        failures: list[str] = []
        for start in range(0, len(settled), TOGETHER):
            part = settled[start : start + TOGETHER]
            offered = await asyncio.gather(*(self._offer(folder, path, file) for file in part))
            await self._note(trigger, [item for item in offered if item is not None])
            failures.extend(item.failure for item in offered if item is not None and item.failure)
        there = {file.name: file for file in files}
        state = await self._prune(trigger, there) if not more else (await self._read(trigger))[0]
        for name, fingerprint in state.taken.items():
            file = there.get(name)
            if source.after != "keep" and file is not None and file.fingerprint == fingerprint:
                await asyncio.to_thread(put_away, source, path, move_to, file)
        if failures:
            return failures[0]
        if more:
            return f"the folder {path} holds more than {config.folder_files_max} files"
        return ""

    def _settled(self, folder: _Folder, files: list[File], state: TriggerState) -> list[File]:
        """Files to offer now: not taken, unchanged for `settle_ms`, not refused a moment ago."""
        source, at_ms = folder.trigger.folder, now_ms()
        assert source is not None
        before, folder.waiting = folder.waiting, {}
        settled: list[File] = []
        for file in files:
            if state.taken.get(file.name) == file.fingerprint:
                continue
            waiting = before.get(file.name)
            if waiting is None or waiting.fingerprint != file.fingerprint:
                waiting = _Waiting(file.fingerprint, at_ms)
            folder.waiting[file.name] = waiting
            quiet = at_ms - waiting.since_ms >= source.settle_ms and at_ms >= waiting.retry_at_ms
            if quiet and len(settled) < FILES_A_LOOK:
                settled.append(file)
        return settled

    async def _offer(self, folder: _Folder, path: str, file: File) -> _Offered | None:
        """Offer one file; None when it changed meanwhile or its time has not come."""
        trigger, waiting = folder.trigger, folder.waiting[file.name]
        try:
            event = await asyncio.to_thread(
                event_of, trigger, path, file, self._config.folder_content_bytes_max
            )
            if event is None:
                return None
            request_id = await self._emit(
                Emission(
                    namespace=trigger.namespace,
                    function=trigger.function,
                    qualifier=trigger.qualifier,
                    event=event,
                    trigger=f"folder:{trigger.name}",
                    idempotency_key=key_of_file(trigger, path, file),
                )
            )
        except PrataiError as error:
            if error.code == "idempotency_key_reused":
                return _Offered(file=file)
            wait_ms = min(RETRY_MS_MAX, RETRY_MS << min(waiting.attempts, 10))
            wait_ms = max(wait_ms, 1_000 * (error.retry_after_s or 0))
            waiting.attempts += 1
            waiting.retry_at_ms = now_ms() + wait_ms
            if error.retryable:
                count("folder_events_postponed")
                return None
            return _Offered(file=file, failure=error.detail)
        return _Offered(file=file, request_id=request_id)

    # states

    async def _note(self, trigger: Trigger, offered: list[_Offered]) -> None:
        """Write down what was accepted or refused."""
        if not offered:
            return
        at_ms = now_ms()
        count("folder_events", sum(not item.failure for item in offered))

        def noted(state: TriggerState) -> TriggerState:
            taken = dict(state.taken)
            for item in offered:
                if item.failure:
                    state = replace(
                        state,
                        failures=state.failures + 1,
                        last_failure=item.failure[:FAILURE_CHARS_MAX],
                        last_failure_at_ms=at_ms,
                    )
                else:
                    taken[item.file.name] = item.file.fingerprint
                    state = replace(
                        state,
                        runs=state.runs + 1,
                        last_run_at_ms=at_ms,
                        last_request_id=item.request_id,
                    )
            return replace(state, taken=taken)

        await self._change(trigger, noted)

    async def _prune(self, trigger: Trigger, there: dict[str, File]) -> TriggerState:
        """Forget what was taken and is gone."""

        def pruned(state: TriggerState) -> TriggerState:
            taken = {name: mark for name, mark in state.taken.items() if name in there}
            return state if len(taken) == len(state.taken) else replace(state, taken=taken)

        return await self._change(trigger, pruned)

    async def _tell(self, folder: _Folder, failure: str) -> None:
        """Note what is wrong with a folder, once for as long as it lasts."""
        if failure and failure != folder.failure:
            _log.warning("folder_failed", trigger=key_of(folder.trigger), failure=failure)
            at_ms = now_ms()

            def failed(state: TriggerState) -> TriggerState:
                if state.last_failure == failure and state.last_failure_at_ms >= at_ms - 1_000:
                    return state  # told with the file that it is about
                return replace(
                    state,
                    failures=state.failures + 1,
                    last_failure=failure[:FAILURE_CHARS_MAX],
                    last_failure_at_ms=at_ms,
                )

            await self._change(folder.trigger, failed)
        folder.failure = failure

    async def _read(self, trigger: Trigger) -> tuple[TriggerState, int]:
        document = await self._store.get(TRIGGER_STATE, trigger.namespace, trigger.name)
        if document is None:
            return TriggerState(namespace=trigger.namespace, name=trigger.name), 0
        return _state_of(document.body), document.revision

    async def _change(self, trigger: Trigger, change: _Change) -> TriggerState:
        for _ in range(WRITE_ATTEMPTS_MAX):
            before, revision = await self._read(trigger)
            after = change(before)
            if after == before:
                return before
            after = replace(after, epoch=trigger.epoch)
            try:
                await self._store.put(
                    Document(
                        kind=TRIGGER_STATE,
                        namespace=trigger.namespace,
                        id=trigger.name,
                        body=_encode(after),
                        revision=revision,
                    )
                )
            except Conflict:
                continue
            return after
        raise Conflict(
            f"the state of trigger {trigger.name} is being changed by somebody else",
            next_step="Nothing: it is tried again at the next look.",
        )
