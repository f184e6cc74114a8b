"""Which filters an event matches, alone and in an index of many."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pratai.model.cloud_event import CloudEvent
from pratai.model.event_filter import EventIndex, Matcher, Pattern, matches, parse_pattern
from pratai.model.trigger import EventFilter


def event(data: object = None, **attributes: str | int | bool) -> CloudEvent:
    given_ = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "com.shop.order.made"}
    raw = None if data is None else msgspec.Raw(msgspec.json.encode(data))
    return CloudEvent(attributes={**given_, **attributes}, data=raw)


def wanted(data: dict[str, list[object]] | None = None, **named: object) -> EventFilter:
    raws = {
        path: [msgspec.Raw(msgspec.json.encode(value)) for value in values]
        for path, values in (data or {}).items()
    }
    return EventFilter(data=raws, **named)  # type: ignore[arg-type]


def index_of(filters: Iterable[tuple[Any, EventFilter]]) -> EventIndex[Any]:
    return EventIndex((key, Matcher(one)) for key, one in filters)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("com.shop", Pattern("exact", "com.shop")),
        ("com.*", Pattern("prefix", "com.")),
        ("*.made", Pattern("suffix", ".made")),
        ("*order*", Pattern("part", "order")),
        ("*", Pattern("prefix", "")),
        ("**", Pattern("part", "")),
        ("", Pattern("exact", "")),
        ("a*b", None),
        ("*a*b*", None),
        ("***", None),
    ],
)
def test_a_pattern_has_its_stars_at_its_ends(text: str, pattern: Pattern | None) -> None:
    assert parse_pattern(text) == pattern


@pytest.mark.parametrize(
    ("filter_", "is_match"),
    [
        (wanted(), True),
        (wanted(type=["com.shop.order.made"]), True),
        (wanted(type=["com.shop.order.Made"]), False),
        (wanted(type=["com.shop.*"]), True),
        (wanted(type=["com.shop.order.made*"]), True),
        (wanted(type=["*.made"]), True),
        (wanted(type=["*order*"]), True),
        (wanted(type=["*other*", "*.made"]), True),
        (wanted(type=["com.shop.order.made"], source=["/bank"]), False),
        (wanted(type=["com.shop.order.made"], source=["/bank", "/shop"]), True),
        (wanted(subject=["*"]), False),
        (wanted(extensions={"tenant": ["a", "b"]}), False),
    ],
)
def test_attributes_that_are_named_must_match_and_others_are_free(
    filter_: EventFilter, is_match: bool
) -> None:
    assert matches(filter_, event()) is is_match


def test_an_attribute_that_is_wanted_must_be_there() -> None:
    assert matches(wanted(subject=["*"]), event(subject="x"))
    assert not matches(wanted(subject=["*"]), event())


def test_extensions_are_compared_as_they_are_written_in_headers() -> None:
    filter_ = wanted(extensions={"tenant": ["a*"], "urgent": ["true"], "rank": ["7"]})

    assert matches(filter_, event(tenant="abc", urgent=True, rank=7))
    assert matches(filter_, event(tenant="abc", urgent="true", rank="7"))
    assert not matches(filter_, event(tenant="abc", urgent=False, rank=7))


@pytest.mark.parametrize(
    ("path", "allowed", "is_match"),
    [
        ("country", ["DE", "FR"], True),
        ("country", ["D*"], True),
        ("country", ["FR"], False),
        ("customer.age", [30], True),
        ("customer.age", [30.0], True),
        ("customer.age", ["30"], False),
        ("customer.new", [True], True),
        ("customer.new", [1], False),
        ("customer.none", [None], True),
        ("customer.none", [0, False, ""], False),
        ("customer.missing", [None], False),
        ("count", [True], False),
        ("tags", ["blue"], True),
        ("tags", ["green"], False),
        ("tags.0", ["red"], True),
        ("tags.2", ["red"], False),
        ("items.1.sku", ["b*"], True),
        ("country.code", ["DE"], False),
        ("customer", ["*"], False),
    ],
)
def test_data_is_looked_at_by_path(path: str, allowed: list[object], is_match: bool) -> None:
    data = {
        "country": "DE",
        "count": 1,
        "customer": {"age": 30, "new": True, "none": None},
        "tags": ["red", "blue"],
        "items": [{"sku": "a1"}, {"sku": "b2"}],
    }

    assert matches(wanted({path: allowed}), event(data)) is is_match


@pytest.mark.parametrize("data", [None, "text", 5, [], {}])
def test_data_that_has_no_such_path_does_not_match(data: object) -> None:
    assert not matches(wanted({"country": ["*"]}), event(data))


def test_an_index_answers_keys_in_the_order_they_were_given() -> None:
    index = index_of(
        [
            ("z", wanted(type=["com.*"])),
            ("y", wanted(type=["com.shop.order.made", "other"])),
            ("x", wanted(source=["/shop"])),
            ("w", wanted(type=["other"])),
            ("v", wanted(subject=["s"])),
            ("u", wanted()),
            ("t", wanted(source=["/shop"], data={"n": [1]})),
        ]
    )

    assert index.matching(event({"n": 1})) == ["z", "y", "x", "u", "t"]
    assert index.matching(event(subject="s", type="other")) == ["y", "x", "w", "v", "u"]
    assert repr(index) == "<EventIndex [7 filters | 1 compared always]>"


def test_a_filter_that_names_a_type_twice_matches_once() -> None:
    index = index_of([("a", wanted(type=["com.shop.order.made", "com.shop.order.made"]))])

    assert index.matching(event()) == ["a"]


def test_most_of_many_filters_are_not_compared() -> None:
    def types(n: int) -> list[str]:
        kinds = ([f"type.{n}"], [f"type.{n}.*"], [f"*.{n}.end"], ["a", f"type.{n}.*", f"*.{n}"])
        return kinds[n % 4]

    index = index_of((n, wanted(type=types(n), source=["*"])) for n in range(5_000))

    assert index.matching(event(type="type.4712")) == [4712]
    assert index.matching(event(type="type.4713.made")) == [4713]
    assert index.matching(event(type="some.4714.end")) == [4714]
    assert index.matching(event(type="type.4715.4719")) == [4715, 4719]
    assert repr(index) == "<EventIndex [5000 filters | 0 compared always]>"


WORDS = st.sampled_from(["a", "b", "ab", "ba", "a*", "*b", "*a*", "*"])
PLAIN = st.sampled_from(["a", "b", "ab", "ba", "aba"])
FILTERS = st.builds(
    EventFilter,
    type=st.lists(WORDS, max_size=2),
    source=st.lists(WORDS, max_size=2),
    subject=st.lists(WORDS, max_size=2),
    extensions=st.dictionaries(st.just("tenant"), st.lists(WORDS, max_size=2), max_size=1),
)
EVENTS = st.fixed_dictionaries({"type": PLAIN, "source": PLAIN}, optional={"subject": PLAIN})


@settings(deadline=None)
@given(st.lists(FILTERS, max_size=8), EVENTS)
def test_an_index_finds_what_comparing_every_filter_finds(
    filters: list[EventFilter], attributes: dict[str, str]
) -> None:
    sent = event(**attributes)

    found = index_of(enumerate(filters)).matching(sent)

    assert found == [n for n, one in enumerate(filters) if matches(one, sent)]


def test_an_event_is_written_in_one_order_however_its_attributes_came() -> None:
    one = CloudEvent(
        attributes={"zeta": 1, "type": "t", "alpha": True, "source": "/", "id": "1"}
        | {"specversion": "1.0"},
        data=msgspec.Raw(b'{"a": 1}'),
    )

    assert one.to_json() == (
        b'{"specversion":"1.0","id":"1","source":"/","type":"t","alpha":true,"zeta":1,'
        b'"data":{"a": 1}}'
    )
