"""Which event triggers a CloudEvent matches. Pure; whether a filter is right is checked elsewhere.

Filters are compiled once (`Matcher`) and found by an attribute that they want exactly
(`EventIndex`), so that an event is compared with few of thousands of triggers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, Literal, TypeVar

import msgspec

from pratai.model.cloud_event import CloudEvent
from pratai.model.trigger import EventFilter

K = TypeVar("K")

#: Attributes by which filters are found, the most telling first.
_INDEXED = ("type", "source", "subject")
_MISSING = object()


class Pattern(msgspec.Struct, frozen=True):
    """Text, or text with `*` at its start, its end or both."""

    kind: Literal["exact", "prefix", "suffix", "part"]
    text: str

    def matches(self, value: str) -> bool:
        """Whether a value is like this. Upper and lower case differ."""
        match self.kind:
            case "exact":
                return value == self.text
            case "prefix":
                return value.startswith(self.text)
            case "suffix":
                return value.endswith(self.text)
            case "part":
                return self.text in value


def parse_pattern(text: str) -> Pattern | None:
    """What a pattern means; None when it is none: a `*` that is neither at its start nor end."""
    starts, ends = text.startswith("*"), text.endswith("*")
    if text == "*":
        return Pattern("prefix", "")
    inner = text[1 if starts else 0 : len(text) - 1 if ends else len(text)]
    if "*" in inner:
        return None
    if starts and ends:
        return Pattern("part", inner)
    if starts:
        return Pattern("suffix", inner)
    return Pattern("prefix" if ends else "exact", inner)


class Matcher:
    """A filter, compiled."""

    __slots__ = ("attributes", "data")

    def __init__(self, wanted: EventFilter) -> None:
        named = {"type": wanted.type, "source": wanted.source, "subject": wanted.subject}
        #: (attribute, alternatives) of those that are not free.
        self.attributes = [
            (name, [_pattern(text) for text in alternatives])
            for name, alternatives in (*named.items(), *wanted.extensions.items())
            if alternatives
        ]
        #: (path, alternatives) in the data.
        self.data = [
            (path.split("."), [_alternative(raw) for raw in allowed])
            for path, allowed in wanted.data.items()
        ]

    def index_keys(self) -> list[tuple[str, str]]:
        """(attribute, text) under which it is found; none when it must be compared always."""
        exact = dict(self.attributes)
        for name in _INDEXED:
            patterns = exact.get(name)
            if patterns and all(pattern.kind == "exact" for pattern in patterns):
                return [(name, text) for text in {pattern.text for pattern in patterns}]
        return []

    def matches(self, event: CloudEvent, data: _Data) -> bool:
        """Whether all that is wanted is there."""
        for name, patterns in self.attributes:
            value = event.text(name)
            if value is None or not any(pattern.matches(value) for pattern in patterns):
                return False
        return all(_is_among(data.at(path), allowed) for path, allowed in self.data)


class EventIndex(Generic[K]):
    """Many filters by what they want, each with a key of its owner."""

    def __init__(self, filters: Iterable[tuple[K, EventFilter]]) -> None:
        #: {(attribute, exact text): filters that want it, as (order, key, matcher)}.
        self._by: dict[tuple[str, str], list[tuple[int, K, Matcher]]] = {}
        #: Filters that want nothing exactly.
        self._always: list[tuple[int, K, Matcher]] = []
        self._count = 0
        for key, wanted in filters:
            entry = (self._count, key, Matcher(wanted))
            self._count += 1
            for index_key in entry[2].index_keys():
                self._by.setdefault(index_key, []).append(entry)
            if not entry[2].index_keys():
                self._always.append(entry)

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        """How many there are, and how many are compared with every event."""
        return f"<EventIndex [{self._count} filters | {len(self._always)} compared always]>"

    def matching(self, event: CloudEvent) -> list[K]:
        """Keys of the filters that match, in the order in which they were given."""
        data = _Data(event)
        candidates = list(self._always)
        for name in _INDEXED:
            value = event.text(name)
            if value is not None:
                candidates += self._by.get((name, value), ())
        found = [entry for entry in candidates if entry[2].matches(event, data)]
        found.sort(key=lambda entry: entry[0])
        return [entry[1] for entry in found]


def matches(wanted: EventFilter, event: CloudEvent) -> bool:
    """Whether one filter matches one event."""
    return Matcher(wanted).matches(event, _Data(event))


class _Data:
    """An event's JSON data, decoded when a filter asks for it."""

    __slots__ = ("_event", "_value")

    def __init__(self, event: CloudEvent) -> None:
        self._event = event
        self._value: object = self

    def at(self, path: list[str]) -> object:
        """The value at a path; names of objects and positions in arrays."""
        if self._value is self:
            raw = self._event.data
            self._value = _MISSING if raw is None else msgspec.json.decode(raw)
        value = self._value
        for part in path:
            if isinstance(value, dict) and part in value:
                value = value[part]
            elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
                value = value[int(part)]
            else:
                return _MISSING
        return value


def _pattern(text: str) -> Pattern:
    pattern = parse_pattern(text)
    assert pattern is not None, "filters are checked before they are kept"
    return pattern


def _alternative(raw: msgspec.Raw) -> object:
    value = msgspec.json.decode(raw)
    return _pattern(value) if isinstance(value, str) else value


def _is_among(value: object, allowed: list[object]) -> bool:
    """Whether a value, or an element of an array, is one of those allowed."""
    if isinstance(value, list):
        return any(_is_one(item, one) for item in value for one in allowed)
    return any(_is_one(value, one) for one in allowed)


def _is_one(value: object, one: object) -> bool:
    if isinstance(one, Pattern):
        return isinstance(value, str) and one.matches(value)
    if isinstance(one, bool) or isinstance(value, bool) or one is None:
        return value is one
    return value == one
