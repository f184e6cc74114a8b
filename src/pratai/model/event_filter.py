"""Which event triggers a CloudEvent matches. Pure; whether a filter is right is checked elsewhere.

Filters are compiled once (`Matcher`) and found by what they want an attribute to be, to begin or to
end with (`EventIndex`), so that an event is compared with few of thousands of triggers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, Literal, TypeVar

import msgspec

from pratai.model.cloud_event import CloudEvent
from pratai.model.trigger import EventFilter

K = TypeVar("K")
#: (attribute, kind of pattern, its text).
Key = tuple[str, str, str]
_Entry = tuple[int, K, "Matcher"]

#: Attributes by which filters are found, the most telling first.
_INDEXED = ("type", "source", "subject")
_MISSING = object()


class Pattern(msgspec.Struct, frozen=True):
    """Text, or text with `*` at its start, its end or both."""

    kind: Literal["exact", "prefix", "suffix", "part"]
    text: str

    def matches(self, value: str) -> bool:
        """Whether a value is like this. Upper and lower case differ."""
        kind = self.kind
        if kind == "exact":
            return value == self.text
        if kind == "prefix":
            return value.startswith(self.text)
        if kind == "suffix":
            return value.endswith(self.text)
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

    def index_keys(self) -> list[Key]:
        """Under what it is found: an event that has none of these cannot match it. Empty when it
        must be compared with every event.
        """
        wanted = dict(self.attributes)
        for name in _INDEXED:
            patterns = wanted.get(name)
            if patterns and all(one.text and one.kind != "part" for one in patterns):
                return [(name, one.kind, one.text) for one in patterns]
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

    def __init__(self, filters: Iterable[tuple[K, Matcher]]) -> None:
        #: {(attribute, kind, text): filters that want it, as (order, key, matcher)}.
        self._by: dict[Key, list[_Entry[K]]] = {}
        #: {(attribute, kind): lengths of the texts that are wanted}, for prefixes and suffixes.
        self._lengths: dict[tuple[str, str], set[int]] = {}
        #: Filters that are compared with every event.
        self._always: list[_Entry[K]] = []
        self._count = 0
        for key, matcher in filters:
            self._add((self._count, key, matcher))
            self._count += 1

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        """How many there are, and how many are compared with every event."""
        return f"<EventIndex [{self._count} filters | {len(self._always)} compared always]>"

    def matching(self, event: CloudEvent) -> list[K]:
        """Keys of the filters that match, in the order in which they were given."""
        data = _Data(event)
        found = {order: key for order, key, matcher in self._always if matcher.matches(event, data)}
        for index_key in self._keys_of(event):
            for order, key, matcher in self._by.get(index_key, ()):
                if order not in found and matcher.matches(event, data):
                    found[order] = key
        return [found[order] for order in sorted(found)]

    def _add(self, entry: _Entry[K]) -> None:
        index_keys = entry[2].index_keys()
        if not index_keys:
            self._always.append(entry)
        for index_key in index_keys:
            self._by.setdefault(index_key, []).append(entry)
            name, kind, text = index_key
            self._lengths.setdefault((name, kind), set()).add(len(text))

    def _keys_of(self, event: CloudEvent) -> Iterator[Key]:
        """Everything that a filter may want exactly of an event's indexed attributes."""
        for name in _INDEXED:
            value = event.text(name)
            if not value:
                continue
            yield (name, "exact", value)
            for length in self._lengths.get((name, "prefix"), ()):
                if length <= len(value):
                    yield (name, "prefix", value[:length])
            for length in self._lengths.get((name, "suffix"), ()):
                if length <= len(value):
                    yield (name, "suffix", value[-length:])


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
