"""What callers may say of a trigger, and how a wrong value is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pratai.errors import InvalidField
from pratai.model.trigger import EventFilter, FolderSource, TimerSource, Trigger
from pratai.model.trigger_validation import (
    ALTERNATIVES_MAX,
    INPUT_BYTES_MAX,
    RANGES,
    parse_fire,
    parse_trigger,
)

TIMER = {"function": "report", "timer": {"cron": "0 3 * * *", "timezone": "Europe/Berlin"}}
EVENT = {"function": "report", "event": {"type": ["com.shop.*"]}}
FOLDER = {"function": "report", "folder": {"path": "/srv/in"}}
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = [
    *("function", "kind", "qualifier", "description", "timer", "event", "folder", "input"),
    *("enabled", "paused", "namespace", "x"),
]


def trigger(body: object, name: str = "nightly") -> Trigger:
    return parse_trigger(msgspec.json.encode(body), "default", name)[0]


def refusal(body: object, name: str = "nightly") -> InvalidField:
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    with pytest.raises(InvalidField) as caught:
        parse_trigger(raw, "default", name)
    error = caught.value
    assert error.field
    assert error.next_step
    assert error.detail
    return error


def timer(**changes: object) -> dict[str, Any]:
    return {"function": "report", "timer": {"cron": "0 3 * * *", **changes}}


def event(**named: object) -> dict[str, Any]:
    return {"function": "report", "event": named}


def folder(**changes: object) -> dict[str, Any]:
    return {"function": "report", "folder": {"path": "/srv/in", **changes}}


def test_the_kind_is_that_of_the_one_source() -> None:
    assert trigger(TIMER).kind == "timer"
    assert trigger(EVENT).kind == "event"
    assert trigger(FOLDER).kind == "folder"
    assert trigger({**TIMER, "kind": "timer"}) == trigger(TIMER)


def test_a_new_trigger_is_enabled_and_not_paused() -> None:
    assert trigger(TIMER) == Trigger(
        namespace="default",
        name="nightly",
        kind="timer",
        function="report",
        timer=TimerSource(cron="0 3 * * *", timezone="Europe/Berlin"),
    )
    assert trigger({**TIMER, "enabled": False, "paused": True}).enabled is False


@pytest.mark.parametrize(
    ("body", "field", "told"),
    [
        (b"", "body", ""),
        (b"[]", "body", ""),
        (b'{"function": "a\\ud800"}', "body", ""),
        (b"[" * 100_000, "body", ""),
        ({"function": "report"}, "kind", "timer"),
        ({"timer": {"cron": "* * * * *"}}, "function", "Add function"),
        ({**TIMER, "function": "no name"}, "function", ""),
        ({**TIMER, "functon": "x"}, "functon", "function"),
        ({**TIMER, "namespace": "other"}, "namespace", ""),
        ({**TIMER, "created_at_ms": 1}, "created_at_ms", ""),
        ({**TIMER, "kind": "event"}, "event", "event"),
        ({**TIMER, "kind": "timr"}, "kind", "timer"),
        ({**TIMER, **EVENT}, "event", "each"),
        ({**TIMER, **EVENT, "kind": "event"}, "timer", "each"),
        ({**TIMER, "qualifier": "a/b"}, "qualifier", ""),
        ({**TIMER, "qualifier": "live\n"}, "qualifier", ""),
        ({**TIMER, "description": "x" * 1_025}, "description", ""),
        ({**TIMER, "enabled": "yes"}, "enabled", ""),
        ({**TIMER, "input": "x" * INPUT_BYTES_MAX}, "input", ""),
        ({**EVENT, "input": 1}, "input", "Leave input out"),
        ({**TIMER, "timer": []}, "timer", ""),
    ],
)
def test_a_wrong_trigger_is_refused_by_field(body: object, field: str, told: str) -> None:
    error = refusal(body)

    assert error.field == field
    assert told in error.next_step


@pytest.mark.parametrize("name", ["", "a b", "ä", "x" * 65, "../x"])
def test_a_wrong_name_is_refused(name: str) -> None:
    assert refusal(TIMER, name).field == "name"


@pytest.mark.parametrize(
    ("changes", "field", "told"),
    [
        ({"crn": "x"}, "timer.crn", "timer.cron"),
        ({"cron": ""}, "timer.cron", ""),
        ({"every_ms": 1_000}, "timer.cron", ""),
        ({"cron": "", "every_ms": 99}, "timer.every_ms", ""),
        ({"cron": "", "every_ms": -5}, "timer.every_ms", ""),
        ({"cron": "", "every_ms": 1.5}, "timer.every_ms", ""),
        ({"cron": "", "every_ms": True}, "timer.every_ms", ""),
        ({"cron": "", "every_ms": 2**80}, "timer.every_ms", ""),
        ({"cron": "* " * 200}, "timer.cron", ""),
        ({"cron": "٣ * * * *"}, "timer.cron", ""),
        ({"cron": 5}, "timer.cron", ""),
        ({"timezone": "europe/berlin"}, "timer.timezone", "Europe/Berlin"),
        ({"timezone": "Europe/Berln"}, "timer.timezone", "Europe/Berlin"),
        ({"timezone": ""}, "timer.timezone", ""),
        ({"timezone": "../../etc/passwd"}, "timer.timezone", ""),
        ({"timezone": "x" * 5_000}, "timer.timezone", ""),
        ({"missed": "lates"}, "timer.missed", "latest"),
        ({"missed_max": 0}, "timer.missed_max", ""),
        ({"start_at_ms": -1}, "timer.start_at_ms", ""),
    ],
)
def test_a_wrong_timer_is_refused_by_field(
    changes: dict[str, object], field: str, told: str
) -> None:
    error = refusal(timer(**changes))

    assert error.field == field
    assert told in error.next_step


@pytest.mark.parametrize("field", sorted(RANGES))
def test_a_number_is_allowed_at_its_bounds_and_refused_beyond(field: str) -> None:
    kind, _, name = field.partition(".")
    least, most = RANGES[field]

    def body(value: int) -> object:
        return folder(**{name: value}) if kind == "folder" else timer(**{name: value, **no_cron})

    no_cron = {"cron": ""} if name == "every_ms" else {}
    for value in (least, most):
        assert getattr(getattr(trigger(body(value)), kind), name) == value
    for value in (least - 1, most + 1):
        assert refusal(body(value)).field == field


@pytest.mark.parametrize(
    ("named", "field"),
    [
        ({"typ": ["x"]}, "event.typ"),
        ({"type": "x"}, "event.type"),
        ({"type": [1]}, "event.type[0]"),
        ({"type": [""]}, "event.type"),
        ({"type": ["a*b"]}, "event.type"),
        ({"type": ["x" * 1_025]}, "event.type"),
        ({"type": ["x"] * (ALTERNATIVES_MAX + 1)}, "event.type"),
        ({"subject": ["a\nb"]}, "event.subject"),
        ({"extensions": {"Tenant": ["x"]}}, "event.extensions"),
        ({"extensions": {"type": ["x"]}}, "event.extensions"),
        ({"extensions": {"a" * 21: ["x"]}}, "event.extensions"),
        ({"extensions": {f"a{n}": ["x"] for n in range(17)}}, "event.extensions"),
        ({"extensions": {"tenant": ["*x*y*"]}}, "event.extensions.tenant"),
        ({"data": {"": [1]}}, "event.data"),
        ({"data": {"a..b": [1]}}, "event.data"),
        ({"data": {"a": []}}, "event.data.a"),
        ({"data": {"a": [{}]}}, "event.data.a"),
        ({"data": {"a": [[1]]}}, "event.data.a"),
        ({"data": {"a": ["x*y"]}}, "event.data.a"),
        ({"data": {f"a{n}": [1] for n in range(17)}}, "event.data"),
    ],
)
def test_a_wrong_filter_is_refused_by_field(named: dict[str, object], field: str) -> None:
    assert refusal(event(**named)).field == field


def test_a_whole_filter_is_kept_as_it_was_given() -> None:
    made = trigger(
        event(
            type=["com.*", "org.x"],
            source=["*/eu"],
            subject=["*a*"],
            extensions={"tenant": ["t1"]},
            data={"a.b": [1, True, None, "x*"]},
        )
    )

    assert made.event is not None
    assert msgspec.json.decode(msgspec.json.encode(made.event)) == {
        "type": ["com.*", "org.x"],
        "source": ["*/eu"],
        "subject": ["*a*"],
        "extensions": {"tenant": ["t1"]},
        "data": {"a.b": [1, True, None, "x*"]},
    }
    assert trigger(event()).event == EventFilter()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"path": "srv/in"}, "folder.path"),
        ({"path": "/"}, "folder.path"),
        ({"path": "/srv/../etc"}, "folder.path"),
        ({"path": "/srv/./in"}, "folder.path"),
        ({"path": "/srv//in"}, "folder.path"),
        ({"path": "/srv/\u0000"}, "folder.path"),
        ({"path": "/" + "x" * 2_000}, "folder.path"),
        ({"pattern": ""}, "folder.pattern"),
        ({"pattern": "a/*"}, "folder.pattern"),
        ({"after": "mov"}, "folder.after"),
        ({"after": "move"}, "folder.move_to"),
        ({"after": "move", "move_to": "/srv/in/"}, "folder.move_to"),
        ({"move_to": "/srv/done"}, "folder.move_to"),
    ],
)
def test_a_wrong_folder_is_refused_by_field(changes: dict[str, object], field: str) -> None:
    assert refusal(folder(**changes)).field == field


def test_a_folder_is_kept_as_it_was_given() -> None:
    made = trigger(folder(after="move", move_to="/srv/in/done", pattern="*.csv", settle_ms=0))

    assert made.folder == FolderSource(
        path="/srv/in", after="move", move_to="/srv/in/done", pattern="*.csv", settle_ms=0
    )


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(FIELDS, JSON_VALUES),
            "timer": JSON_VALUES
            | st.fixed_dictionaries(
                {}, optional=dict.fromkeys(("cron", "every_ms", "timezone", "missed"), JSON_VALUES)
            ),
            "event": JSON_VALUES
            | st.fixed_dictionaries(
                {}, optional=dict.fromkeys(("type", "extensions", "data", "x"), JSON_VALUES)
            ),
        },
    )
)
def test_whatever_is_sent_becomes_a_trigger_or_names_a_field(body: dict[str, Any]) -> None:
    raw = msgspec.json.encode(body)
    try:
        made, _ = parse_trigger(raw, "default", "nightly")
    except InvalidField as error:
        assert error.field  # noqa: PT017
        assert error.next_step  # noqa: PT017
    else:
        assert msgspec.json.decode(msgspec.json.encode(made), type=Trigger) is not None


def test_a_timer_is_fired_without_an_event_and_others_need_one() -> None:
    nightly, orders = trigger(TIMER), trigger(EVENT)

    assert parse_fire(b"", nightly) is None
    assert parse_fire(b'{"event": {"a": 1}}', nightly) == b'{"a": 1}'
    assert parse_fire(b'{"event": 0}', orders) == b"0"
    for raw in (b"", b"{}", b'{"event": null}', b'{"evnt": 1}', b"1"):
        with pytest.raises(InvalidField):
            parse_fire(raw, orders)
