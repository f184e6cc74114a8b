"""CloudEvents as they come over HTTP: three forms, one value, and how each mistake is told."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pratai.errors import CallerError
from pratai.gateway.cloudevents import BATCH, BATCH_MAX, STRUCTURED, parse_events
from pratai.model.cloud_event import CloudEvent

LEAST = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "made"}
HEADERS = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/shop", "ce-type": "made"}


def structured(event: object, content_type: str = STRUCTURED) -> CloudEvent:
    raw = event if isinstance(event, bytes) else msgspec.json.encode(event)
    (parsed,) = parse_events(content_type, [], raw)
    return parsed


def binary(body: bytes = b"", content_type: str = "", **changes: str | None) -> CloudEvent:
    headers = {**HEADERS, **{f"ce-{name}": text for name, text in changes.items()}}
    given_ = [(name, text) for name, text in headers.items() if text is not None]
    (parsed,) = parse_events(content_type, given_, body)
    return parsed


def refusal(content_type: str, headers: list[tuple[str, str]], body: object) -> CallerError:
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    with pytest.raises(CallerError) as caught:
        parse_events(content_type, headers, raw)
    assert caught.value.next_step
    return caught.value


def test_the_least_event_is_its_four_attributes() -> None:
    assert structured(LEAST) == CloudEvent(attributes=LEAST)
    assert binary() == CloudEvent(attributes=LEAST)
    assert (structured(LEAST).id, structured(LEAST).source) == ("1", "/shop")


def test_a_whole_event_is_the_same_however_it_came() -> None:
    event = {
        **LEAST,
        "subject": "order 7",
        "time": "2026-01-31T09:30:00.123456789+01:00",
        "dataschema": "https://example.com/schema#1",
        "datacontenttype": "application/json",
        "tenant": "a",
        "data": {"n": 1},
    }

    one = structured(event)
    headers = {name: text for name, text in event.items() if isinstance(text, str)}
    content_type = headers.pop("datacontenttype")
    other = binary(b'{"n":1}', content_type, **headers)
    (third,) = parse_events(BATCH, [], msgspec.json.encode([event]))

    assert one.to_json() == other.to_json() == third.to_json()
    assert msgspec.json.decode(one.to_json()) == event


def test_headers_are_decoded_as_the_binding_says() -> None:
    event = binary(subject='Euro%20%E2%82%AC "x"', type='"quoted \\" text"', a1="%41")

    assert event.attributes["subject"] == 'Euro € "x"'
    assert event.attributes["type"] == 'quoted " text'
    assert event.attributes["a1"] == "A"


@pytest.mark.parametrize(
    ("content_type", "body", "data", "encoded"),
    [
        ("application/json", b' {"a": 1} ', {"a": 1}, None),
        ("application/vnd.x+json; charset=utf-8", b"[1]", [1], None),
        ("application/json", b"null", None, None),
        ("text/plain", "Grüße".encode(), "Grüße", None),
        ("text/plain", b"\xff", None, b"\xff"),
        ("text/plain; charset=latin-1", b"abc", None, b"abc"),
        ("application/octet-stream", b"\x00\x01", None, b"\x00\x01"),
        ("", b"abc", None, b"abc"),
        ("application/json", b"", None, None),
    ],
)
def test_a_binary_event_keeps_json_as_json_text_as_text_and_the_rest_as_base64(
    content_type: str, body: bytes, data: object, encoded: bytes | None
) -> None:
    event = binary(body, content_type)

    told = msgspec.json.decode(event.to_json())
    assert told.get("data") == data
    assert told.get("datacontenttype", "") == content_type
    kept = told.get("data_base64")
    assert (None if kept is None else base64.b64decode(kept)) == encoded


def test_what_is_null_is_not_there() -> None:
    assert structured({**LEAST, "subject": None, "data": None, "data_base64": None}) == CloudEvent(
        attributes=LEAST
    )


def test_extensions_may_be_text_whole_numbers_and_truth() -> None:
    event = structured({**LEAST, "a": "", "b": -(2**31), "c": True, "data_base64": "AAE="})

    assert event.attributes == {**LEAST, "a": "", "b": -(2**31), "c": True}
    assert event.data_base64 == "AAE="
    assert [event.text(name) for name in "abcd"] == ["", "-2147483648", "true", None]


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("specversion", "0.3"),
        ("specversion", 1.0),
        ("id", ""),
        ("id", 5),
        ("id", "a\nb"),
        ("id", "x" * 2_049),
        ("source", ""),
        ("source", "with space"),
        ("source", "häuser"),
        ("source", "%zz"),
        ("source", "1:2"),
        ("source", "#a#b"),
        ("type", ""),
        ("type", True),
        ("type", {}),
        ("subject", ""),
        ("time", "yesterday"),
        ("time", "2026-02-30T00:00:00Z"),
        ("time", "2026-01-31 09:30:00Z"),
        ("time", "2026-01-31T09:30:00"),
        ("time", "2026-01-31T25:30:00Z"),
        ("time", 5),
        ("datacontenttype", "json"),
        ("datacontenttype", "a/b; c"),
        ("dataschema", "/relative"),
        ("dataschema", ""),
        ("tenant", 1.5),
        ("tenant", 2**31),
        ("tenant", [1]),
        ("tenant", "\u0080"),
        ("Tenant", "x"),
        ("my-tenant", "x"),
        ("a" * 21, "x"),
        ("", "x"),
    ],
)
def test_a_wrong_attribute_is_told_by_its_name(attribute: str, value: object) -> None:
    event = {**LEAST, attribute: value}

    assert refusal(STRUCTURED, [], event).field == attribute
    assert refusal(BATCH, [], [LEAST, event]).field == f"[1].{attribute}"


@pytest.mark.parametrize("attribute", ["specversion", "id", "source", "type"])
def test_a_missing_attribute_is_told_by_its_name(attribute: str) -> None:
    event = {name: text for name, text in LEAST.items() if name != attribute}
    headers = [(name, text) for name, text in HEADERS.items() if name != f"ce-{attribute}"]

    assert refusal(STRUCTURED, [], event).field == attribute
    assert refusal(STRUCTURED, [], {**event, attribute: None}).field == attribute
    assert refusal("text/plain", headers, b"x").field == f"ce-{attribute}"


@pytest.mark.parametrize(
    ("content_type", "headers", "body", "field"),
    [
        ("application/json", {}, b"{}", "ce-specversion"),
        ("", {}, b"", "ce-specversion"),
        ("application/json", {"ce-id": "2"}, b"{}", "ce-specversion"),
        ("application/json", {**HEADERS, "ce-id": "%ff"}, b"{}", "ce-id"),
        ("application/json", {**HEADERS, "ce-data": "x"}, b"{}", "ce-data"),
        ("application/json", {**HEADERS, "ce-a_b": "x"}, b"{}", "ce-a_b"),
        ("application/json", {**HEADERS, "CE-ID": "2"}, b"{}", "ce-id"),
        ("application/json", {**HEADERS, "ce-datacontenttype": "a/b"}, b"", "ce-datacontenttype"),
        ("application/json", HEADERS, b"{", "body"),
        ("application/json", HEADERS, b"\xff", "body"),
        ("json", HEADERS, b"{}", "content-type"),
        (STRUCTURED, {}, b"", "body"),
        (STRUCTURED, {}, b"[]", "body"),
        (STRUCTURED, {}, b'"text"', "body"),
        (STRUCTURED, {}, b"[" * 100_000, "body"),
        (STRUCTURED, {}, b'{"id": "\\ud800"}', "body"),
        (STRUCTURED, {}, {**LEAST, "data": 1, "data_base64": "AAE="}, "data_base64"),
        (STRUCTURED, {}, {**LEAST, "data_base64": "AAE"}, "data_base64"),
        (STRUCTURED, {}, {**LEAST, "data_base64": "ä"}, "data_base64"),
        (STRUCTURED, {}, {**LEAST, "data_base64": 5}, "data_base64"),
        (STRUCTURED, {}, {**LEAST, **{f"a{n}": "x" for n in range(70)}}, "a60"),
        (BATCH, {}, LEAST, "body"),
        (BATCH, {}, [LEAST, 5], "[1]"),
        (BATCH, {}, [{**LEAST, "id": ""}], "[0].id"),
        (BATCH, {}, [LEAST] * (BATCH_MAX + 1), "body"),
        ("application/cloudevents+xml", {}, b"<event/>", "content-type"),
        ("application/cloudevents+json; charset=utf-16", {}, LEAST, "content-type"),
    ],
)
def test_a_wrong_request_is_told_by_field(
    content_type: str, headers: dict[str, str], body: object, field: str
) -> None:
    assert refusal(content_type, list(headers.items()), body).field == field


def test_a_batch_may_be_empty_and_keeps_its_order() -> None:
    assert parse_events(BATCH, [], b"[]") == []
    events = [{**LEAST, "id": str(number)} for number in range(BATCH_MAX)]
    parsed = parse_events(f"{BATCH}; charset=UTF-8", [], msgspec.json.encode(events))
    assert [one.id for one in parsed] == [str(number) for number in range(BATCH_MAX)]


ANY: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from([*LEAST, "time", "data", "data_base64", "x"]), ANY),
    st.booleans(),
)
def test_whatever_is_sent_is_an_event_or_names_a_field(event: dict[str, Any], whole: bool) -> None:
    raw = msgspec.json.encode({**LEAST, **event} if whole else event)
    try:
        (parsed,) = parse_events(STRUCTURED, [], raw)
    except CallerError as error:
        assert error.field  # noqa: PT017
    else:
        assert structured(parsed.to_json()).to_json() == parsed.to_json()


@settings(deadline=None)
@given(
    st.text(max_size=30),
    st.lists(
        st.tuples(st.sampled_from(["ce-id", "ce-x", "ce-"]), st.text('aä%2\x00"\\ ', max_size=6))
    ),
    st.binary(max_size=30),
)
def test_whatever_bytes_come_are_an_event_or_an_error(
    content_type: str, more: list[tuple[str, str]], body: bytes
) -> None:
    try:
        parsed = parse_events(content_type, [*HEADERS.items(), *more], body)
    except CallerError as error:
        assert error.detail  # noqa: PT017
    else:
        assert [msgspec.json.decode(one.to_json())["source"] for one in parsed] == ["/shop"]
