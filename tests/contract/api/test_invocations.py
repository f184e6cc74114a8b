"""Invocations, their results, logs and explanations, and dead letters over the API."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from pratai.clock import now_ms
from pratai.errors import Throttled
from pratai.model.invocation import Failure, LogRecord, Mark

BROKEN = Failure(
    code="function_error",
    fault="function",
    error_type="ValueError",
    error_message="no",
    stack=["main.py:1"],
)


def record(text: str, request_id: str = "r1", **fields: Any) -> LogRecord:
    return LogRecord(
        **{
            "namespace": "default",
            "function": "hello",
            "version": "1",
            "request_id": request_id,
            "instance_id": "i1",
            "at_ms": now_ms(),
            "level": "INFO",
            "text": text,
            **fields,
        }
    )


def log(world: Any, *records: LogRecord) -> None:
    world.store.append_logs(list(records))
    world.run(world.store.flush())


def test_an_invocation_tells_its_state_timeline_event_and_result(world: Any) -> None:
    accepted = now_ms() - 50
    world.keep(
        "r1",
        accepted_at_ms=accepted,
        finished_at_ms=accepted + 40,
        run_us=12_500,
        timeline=[Mark("accepted", accepted), Mark("answered", accepted + 40, 1)],
    )

    told = world.call("GET", "/v1/invocations/r1").json()

    assert (told["state"], told["outcome"], told["attempt"]) == ("done", "succeeded", 1)
    assert (told["event"], told["event_encoding"]) == ({"n": 1}, "json")
    assert (told["result"], told["result_encoding"]) == ({"ok": True}, "json")
    assert (told["duration_ms"], told["run_ms"]) == (40.0, 12.5)
    assert [mark["offset_ms"] for mark in told["timeline"]] == [0, 40]


def test_an_event_that_is_not_json_is_told_as_text_or_base64(world: Any) -> None:
    world.keep("r1", event=b"plain", content_type="text/plain")
    world.keep("r2", event=b"\xff\x00", content_type="application/octet-stream")
    world.keep("r3", event=b"{broken", content_type="application/json")

    first, second, third = (
        world.call("GET", f"/v1/invocations/{one}").json() for one in ("r1", "r2", "r3")
    )

    assert (first["event"], first["event_encoding"]) == ("plain", "text")
    assert base64.b64decode(second["event"]) == b"\xff\x00"
    assert second["event_encoding"] == "base64"
    assert (third["event"], third["event_encoding"]) == ("{broken", "text")


def test_a_result_is_its_bytes_with_their_content_type(world: Any) -> None:
    world.keep("r1", result=b"\x89PNG", result_content_type="image/png")
    world.keep("r2", result=b"x", result_content_type="text/html\r\nx-evil: 1")

    answer = world.call("GET", "/v1/invocations/r1/result")
    odd = world.call("GET", "/v1/invocations/r2/result")

    assert (answer.status, answer.body) == (200, b"\x89PNG")
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["pratai-request-id"] == "r1"
    assert odd.headers["content-type"] == "application/octet-stream"


def test_a_result_that_is_not_there_yet_is_202(world: Any) -> None:
    world.keep("r1", state="queued", outcome="", finished_at_ms=0)

    answer = world.call("GET", "/v1/invocations/r1/result")

    assert (answer.status, answer.json()["state"]) == (202, "queued")
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("outcome", "failure", "status"),
    [
        ("failed", BROKEN, 502),
        ("timed_out", None, 504),
        ("crashed", Failure(code="node_lost", fault="platform"), 503),
        ("throttled", None, 429),
    ],
)
def test_a_result_without_success_is_the_problem_a_caller_would_get(
    world: Any, outcome: str, failure: Failure | None, status: int
) -> None:
    world.keep("r1", outcome=outcome, failure=failure)

    answer = world.call("GET", "/v1/invocations/r1/result")

    assert answer.status == answer.json()["status"] == status
    assert answer.json()["request_id"] == "r1"
    assert ("retry-after" in answer.headers) == (status in (429, 503))


def test_a_failed_function_tells_its_own_error(world: Any) -> None:
    world.keep("r1", outcome="failed", failure=BROKEN)

    problem = world.call("GET", "/v1/invocations/r1/result").json()

    assert problem["code"] == "function_error"
    assert problem["error_type"] == "ValueError"
    assert problem["error_message"] == "no"
    assert problem["stack"] == ["main.py:1"]


def test_why_tells_the_story_of_a_failure(world: Any) -> None:
    world.keep("r1", outcome="failed", failure=BROKEN, node_id="node-1")

    story = world.call("GET", "/v1/invocations/r1/why").json()

    assert story["fault"] == "function"
    assert "ValueError: no" in story["cause"]
    names = [step["name"] for step in story["steps"]]
    assert (names[0], names[-1]) == ("accepted", "answered")


def test_invocations_are_searched_by_what_they_are_and_when(world: Any) -> None:
    old = now_ms() - 3 * 3_600_000
    world.keep("r1", accepted_at_ms=old, finished_at_ms=old)
    world.keep("r2", outcome="failed", failure=BROKEN)
    world.keep("r3", function="other", event=b'{"city":"Lisbon"}')

    def ids(query: str) -> list[str]:
        answer = world.call("GET", f"/v1/invocations?{query}")
        assert answer.status == 200
        return [one["request_id"] for one in answer.json()["items"]]

    assert ids("") == ["r3", "r2", "r1"]
    assert ids("function=other") == ["r3"]
    assert ids("outcome=failed") == ["r2"]
    assert ids("since=2h") == ["r3", "r2"]
    assert ids(f"until={old + 1}") == ["r1"]
    assert ids("search=lisbon") == ["r3"]


def test_a_listing_pages_and_leaves_event_and_result_out(world: Any) -> None:
    for name in ("r1", "r2", "r3"):
        world.keep(name)

    first = world.call("GET", "/v1/invocations?limit=2").json()
    rest = world.call("GET", f"/v1/invocations?limit=2&cursor={first['next_cursor']}").json()

    assert [one["request_id"] for one in first["items"]] == ["r3", "r2"]
    assert [one["request_id"] for one in rest["items"]] == ["r1"]
    assert first["items"][0]["event"] is None


def test_a_replay_is_accepted_under_a_new_id(world: Any) -> None:
    world.keep("r1")

    answer = world.call("POST", "/v1/invocations/r1/replay")

    assert answer.status == 202
    assert answer.json() == {"request_id": "again-1", "location": "/v1/invocations/again-1"}
    assert answer.headers["location"] == "/v1/invocations/again-1"
    assert [(one.request_id, one.event) for one in world.replayed] == [("r1", b'{"n":1}')]


def test_an_unknown_invocation_is_404_everywhere(world: Any) -> None:
    for method, path in (
        ("GET", ""),
        ("GET", "/result"),
        ("GET", "/why"),
        ("GET", "/logs"),
        ("POST", "/replay"),
    ):
        assert world.call(method, f"/v1/invocations/nothing{path}").status == 404


def test_another_namespace_does_not_see_it(world: Any) -> None:
    world.keep("r1")

    answer = world.call("GET", "/v1/invocations/r1", headers={"pratai-namespace": "team-b"})

    assert answer.status == 404


def test_the_logs_of_an_invocation_are_json_lines(world: Any) -> None:
    world.keep("r1")
    log(world, record("one"), record("two", "r2"), record("three"))

    answer = world.call("GET", "/v1/invocations/r1/logs")

    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [line["text"] for line in answer.lines()] == ["one", "three"]


def test_the_logs_of_a_function_are_its_newest_oldest_first(world: Any) -> None:
    world.deploy("hello")
    log(world, *(record(f"line {number}") for number in range(5)))

    newest = world.call("GET", "/v1/functions/hello/logs?limit=2").lines()
    after = world.call("GET", f"/v1/functions/hello/logs?after={newest[0]['sequence']}").lines()
    found = world.call("GET", "/v1/functions/hello/logs?grep=3").lines()

    assert [line["text"] for line in newest] == ["line 3", "line 4"]
    assert [line["text"] for line in after] == ["line 4"]
    assert [line["text"] for line in found] == ["line 3"]
    assert world.call("GET", "/v1/functions/nothing/logs").status == 404


def test_following_sends_what_is_there_and_what_comes(world: Any, exchange: Any) -> None:
    world.deploy("hello")
    log(world, record("before"))
    request = exchange(world, "GET", "/v1/functions/hello/logs?follow=true")

    def enough(received: bytes) -> bool:
        if b"before" in received and b"after" not in received:
            world.store.append_logs([record("after")])
        return b'"after"' in received

    answer = world.run(request.until(enough))

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.body.count(b"event: log\n") == 2
    assert answer.body.index(b"before") < answer.body.index(b'"after"')


def test_following_resumes_after_the_last_event_seen(world: Any, exchange: Any) -> None:
    world.deploy("hello")
    log(world, record("one"), record("two"))
    seen = world.call("GET", "/v1/functions/hello/logs").lines()[0]["sequence"]
    request = exchange(world, "GET", "/v1/functions/hello/logs?follow=true")
    request.headers["last-event-id"] = str(seen)

    answer = world.run(request.until(lambda received: b"two" in received))

    assert b'"one"' not in answer.body


def test_dead_letters_are_listed_read_replayed_and_removed(world: Any) -> None:
    world.keep("r1")
    for name in ("r2", "r3", "r4"):
        world.keep(name, mode="async", outcome="failed", failure=BROKEN, dead=True)

    listed = world.call("GET", "/v1/dead-letters").json()["items"]
    assert [one["request_id"] for one in listed] == ["r4", "r3", "r2"]
    assert world.call("GET", "/v1/dead-letters/r2").json()["dead"] is True
    assert world.call("GET", "/v1/dead-letters/r1").status == 404

    assert world.call("POST", "/v1/dead-letters/r2/replay").status == 202
    assert world.call("GET", "/v1/dead-letters/r2").status == 404
    assert world.call("DELETE", "/v1/dead-letters/r3").status == 204
    assert world.call("DELETE", "/v1/dead-letters/r3").status == 404
    assert [one.request_id for one in world.replayed] == ["r2"]


def test_all_dead_letters_of_a_function_are_replayed_or_removed(world: Any) -> None:
    for name, function in (("r1", "a"), ("r2", "a"), ("r3", "b"), ("r4", "b")):
        world.keep(name, function=function, mode="async", outcome="failed", dead=True)

    replayed = world.call("POST", "/v1/dead-letters/replay?function=a")
    removed = world.call("DELETE", "/v1/dead-letters?function=b")

    assert (replayed.status, replayed.json()) == (200, {"count": 2})
    assert removed.json() == {"count": 2}
    assert sorted(one.request_id for one in world.replayed) == ["r1", "r2"]
    assert world.call("GET", "/v1/dead-letters").json()["items"] == []


def test_a_dead_letter_stays_when_its_replay_is_refused(world: Any) -> None:
    world.keep("r1", mode="async", outcome="failed", dead=True)
    world.replay_error = Throttled("full", retry_after_s=3)

    one = world.call("POST", "/v1/dead-letters/r1/replay")
    every = world.call("POST", "/v1/dead-letters/replay")

    assert (one.status, one.headers["retry-after"]) == (429, "3")
    assert every.status == 429
    assert world.call("GET", "/v1/dead-letters/r1").status == 200
