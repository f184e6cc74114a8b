"""`/fn/{name}/...`: a function as a web endpoint."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from pratai.model.invocation import Failure


def answers(world: Any, value: object, content_type: str = "application/json") -> None:
    payload = value if isinstance(value, bytes) else msgspec.json.encode(value)
    world.result = replace(world.result, payload=payload, content_type=content_type)


def test_a_public_function_is_open_and_gets_the_request_as_event(world: Any) -> None:
    world.deploy("hello", config={"public": True})
    answers(world, {"statusCode": 201, "headers": {"X-A": "b"}, "body": "made"})

    answer = world.call(
        "POST",
        "/fn/hello/a%20b/c?x=1&x=2&y=",
        b'{"n":1}',
        key="",
        headers={"content-type": "application/json", "cookie": "a=1; b=2", "host": "h.test"},
    )

    assert (answer.status, answer.body, answer.headers["x-a"]) == (201, b"made", "b")
    (call,) = world.invoked
    event = msgspec.json.decode(call.payload)
    assert event["rawPath"] == "/a b/c"
    assert event["rawQueryString"] == "x=1&x=2&y="
    assert event["queryStringParameters"] == {"x": "1,2", "y": ""}
    assert event["body"] == '{"n":1}'
    assert event["isBase64Encoded"] is False
    assert event["cookies"] == ["a=1", "b=2"]
    assert event["requestContext"]["http"]["method"] == "POST"
    assert event["requestContext"]["requestId"] == call.request_id
    assert answer.headers["pratai-request-id"] == call.request_id


def test_the_bare_path_is_the_root(world: Any) -> None:
    world.deploy("hello", config={"public": True})

    for path in ("/fn/hello", "/fn/hello/"):
        assert world.call("GET", path, key="").status == 200

    paths = [msgspec.json.decode(call.payload)["rawPath"] for call in world.invoked]
    assert paths == ["/", "/"]


def test_a_function_that_is_not_public_needs_a_key_that_it_never_sees(world: Any) -> None:
    world.deploy("hello")
    answers(world, {"ok": True})

    assert world.call("GET", "/fn/hello", key="").status == 401
    answer = world.call("GET", "/fn/hello")

    assert (answer.status, answer.json()) == (200, {"ok": True})
    (call,) = world.invoked
    assert world.key.encode() not in call.payload


def test_a_public_function_sees_its_own_authorization_but_no_key_of_the_platform(
    world: Any,
) -> None:
    world.deploy("hello", config={"public": True})

    world.call("GET", "/fn/hello", key="", headers={"authorization": "Basic abc"})
    world.call("GET", "/fn/hello")

    own, platform = (msgspec.json.decode(call.payload)["headers"] for call in world.invoked)
    assert own["authorization"] == "Basic abc"
    assert "authorization" not in platform


def test_without_a_key_nobody_learns_which_functions_exist(world: Any) -> None:
    assert world.call("GET", "/fn/nothing", key="").status == 401
    assert world.call("GET", "/fn/nothing").status == 404


def test_a_failure_of_the_function_is_its_problem(world: Any) -> None:
    world.deploy("hello")
    world.result = replace(
        world.result,
        outcome="failed",
        failure=Failure(code="function_error", fault="function", error_type="KeyError"),
    )

    answer = world.call("GET", "/fn/hello")

    assert (answer.status, answer.json()["error_type"]) == (502, "KeyError")


def test_a_response_that_is_none_is_502(world: Any) -> None:
    world.deploy("hello")
    for wrong in (
        {"statusCode": 1000},
        {"statusCode": "ok"},
        {"statusCode": 200, "headers": {"a": "b\r\nc: d"}},
        {"statusCode": 200, "headers": {"a b": "c"}},
        {"statusCode": 200, "body": "%%%", "isBase64Encoded": True},
        {"statusCode": 200, "cookies": "a=1"},
    ):
        answers(world, wrong)

        answer = world.call("GET", "/fn/hello")

        assert (answer.status, answer.json()["code"]) == (502, "bad_response")


def test_a_request_above_the_event_limit_is_413(small_world: Any) -> None:
    small_world.deploy("hello")

    assert small_world.call("POST", "/fn/hello", b"x" * 20_001).status == 413
    assert small_world.call("POST", "/fn/hello", b"x" * 19_900).status == 413
    assert small_world.call("POST", "/fn/hello", b"x" * 1_000).status == 200


def test_204_has_no_body_whatever_the_function_says(world: Any) -> None:
    world.deploy("hello")
    answers(world, {"statusCode": 204, "body": "x"})

    answer = world.call("GET", "/fn/hello")

    assert (answer.status, answer.body) == (204, b"")
