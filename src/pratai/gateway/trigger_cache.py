"""The triggers of a namespace in memory: for matching events, counting and naming the nearest.

What this gateway changes is seen here at once; what other gateways change, once it is read again,
at most `AGE_MAX_MS` and a reading later. Nothing here changes the store.
"""

from __future__ import annotations

import asyncio

import msgspec

from pratai.clock import now_ms
from pratai.model.cloud_event import CloudEvent
from pratai.model.event_filter import EventIndex, Matcher
from pratai.model.trigger import TRIGGER, Trigger
from pratai.store.base import Document, Store

#: With more than one gateway: how old the list may be before it is read again.
AGE_MAX_MS = 500
#: Namespaces whose triggers are remembered; the oldest is forgotten beyond it.
NAMESPACES_MAX = 1_000
#: How long, and how many of, own changes are held against a list that was read before them.
OWN_KEPT_MS = 2_000
OWN_MAX = 10_000
PAGE = 1_000

decode_trigger = msgspec.json.Decoder(Trigger).decode


class _Known(msgspec.Struct, frozen=True):
    """A trigger at a revision; None: deleted, the revision being the last it had."""

    revision: int
    trigger: Trigger | None
    #: Of an enabled event trigger: its filter, compiled once.
    matcher: Matcher | None = None


class _Own(msgspec.Struct, frozen=True):
    """A change that this gateway made."""

    at_ms: int
    known: _Known


class _Namespace:
    """All triggers of one namespace."""

    def __init__(self, known: dict[str, _Known], read_at_ms: int) -> None:
        #: {name: trigger at its revision}, in order of names. No deleted one in it.
        self.known = known
        self.read_at_ms = read_at_ms
        #: Of enabled event triggers; None = to be made anew.
        self.index: EventIndex[Trigger] | None = None

    def triggers(self) -> list[Trigger]:
        """All of them, by name."""
        return [one.trigger for one in self.known.values() if one.trigger is not None]

    def set(self, name: str, known: _Known) -> None:
        """Take a change of one trigger."""
        self.index = None
        if known.trigger is None:
            self.known.pop(name, None)
            return
        is_new = name not in self.known
        self.known[name] = known
        if is_new:
            self.known = dict(sorted(self.known.items()))

    def matching(self, event: CloudEvent) -> list[Trigger]:
        """Enabled event triggers that an event matches, paused ones among them."""
        if self.index is None:
            self.index = EventIndex(
                (one.trigger, one.matcher)
                for one in self.known.values()
                if one.trigger is not None and one.matcher is not None
            )
        return self.index.matching(event)


class TriggerCache:
    """Triggers by namespace. `shared`: other gateways write to the same store."""

    def __init__(self, store: Store, *, shared: bool) -> None:
        self._store = store
        self._shared = shared
        #: At most `NAMESPACES_MAX`.
        self._namespaces: dict[str, _Namespace] = {}
        #: Readings under way, at most one for each namespace.
        self._reading: dict[str, asyncio.Task[_Namespace]] = {}
        #: {(namespace, name): newest own change}, oldest first. At most `OWN_MAX`.
        self._own: dict[tuple[str, str], _Own] = {}

    def __repr__(self) -> str:
        """How many triggers of how many namespaces."""
        count = sum(len(one.known) for one in self._namespaces.values())
        return f"<TriggerCache [namespaces: {len(self._namespaces)} | triggers: {count}]>"

    async def triggers(self, namespace: str) -> list[Trigger]:
        """All triggers of a namespace, by name."""
        return (await self._fresh(namespace)).triggers()

    async def matching(self, namespace: str, event: CloudEvent) -> list[Trigger]:
        """Enabled event triggers that an event matches, by name; paused ones among them."""
        return (await self._fresh(namespace)).matching(event)

    def changed(self, namespace: str, name: str, revision: int, trigger: Trigger | None) -> None:
        """This gateway wrote a trigger, or (None) deleted the one of that revision."""
        known = _known(revision, trigger)
        self._own.pop((namespace, name), None)
        while len(self._own) >= OWN_MAX:
            del self._own[next(iter(self._own))]
        self._own[namespace, name] = _Own(now_ms(), known)
        cached = self._namespaces.get(namespace)
        if cached is not None:
            cached.set(name, known)

    async def _fresh(self, namespace: str) -> _Namespace:
        cached = self._namespaces.get(namespace)
        if cached is not None and not (self._shared and now_ms() - cached.read_at_ms > AGE_MAX_MS):
            return cached
        reading = self._reading.get(namespace)
        if reading is None:
            reading = asyncio.get_running_loop().create_task(self._read(namespace))
            self._reading[namespace] = reading
            reading.add_done_callback(lambda _: self._reading.pop(namespace, None))
        return await asyncio.shield(reading)

    async def _read(self, namespace: str) -> _Namespace:
        began_at_ms = now_ms()
        before = self._namespaces.get(namespace)
        known: dict[str, _Known] = {}
        after = ""
        while True:
            page = await self._store.documents(TRIGGER, namespace, after=after, limit=PAGE)
            for document in page:
                known[document.id] = _same_or_decoded(before, document)
            if len(page) < PAGE:
                break
            after = page[-1].id
        fresh = _Namespace(known, began_at_ms)
        if before is not None and before.known == known:
            fresh.index = before.index
        self._add_own(namespace, fresh)
        self._namespaces.pop(namespace, None)
        while len(self._namespaces) >= NAMESPACES_MAX:
            del self._namespaces[next(iter(self._namespaces))]
        self._namespaces[namespace] = fresh
        return fresh

    def _add_own(self, namespace: str, fresh: _Namespace) -> None:
        """Put own changes over a list that may have been read, or indexed, before them."""
        since_ms = now_ms() - OWN_KEPT_MS
        for (owner, name), own in list(self._own.items()):
            if own.at_ms < since_ms:
                del self._own[owner, name]
                continue
            if owner != namespace:
                continue
            listed = fresh.known.get(name)
            is_gone = own.known.trigger is None
            if is_gone and listed is not None and listed.revision <= own.known.revision:
                fresh.set(name, own.known)
            if not is_gone and (listed is None or listed.revision < own.known.revision):
                fresh.set(name, own.known)


def _same_or_decoded(before: _Namespace | None, document: Document) -> _Known:
    """The trigger of a document; not decoded again while its revision is the same."""
    known = before.known.get(document.id) if before is not None else None
    if known is not None and known.revision == document.revision:
        return known
    return _known(document.revision, decode_trigger(document.body))


def _known(revision: int, trigger: Trigger | None) -> _Known:
    if trigger is None or trigger.event is None or not trigger.enabled:
        return _Known(revision, trigger)
    return _Known(revision, trigger, Matcher(trigger.event))
