"""How triggers change in the store: made, changed, switched on and off, deleted.

A trigger is one document that changes by compare-and-set, repeated a bounded number of times. What
was done for it is another document, written by who runs it: an agent, or for event triggers the
gateways (`trigger_runs.py`).
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Awaitable, Callable
from typing import NoReturn

import msgspec
from msgspec.structs import replace

from pratai.clock import now_ms
from pratai.core.schedule import schedule_of
from pratai.errors import Conflict, NotFound
from pratai.gateway.trigger_cache import TriggerCache, decode_trigger
from pratai.gateway.trigger_runs import TriggerRuns, decode_state
from pratai.model.refusal import invalid
from pratai.model.trigger import TRIGGER, TRIGGER_STATE, TimerSource, Trigger, TriggerState, revised
from pratai.store.base import Document, Store

#: Attempts at a compare-and-set before the caller is told of the conflict.
ATTEMPTS_MAX = 8
#: Read at one time while triggers of one function are looked for.
PAGE = 500

_encode = msgspec.json.Encoder().encode
Change = Callable[[Trigger], Trigger]
#: Told (namespace, name, revision) of a trigger that was changed or deleted; returns when all
#: gateways know.
Tell = Callable[[str, str, int], Awaitable[None]]


async def tell_nobody(namespace: str, name: str, revision: int) -> None:
    """Hook of a catalog that is the only one."""


class TriggerCatalog:
    """Knows the triggers: finds them and changes them."""

    def __init__(self, store: Store, *, shared: bool = True, triggers_max: int = 5_000) -> None:
        self._store = store
        self._triggers_max = triggers_max
        self.cache = TriggerCache(store, shared=shared)
        self.runs = TriggerRuns(store)
        #: Told of each change, before whoever made it is answered.
        self.tell: Tell = tell_nobody

    async def heard(self, namespace: str, name: str, revision: int) -> None:
        """A trigger was changed or deleted through another gateway: know it from now on."""
        document = await self._store.get(TRIGGER, namespace, name)
        if document is None:
            self.cache.changed(namespace, name, revision, None)
            self.runs.forget(namespace, name)
        else:
            trigger = decode_trigger(document.body)
            self.cache.changed(namespace, name, document.revision, trigger)

    def __repr__(self) -> str:
        """What is cached."""
        return f"<TriggerCatalog {self.cache!r}>"

    async def get(self, namespace: str, name: str) -> Trigger:
        """A trigger, from the store. Raises `NotFound` with the nearest names."""
        return (await self._read(namespace, name))[1]

    async def page(
        self, namespace: str, *, after: str, limit: int, function: str = ""
    ) -> tuple[list[Trigger], str]:
        """Triggers by name, those above `after`; and the cursor of the next page, "" for none."""
        found: list[Trigger] = []
        while True:
            wanted = PAGE if function else limit + 1
            documents = await self._store.documents(TRIGGER, namespace, after=after, limit=wanted)
            for document in documents:
                trigger = decode_trigger(document.body)
                if function in ("", trigger.function):
                    found.append(trigger)
            if len(found) > limit:
                return found[:limit], found[limit - 1].name
            if len(documents) < wanted:
                return found, ""
            after = documents[-1].id

    async def states(self, triggers: list[Trigger]) -> list[TriggerState]:
        """What was done for triggers, in their order."""
        return await asyncio.gather(*(self._state(trigger) for trigger in triggers))

    async def put(
        self, wanted: Trigger, *, enabled: bool | None, paused: bool | None
    ) -> tuple[Trigger, bool]:
        """Make a trigger, or change it whole; True when it is new.

        `enabled` and `paused` None: as it is.

        Raises:
            InvalidField: its timer is never due.
            Conflict: the namespace has as many triggers as it may.

        """
        if wanted.timer is not None:
            _check_due(wanted.timer)
        for _ in range(ATTEMPTS_MAX):
            document = await self._store.get(TRIGGER, wanted.namespace, wanted.name)
            if document is None:
                await self._check_room(wanted)
                fresh, before = wanted, None
            else:
                before = decode_trigger(document.body)
                fresh = replace(
                    wanted,
                    enabled=before.enabled if enabled is None else enabled,
                    paused=before.paused if paused is None else paused,
                )
                if not fresh.enabled and not before.enabled:
                    fresh = replace(fresh, disabled_because=before.disabled_because)
            try:
                return await self._put(before, fresh, document), before is None
            except Conflict:
                continue
        raise _busy(wanted.name)

    async def change(self, namespace: str, name: str, change: Change) -> Trigger:
        """Change a trigger; nothing is written when it is like that already."""
        for _ in range(ATTEMPTS_MAX):
            document, before = await self._read(namespace, name)
            after = change(before)
            if after == before:
                return before
            try:
                return await self._put(before, after, document)
            except Conflict:
                continue
        raise _busy(name)

    async def delete(self, namespace: str, name: str) -> None:
        """Remove a trigger and what is remembered of its runs. Raises `NotFound`."""
        for _ in range(ATTEMPTS_MAX):
            document, _trigger = await self._read(namespace, name)
            try:
                await self._store.delete(document)
            except Conflict:
                continue
            self.cache.changed(namespace, name, document.revision, None)
            self.runs.forget(namespace, name)
            await self._store.delete(
                Document(kind=TRIGGER_STATE, namespace=namespace, id=name, body=b"")
            )
            await self.tell(namespace, name, document.revision)
            return
        raise _busy(name)

    async def of_function(self, namespace: str, function: str) -> list[Trigger]:
        """Triggers that run a function, by name."""
        triggers = await self.cache.triggers(namespace)
        return [trigger for trigger in triggers if trigger.function == function]

    async def disable_of(self, namespace: str, function: str, because: str) -> None:
        """Disable all triggers of a function."""

        def disabled(trigger: Trigger) -> Trigger:
            if not trigger.enabled or trigger.function != function:
                return trigger
            return replace(trigger, enabled=False, disabled_because=because)

        for trigger in await self.of_function(namespace, function):
            try:
                await self.change(namespace, trigger.name, disabled)
            except NotFound:
                continue  # deleted meanwhile

    # inside

    async def _read(self, namespace: str, name: str) -> tuple[Document, Trigger]:
        document = await self._store.get(TRIGGER, namespace, name)
        if document is None:
            await self._no_trigger(namespace, name)
        return document, decode_trigger(document.body)

    async def _put(
        self, before: Trigger | None, after: Trigger, document: Document | None
    ) -> Trigger:
        fresh = revised(before, after, now_ms())
        if before is not None and fresh == replace(before, updated_at_ms=fresh.updated_at_ms):
            return before
        revision = await self._store.put(
            Document(
                kind=TRIGGER,
                namespace=fresh.namespace,
                id=fresh.name,
                body=_encode(fresh),
                revision=document.revision if document else 0,
            )
        )
        self.cache.changed(fresh.namespace, fresh.name, revision, fresh)
        await self.tell(fresh.namespace, fresh.name, revision)
        return fresh

    async def _state(self, trigger: Trigger) -> TriggerState:
        document = await self._store.get(TRIGGER_STATE, trigger.namespace, trigger.name)
        kept = (
            TriggerState(namespace=trigger.namespace, name=trigger.name)
            if document is None
            else decode_state(document.body)
        )
        return self.runs.with_unwritten(kept)

    async def _check_room(self, wanted: Trigger) -> None:
        if len(await self.cache.triggers(wanted.namespace)) >= self._triggers_max:
            raise Conflict(
                f"namespace {wanted.namespace} has {self._triggers_max} triggers already",
                next_step="Delete triggers that are not used, or raise [gateway] triggers_max.",
            )

    async def _no_trigger(self, namespace: str, name: str) -> NoReturn:
        names = [trigger.name for trigger in await self.cache.triggers(namespace)]
        near = difflib.get_close_matches(name, names, n=3)
        raise NotFound(
            f"there is no trigger {name} in namespace {namespace}",
            next_step=f"Did you mean {' or '.join(near)}?"
            if near
            else "`pratai triggers list` lists them; `pratai triggers create` makes one.",
            field="name",
            value=name,
            allowed=near or None,
        )


def enabled(trigger: Trigger) -> Trigger:
    """Switched on."""
    return replace(trigger, enabled=True, disabled_because="")


def disabled(trigger: Trigger) -> Trigger:
    """Switched off."""
    return replace(trigger, enabled=False)


def paused(trigger: Trigger) -> Trigger:
    """Held for now."""
    return replace(trigger, paused=True)


def resumed(trigger: Trigger) -> Trigger:
    """Held no longer."""
    return replace(trigger, paused=False)


def next_run_at_ms(trigger: Trigger) -> int:
    """When a timer is due next; 0 when it is not, or the trigger is none."""
    if trigger.timer is None or not trigger.enabled or trigger.paused:
        return 0
    return schedule_of(trigger.timer).next_after(now_ms()) or 0


def _check_due(timer: TimerSource) -> None:
    if schedule_of(timer).next_after(now_ms()) is None:
        raise invalid(
            "timer.cron",
            timer.cron,
            "an expression that matches some day within fifty years",
            detail=f"The cron expression {timer.cron!r} is never due.",
            next_step="Correct day and month.",
        )


def _busy(name: str) -> Conflict:
    return Conflict(
        f"{name} is being changed by somebody else at this moment",
        next_step="Ask again.",
        retry_after_s=1,
    )
