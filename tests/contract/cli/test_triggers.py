"""`pratai triggers` and `pratai events`: what is asked and what is shown."""

from __future__ import annotations

import time

import pytest

TIMER = {
    "cron": "0 3 * * *",
    "every_ms": 0,
    "timezone": "Europe/Berlin",
    "start_at_ms": 0,
    "missed": "latest",
    "missed_max": 1_000,
}
STATE = {
    "last_run_at_ms": 0,
    "last_request_id": "",
    "next_run_at_ms": 0,
    "runs": 0,
    "skipped": 0,
    "failures": 0,
    "last_failure": "",
    "last_failure_at_ms": 0,
}
TRIGGER = {
    "namespace": "default",
    "name": "nightly",
    "kind": "timer",
    "function": "report",
    "qualifier": "",
    "description": "",
    "timer": TIMER,
    "event": None,
    "folder": None,
    "input": None,
    "enabled": True,
    "disabled_because": "",
    "paused": False,
    "created_at_ms": 1_700_000_000_000,
    "updated_at_ms": 1_700_000_000_000,
    "state": STATE,
}
FILTER = {"type": ["com.*", "org.x"], "source": [], "subject": [], "extensions": {}, "data": {}}
PATH = "/v1/triggers/nightly"


def in_three_hours() -> int:
    return round(time.time() * 1000) + 3 * 3_600_000 + 60_000


def test_triggers_are_a_table_with_when_they_run_next(pratai, api):
    event = {
        **TRIGGER,
        "name": "orders",
        "kind": "event",
        "timer": None,
        "event": {**FILTER, "data": {"n": [1]}},
        "qualifier": "live",
        "paused": True,
        "state": {**STATE, "runs": 7},
    }
    off = {**TRIGGER, "name": "x", "enabled": False, "disabled_because": "gone"}
    failing = {**TRIGGER, "name": "y", "state": {**STATE, "last_failure_at_ms": 5}}
    due = {**TRIGGER, "state": {**STATE, "next_run_at_ms": in_three_hours()}}
    page = {"items": [due, event, off, failing], "next_cursor": "y"}
    api.on("GET", "/v1/triggers", api.json(page))

    piped = pratai("triggers", "list", "--function", "report")
    typed = pratai("triggers", "list", terminal=True)

    assert piped.json() == page
    assert api.asked[0].query == {"function": "report", "limit": "50"}
    header, first, second, third, fourth = typed.text.splitlines()[:5]
    assert header.split()[:4] == ["name", "kind", "function", "state"]
    assert first.split()[:4] == ["nightly", "timer", "report", "enabled"]
    assert "in 3 h" in first
    assert second.split()[:4] == ["orders", "event", "report:live", "paused"]
    assert second.split()[-1] == "7"
    assert "disabled: gone" in third
    assert "failing" in fourth
    assert "--cursor y" in typed.err


def test_no_triggers_say_how_to_make_one(pratai, api):
    api.on("GET", "/v1/triggers", api.json({"items": [], "next_cursor": ""}))

    assert "pratai triggers create" in pratai("triggers", "list", terminal=True).text


def test_a_trigger_is_shown_with_what_it_did(pratai, api):
    state = {**STATE, "runs": 3, "failures": 1, "last_failure": "no such function"}
    view = {
        **TRIGGER,
        "input": {"deep": True},
        "state": {**state, "next_run_at_ms": in_three_hours()},
    }
    api.on("GET", PATH, api.json(view))

    piped, typed = (
        pratai("triggers", "show", "nightly"),
        pratai("triggers", "show", "nightly", terminal=True),
    )

    assert piped.json() == view
    for words in ("0 3 * * * Europe/Berlin", '{"deep":true}', "no such function", "(in 3 h)"):
        assert words in typed.text


@pytest.mark.parametrize(
    ("options", "source"),
    [
        (
            ("--cron", "0 3 * * *", "--timezone", "Europe/Berlin", "--missed", "all"),
            {"cron": "0 3 * * *", "timezone": "Europe/Berlin", "missed": "all"},
        ),
        (("--every", "90s"), {"every_ms": 90_000, "timezone": "UTC", "missed": "latest"}),
        (("--every", "1.5d"), {"every_ms": 129_600_000, "timezone": "UTC", "missed": "latest"}),
        (("--every", "500ms"), {"every_ms": 500, "timezone": "UTC", "missed": "latest"}),
    ],
)
def test_a_timer_is_made_of_its_options(pratai, api, options, source):
    api.on("PUT", PATH, api.json(TRIGGER, 201))

    ran = pratai("triggers", "create", "timer", "nightly", "--function", "report", *options)

    assert ran.json() == TRIGGER
    assert api.only("PUT", PATH).json() == {
        "function": "report",
        "qualifier": "",
        "description": "",
        "enabled": None,
        "timer": source,
    }


def test_a_timer_may_give_an_event_and_begin_switched_off(pratai, api):
    api.on("PUT", PATH, api.json(TRIGGER, 201))

    pratai(
        *("triggers", "create", "timer", "nightly", "--function", "report", "--every", "1h"),
        *("--input", '{"a": [1]}', "--disabled", "--qualifier", "live"),
    )

    asked = api.only("PUT", PATH).json()
    assert (asked["input"], asked["enabled"], asked["qualifier"]) == ({"a": [1]}, False, "live")


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--cron", "* * * * *", "--every", "1h"),
        ("--every", "soon"),
        ("--every", "-5s"),
        ("--cron", "* * * * *", "--missed", "never"),
        ("--every", "1h", "--input", "{"),
    ],
)
def test_a_timer_that_cannot_be_is_refused_before_anything_is_sent(pratai, api, options):
    ran = pratai("triggers", "create", "timer", "nightly", "--function", "report", *options)

    assert ran.code == 2
    assert api.asked == []


def test_an_event_trigger_is_made_of_patterns_and_values(pratai, api):
    event = {**TRIGGER, "kind": "event", "timer": None, "event": FILTER}
    api.on("PUT", PATH, api.json(event, 200))

    ran = pratai(
        *("triggers", "create", "event", "nightly", "--function", "report"),
        *("--type", "com.*", "--type", "org.x", "--subject", "*7*"),
        *("--extension", "tenant=a=b", "--data", "n=1", "--data", "n=true", "--data", "n=x*"),
        *("--data", 'm="5"', "--data", "m=null", "--data", "k=[1]"),
        terminal=True,
    )

    assert api.only("PUT", PATH).json()["event"] == {
        "type": ["com.*", "org.x"],
        "source": [],
        "subject": ["*7*"],
        "extensions": {"tenant": ["a=b"]},
        "data": {"n": [1, True, "x*"], "m": ["5", None], "k": ["[1]"]},
    }
    assert ran.text.strip() == "Changed nightly: type com.* | org.x -> report."


def test_a_folder_trigger_is_made_of_its_options(pratai, api):
    source = {
        "path": "/srv/in/",
        "pattern": "*.csv",
        "settle_ms": 2_000,
        "after": "move",
        "move_to": "/srv/done",
    }
    api.on(
        "PUT", PATH, api.json({**TRIGGER, "kind": "folder", "timer": None, "folder": source}, 201)
    )

    ran = pratai(
        *("triggers", "create", "folder", "nightly", "--function", "report", "--path", "/srv/in/"),
        *("--pattern", "*.csv", "--settle", "2s", "--after", "move", "--move-to", "/srv/done"),
        terminal=True,
    )

    assert api.only("PUT", PATH).json()["folder"] == source
    assert ran.text.strip() == "Made nightly: /srv/in/*.csv -> report."


@pytest.mark.parametrize("move", ["enable", "disable", "pause", "resume"])
def test_a_switch_asks_for_it_and_shows_the_trigger(pratai, api, move):
    api.on("POST", f"{PATH}/{move}", api.json(TRIGGER))

    assert pratai("triggers", move, "nightly").json() == TRIGGER
    assert "0 3 * * *" in pratai("triggers", move, "nightly", terminal=True).text


def test_firing_answers_the_request_id(pratai, api):
    told = {"request_id": "r1", "location": "/v1/invocations/r1"}
    api.on("POST", f"{PATH}/fire", api.json(told, 202))

    plain = pratai("triggers", "fire", "nightly", terminal=True)
    given = pratai("triggers", "fire", "nightly", '{"a": 1}')

    assert plain.text.strip() == "r1"
    assert given.json() == told
    assert [asked.body for asked in api.asked] == [b"", b'{"event":{"a": 1}}']


def test_deleting_asks_first_where_somebody_can_answer(pratai, api):
    api.on("DELETE", PATH, api.reply(status=204))

    assert pratai("triggers", "delete", "nightly").code == 2
    assert api.asked == []
    assert pratai("triggers", "delete", "nightly", "--yes").json() == {"deleted": "nightly"}
    api.only("DELETE", PATH)


def test_deleting_a_function_by_force_says_so(pratai, api):
    api.on("DELETE", "/v1/functions/hello", api.reply(status=204))

    pratai("function", "delete", "hello")
    pratai("function", "delete", "hello", "--force")

    assert [asked.query for asked in api.asked] == [{}, {"force": "true"}]


ANSWER = {
    "events": [
        {
            "id": "7",
            "source": "/shop",
            "matched": [
                {
                    "trigger": "a",
                    "function": "f",
                    "request_id": "r1",
                    "repeated": True,
                    "failure": "",
                },
                {"trigger": "b", "function": "g", "request_id": "", "failure": "no function g"},
            ],
            "paused": ["held"],
        }
    ]
}


def test_an_event_is_sent_whole_and_told_trigger_by_trigger(pratai, api):
    api.on("POST", "/v1/events", api.json(ANSWER, 202))
    command = (
        *("events", "send", "--type", "made", "--source", "/shop", "--id", "7"),
        *("--subject", "s", "--time", "2026-01-31T00:00:00Z", "--extension", "tenant=a"),
        *("--data", '{"n": 1}'),
    )

    piped, typed = pratai(*command), pratai(*command, terminal=True)

    assert piped.json() == ANSWER
    assert api.asked[0].headers["content-type"] == "application/cloudevents+json"
    assert api.asked[0].json() == {
        "specversion": "1.0",
        "id": "7",
        "source": "/shop",
        "type": "made",
        "subject": "s",
        "time": "2026-01-31T00:00:00Z",
        "tenant": "a",
        "datacontenttype": "application/json",
        "data": {"n": 1},
    }
    for words in ("accepted before", "no function g", "held", "paused"):
        assert words in typed.text


def test_an_event_without_id_gets_a_new_one_and_files_are_sent_as_what_they_are(
    pratai, api, tmp_path
):
    api.on(
        "POST",
        "/v1/events",
        api.json({"events": [{**ANSWER["events"][0], "matched": [], "paused": []}]}, 202),
    )
    (tmp_path / "a.txt").write_text("Grüße")
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    command = ("events", "send", "--type", "made", "--source", "/shop")

    pratai(*command)
    pratai(*command, "--data", f"@{tmp_path / 'a.txt'}")
    typed = pratai(*command, "--data", f"@{tmp_path / 'a.png'}", terminal=True)

    first, second, third = (asked.json() for asked in api.asked)
    assert len({first["id"], second["id"], third["id"]}) == 3
    assert (second["datacontenttype"], second["data"]) == ("text/plain", "Grüße")
    assert (third["datacontenttype"], third["data_base64"]) == ("image/png", "iVBORw==")
    assert "matches no trigger" in typed.text
