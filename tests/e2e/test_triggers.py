"""Triggers and CloudEvents on a live platform: from the request to the function's run, once.

How exactly timers keep their times is tested with the agent, on a clock of the test's.
"""

from __future__ import annotations

import base64
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from platform_process import Answer, PlatformProcess

GIVEN_BACK = "def main(event):\n    return event\n"
STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
LEAST = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.made"}
HEADERS = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/shop", "ce-type": "order.made"}


@pytest.fixture(scope="module")
def served(platform: PlatformProcess) -> PlatformProcess:
    platform.deploy("back", GIVEN_BACK)
    platform.deploy("other", GIVEN_BACK)
    return platform


def put(platform: PlatformProcess, name: str, body: object) -> Any:
    answer = platform.request(
        "PUT",
        f"/v1/triggers/{name}",
        body=json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    assert answer.status in (200, 201), answer
    return answer.json()


def send(
    platform: PlatformProcess, body: object, content_type: str = STRUCTURED, **headers: str
) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return platform.request(
        "POST", "/v1/events", body=raw, headers={"content-type": content_type, **headers}
    )


def only_match(answer: Answer) -> Any:
    assert answer.status == 202, answer
    (event,) = answer.json()["events"]
    (match,) = event["matched"]
    return match


def wait_state(platform: PlatformProcess, name: str, **wanted: object) -> Any:
    limit = time.monotonic() + 10
    while True:
        state = platform.request("GET", f"/v1/triggers/{name}").json()["state"]
        if wanted.items() <= state.items():
            return state
        assert time.monotonic() < limit, state
        time.sleep(0.05)


def test_an_event_reaches_the_function_whole_in_all_three_forms(served: PlatformProcess) -> None:
    put(served, "forms", {"function": "back", "event": {"type": ["form.*"]}})
    event = {**LEAST, "type": "form.json", "subject": "Größe 7", "tenant": "a", "data": {"n": 1}}
    sent = [
        send(served, {**event, "id": "structured"}),
        send(served, [{**event, "id": "batched"}], BATCH),
        send(
            served,
            b'{"n":1}',
            "application/json",
            **{**HEADERS, "ce-id": "binary", "ce-type": "form.json"},
            **{"ce-subject": "Gr%C3%B6%C3%9Fe%207", "ce-tenant": "a"},
        ),
    ]

    ran = [served.wait_done(only_match(answer)["request_id"]) for answer in sent]

    assert [one["outcome"] for one in ran] == ["succeeded"] * 3
    results = [one["result"] for one in ran]
    assert [one.pop("id") for one in results] == ["structured", "batched", "binary"]
    assert results[2].pop("datacontenttype") == "application/json"
    assert all(one == {key: event[key] for key in event if key != "id"} for one in results)
    assert {one["trigger"] for one in ran} == {"event:forms"}
    assert {one["mode"] for one in ran} == {"async"}
    assert {one["content_type"] for one in ran} == {STRUCTURED}
    state = wait_state(served, "forms", runs=3)
    assert state["last_request_id"] == ran[2]["request_id"]
    assert state["last_run_at_ms"] > 0


def test_bytes_arrive_as_base64(served: PlatformProcess) -> None:
    put(served, "bytes", {"function": "back", "event": {"type": ["bytes"]}})
    body = bytes(range(256))

    answer = send(served, body, "image/png", **{**HEADERS, "ce-type": "bytes"})

    result = served.wait_done(only_match(answer)["request_id"])["result"]
    assert base64.b64decode(result["data_base64"]) == body
    assert result["datacontenttype"] == "image/png"


def test_an_event_goes_to_all_triggers_that_match_and_to_no_other(served: PlatformProcess) -> None:
    for number, wanted in enumerate(
        [
            {"type": ["many.made"]},
            {"source": ["/many*"]},
            {"type": ["many.*"], "data": {"customer.country": ["DE", "F*"]}},
            {"type": ["many.made"], "extensions": {"tenant": ["b"]}},
            {"type": ["many.paid"]},
        ]
    ):
        put(served, f"many{number}", {"function": "other", "event": wanted})
    event = {**LEAST, "type": "many.made", "source": "/many/eu", "tenant": "a"}

    answer = send(served, {**event, "data": {"customer": {"country": "FR"}}})

    matched = answer.json()["events"][0]["matched"]
    assert [one["trigger"] for one in matched] == ["many0", "many1", "many2"]
    assert len({one["request_id"] for one in matched}) == 3
    for one in matched:
        assert served.wait_done(one["request_id"])["outcome"] == "succeeded"


def test_an_event_sent_by_many_at_one_time_runs_once(served: PlatformProcess) -> None:
    put(served, "once", {"function": "back", "event": {"type": ["once"]}})
    event = {**LEAST, "type": "once", "id": "the one"}

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: send(served, event), range(24)))

    matches = [only_match(answer) for answer in answers]
    assert len({one["request_id"] for one in matches}) == 1
    assert sum(not one["repeated"] for one in matches) == 1
    served.wait_done(matches[0]["request_id"])
    listed = served.request("GET", "/v1/invocations?function=back&limit=500").json()["items"]
    assert sum(one["trigger"] == "event:once" for one in listed) == 1
    assert send(served, {**event, "data": "another"}).status == 409


def test_a_trigger_of_which_the_owner_thinks_again_takes_events_accordingly(
    served: PlatformProcess,
) -> None:
    put(served, "moved", {"function": "back", "event": {"type": ["moved"]}})

    def names(event_id: str) -> list[str]:
        answer = send(served, {**LEAST, "type": "moved", "id": event_id})
        return [one["trigger"] for one in answer.json()["events"][0]["matched"]]

    assert names("1") == ["moved"]
    for move, expected in (
        ("pause", []),
        ("resume", ["moved"]),
        ("disable", []),
        ("enable", ["moved"]),
    ):
        answer = served.request("POST", f"/v1/triggers/moved/{move}")
        assert answer.status == 200, answer
        assert names(move) == expected
    assert served.request("DELETE", "/v1/triggers/moved").status == 204
    assert names("2") == []


def test_an_accepted_event_runs_though_the_platform_is_killed(
    own_platform: PlatformProcess,
) -> None:
    own_platform.start()
    own_platform.deploy("back", GIVEN_BACK)
    put(own_platform, "all", {"function": "back", "event": {}})
    put(own_platform, "nightly", {"function": "back", "timer": {"cron": "0 3 * * *"}})
    events = [{**LEAST, "id": str(number), "data": number} for number in range(50)]

    first = send(own_platform, events, BATCH)
    own_platform.kill_tree()
    own_platform.start()
    again = send(own_platform, events, BATCH)

    accepted = [event["matched"][0]["request_id"] for event in first.json()["events"]]
    repeated = [event["matched"][0] for event in again.json()["events"]]
    assert [one["request_id"] for one in repeated] == accepted
    assert all(one["repeated"] for one in repeated)
    for number, request_id in enumerate(accepted):
        assert own_platform.wait_done(request_id)["result"]["data"] == number
    listed = own_platform.request("GET", "/v1/triggers").json()["items"]
    assert [(one["name"], one["enabled"]) for one in listed] == [("all", True), ("nightly", True)]


def test_a_timer_tells_when_it_is_due_and_can_be_run_by_hand(served: PlatformProcess) -> None:
    made = put(
        served,
        "nightly",
        {
            "function": "back",
            "timer": {"cron": "30 2 * * *", "timezone": "Australia/Lord_Howe"},
            "input": {"deep": [1, None, "ä"]},
        },
    )
    fired = served.request("POST", "/v1/triggers/nightly/fire")

    now_ms = time.time() * 1000
    assert now_ms < made["state"]["next_run_at_ms"] < now_ms + 25 * 3_600_000
    assert fired.status == 202
    ran = served.wait_done(fired.json()["request_id"])
    assert (ran["result"], ran["trigger"]) == ({"deep": [1, None, "ä"]}, "timer:nightly")
    paused = served.request("POST", "/v1/triggers/nightly/pause").json()
    assert paused["state"]["next_run_at_ms"] == 0


def test_a_timer_runs_until_it_is_paused_and_goes_on_when_it_is_resumed(
    served: PlatformProcess,
) -> None:
    def runs(least: int) -> Any:
        limit = time.monotonic() + 15
        while True:
            told = served.request("GET", "/v1/triggers/beat").json()["state"]
            if told["runs"] >= least:
                return told
            assert time.monotonic() < limit, told
            time.sleep(0.05)

    put(served, "beat", {"function": "back", "timer": {"every_ms": 200, "missed": "skip"}})
    state = runs(3)
    ran = served.wait_done(state["last_request_id"])
    assert (ran["trigger"], ran["result"]["trigger"]) == ("timer:beat", "beat")
    served.request("POST", "/v1/triggers/beat/pause")
    time.sleep(1.5)
    paused = runs(0)
    time.sleep(1.0)
    assert runs(0)["runs"] == paused["runs"]
    served.request("POST", "/v1/triggers/beat/resume")
    assert runs(paused["runs"] + 3)["failures"] == 0
    assert served.request("DELETE", "/v1/triggers/beat").status == 204


def test_a_function_leaves_no_trigger_that_points_nowhere(served: PlatformProcess) -> None:
    served.deploy("leaving", GIVEN_BACK)
    put(served, "leaver", {"function": "leaving", "event": {"type": ["leave"]}})

    refused = served.request("DELETE", "/v1/functions/leaving")
    forced = served.request("DELETE", "/v1/functions/leaving?force=true")

    assert (refused.status, refused.json()["code"]) == (409, "function_has_triggers")
    assert forced.status == 204
    told = served.request("GET", "/v1/triggers/leaver").json()
    assert (told["enabled"], told["disabled_because"]) == (
        False,
        "its function leaving was deleted",
    )
    assert send(served, {**LEAST, "type": "leave"}).json()["events"][0]["matched"] == []


def test_thousands_of_triggers_are_found_in_by_type(own_platform: PlatformProcess) -> None:
    own_platform.settings += ["gateway.triggers_max=2000"]
    own_platform.start()
    own_platform.deploy("back", GIVEN_BACK)

    def make(number: int) -> None:
        put(own_platform, f"t{number}", {"function": "back", "event": {"type": [f"type.{number}"]}})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(make, range(2_000)))
    refused = own_platform.request(
        "PUT", "/v1/triggers/one-more", body=b'{"function": "back", "event": {}}'
    )

    match = only_match(send(own_platform, {**LEAST, "type": "type.1234"}))
    assert match["trigger"] == "t1234"
    assert own_platform.wait_done(match["request_id"])["result"]["type"] == "type.1234"
    assert refused.status == 409


def test_the_command_line_makes_triggers_and_sends_events(served: PlatformProcess) -> None:
    made = served.cli(
        *("triggers", "create", "event", "cli", "--function", "back"),
        *("--type", "cli.*", "--data", "sum=7", "--extension", "tenant=a*"),
    )
    sent = served.cli(
        *("events", "send", "--type", "cli.made", "--source", "/cli", "--id", "c1"),
        *("--data", '{"sum": 7}', "--extension", "tenant=abc"),
    )
    shown = served.cli("triggers", "show", "cli")
    refused = served.cli("triggers", "create", "timer", "x", "--function", "back", "--cron", "x")

    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["event"]["data"] == {"sum": [7]}
    (match,) = json.loads(sent.stdout)["events"][0]["matched"]
    assert served.wait_done(match["request_id"])["result"]["data"] == {"sum": 7}
    assert json.loads(shown.stdout)["name"] == "cli"
    wait_state(served, "cli", last_request_id=match["request_id"])
    assert (refused.returncode, b"no cron expression" in refused.stderr) == (2, True)


DEEP = b"[" * 200_000
#: {name: (method, path, body, content type, status, field)}
REQUESTS: dict[str, tuple[str, str, bytes, str, int, str | None]] = {
    "method": ("PATCH", "/v1/triggers/x", b"", "", 405, "method"),
    "post to the list": ("POST", "/v1/triggers", b"{}", "application/json", 405, "method"),
    "get of events": ("GET", "/v1/events", b"", "", 405, "method"),
    "trigger unknown": ("GET", "/v1/triggers/nothing", b"", "", 404, "name"),
    "move unknown": ("POST", "/v1/triggers/x/explode", b"", "", 404, "path"),
    "name of dots": ("PUT", "/v1/triggers/%2e%2e", b"{}", "application/json", 400, "name"),
    "name with NUL": ("PUT", "/v1/triggers/a%00", b"{}", "application/json", 400, "name"),
    "limit": ("GET", "/v1/triggers?limit=501", b"", "", 400, "limit"),
    "cursor": ("GET", "/v1/triggers?cursor=a/b", b"", "", 400, "cursor"),
    "no body": ("PUT", "/v1/triggers/x", b"", "application/json", 400, "body"),
    "body cut short": ("PUT", "/v1/triggers/x", b'{"a"', "application/json", 400, "body"),
    "body nested without end": ("PUT", "/v1/triggers/x", DEEP, "application/json", 400, "body"),
    "body not UTF-8": ("PUT", "/v1/triggers/x", b'{"a":"\xff"}', "application/json", 400, "body"),
    "body too large": ("PUT", "/v1/triggers/x", b" " * (2 << 20), "application/json", 413, None),
    "no source": ("PUT", "/v1/triggers/x", b'{"function":"back"}', "", 400, "kind"),
    "two sources": (
        *("PUT", "/v1/triggers/x"),
        *(b'{"function":"back","event":{},"timer":{"every_ms":1000}}', "", 400, "event"),
    ),
    "cron nonsense": (
        *("PUT", "/v1/triggers/x"),
        *(b'{"function":"back","timer":{"cron":"; DROP"}}', "", 400, "timer.cron"),
    ),
    "cron that never comes": (
        *("PUT", "/v1/triggers/x"),
        *(b'{"function":"back","timer":{"cron":"0 0 31 2 *"}}', "", 400, "timer.cron"),
    ),
    "cron of a million digits": (
        *("PUT", "/v1/triggers/x"),
        b'{"function":"back","timer":{"cron":"' + b"1" * 500_000 + b' * * * *"}}',
        *("", 400, "timer.cron"),
    ),
    "zone out of its folder": (
        *("PUT", "/v1/triggers/x"),
        b'{"function":"back","timer":{"cron":"* * * * *","timezone":"../../../etc/passwd"}}',
        *("", 400, "timer.timezone"),
    ),
    "interval too short": (
        *("PUT", "/v1/triggers/x"),
        *(b'{"function":"back","timer":{"every_ms":1}}', "", 400, "timer.every_ms"),
    ),
    "folder up and out": (
        *("PUT", "/v1/triggers/x"),
        *(b'{"function":"back","folder":{"path":"/srv/../etc"}}', "", 400, "folder.path"),
    ),
    "function unknown": (
        *("PUT", "/v1/triggers/x"),
        *(b'{"function":"bak","event":{}}', "", 404, "function"),
    ),
    "fire of nothing": ("POST", "/v1/triggers/nothing/fire", b"", "", 404, "name"),
    "event of nothing": ("POST", "/v1/events", b"", "", 400, "ce-specversion"),
    "event of JSON alone": ("POST", "/v1/events", b"{}", "application/json", 400, "ce-specversion"),
    "event without attributes": ("POST", "/v1/events", b"{}", STRUCTURED, 400, "specversion"),
    "event a list": ("POST", "/v1/events", b"[]", STRUCTURED, 400, "body"),
    "event nested without end": ("POST", "/v1/events", DEEP, STRUCTURED, 400, "body"),
    "batch no list": ("POST", "/v1/events", b"{}", BATCH, 400, "body"),
    "batch of a wrong one": ("POST", "/v1/events", b"[{}]", BATCH, 400, "[0].specversion"),
    "batch too long": (
        *("POST", "/v1/events"),
        json.dumps([LEAST] * 501).encode(),
        *(BATCH, 413, "body"),
    ),
    "format unknown": (
        "POST",
        "/v1/events",
        b"x",
        "application/cloudevents+xml",
        415,
        "content-type",
    ),
    "event too large": ("POST", "/v1/events", b" " * (7 << 20), STRUCTURED, 413, None),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_wrong_request_is_refused_with_its_field(served: PlatformProcess, name: str) -> None:
    method, path, body, content_type, status, field = REQUESTS[name]
    served.url = served.gateway_url  # a proxy before it would refuse some of this in its own words
    headers = {"content-type": content_type} if content_type else {}

    answer = served.request(method, path, body=body, headers=headers)

    told = answer.json()
    assert answer.status == status, told
    assert answer.headers["content-type"] == "application/problem+json"
    assert told.get("field") == field
    assert told["detail"]
    assert told["next"]
    assert len(answer.body) < 4_096
    assert b"raceback" not in answer.body
    assert "unexpected_error" not in served.log()


def test_no_key_no_triggers_and_no_events(served: PlatformProcess) -> None:
    for method, path in (
        ("GET", "/v1/triggers"),
        ("PUT", "/v1/triggers/x"),
        ("POST", "/v1/triggers/x/fire"),
        ("POST", "/v1/events"),
    ):
        answer = served.request(method, path, body=b"{}", headers={"authorization": "Bearer no"})
        assert answer.status == 401, answer
