"""Deploying, reading, versions and aliases over the API."""

from __future__ import annotations

from typing import Any

import msgspec


def other(text: str) -> bytes:
    return f"def main(payload):\n    return {text!r}\n".encode()


def test_a_first_deployment_is_201_and_answers_the_whole_function(world: Any) -> None:
    answer = world.deploy("hello", config={"memory_mb": 128, "labels": {"team": "a"}})

    assert answer.status == 201
    told = answer.json()
    assert told["name"] == "hello"
    assert told["namespace"] == "default"
    assert told["version"] == "1"
    assert told["memory_mb"] == 128
    assert told["timeout_ms"] == 30_000
    assert told["handler"] == "main:main"
    assert len(told["digest"]) == 64
    assert told["url"] == "http://pratai.test/fn/hello"
    assert told == world.call("GET", "/v1/functions/hello").json()
    assert world.changes == [(1, "default/hello/1")]


def test_the_same_deployment_again_is_200_and_makes_no_version(world: Any) -> None:
    world.deploy("hello", config={"memory_mb": 128})

    answer = world.deploy("hello", config={"memory_mb": 128})

    assert (answer.status, answer.json()["version"]) == (200, "1")
    assert world.changes == [(1, "default/hello/1")]


def test_a_changed_package_or_configuration_makes_a_version_and_keeps_the_rest(world: Any) -> None:
    world.deploy("hello", config={"memory_mb": 128})

    changed = world.deploy("hello", other("b"))
    configured = world.deploy("hello", other("b"), {"timeout_ms": 1_000})

    assert (changed.status, changed.json()["version"]) == (200, "2")
    assert changed.json()["memory_mb"] == 128
    assert (configured.json()["version"], configured.json()["timeout_ms"]) == ("3", 1_000)
    assert configured.json()["digest"] == changed.json()["digest"]


def test_a_wrong_configuration_names_the_field_and_the_nearest_known_one(world: Any) -> None:
    answer = world.deploy("hello", config={"memory_mbb": 128})

    problem = answer.json()
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["field"] == "memory_mbb"
    assert "memory_mb" in problem["next"]
    assert problem["request_id"] == answer.headers["pratai-request-id"]


def test_a_package_that_is_none_is_refused(world: Any) -> None:
    answer = world.deploy("hello", b"PK\x03\x04 not really a zip")

    assert 400 <= answer.status < 500
    assert world.call("GET", "/v1/functions/hello").status == 404


def test_a_package_above_its_limit_is_413(small_world: Any) -> None:
    answer = small_world.deploy("hello", CODE_PADDED)

    assert answer.status == 413
    assert answer.json()["code"] == "payload_too_large"


CODE_PADDED = b"def main(payload):\n    return 1\n" + b"#" * 30_000


def test_an_upload_with_an_unknown_part_names_the_nearest(world: Any, multipart: Any) -> None:
    answer = world.call(
        "PUT",
        "/v1/functions/hello",
        multipart([("pakage", b"x")]),
        headers={"content-type": "multipart/form-data; boundary=a-boundary"},
    )

    assert answer.status == 400
    assert "package" in answer.json()["next"]


def test_an_upload_cut_off_midway_is_refused(world: Any, multipart: Any) -> None:
    whole = multipart([("package", b"def main(payload): return 1")])

    answer = world.call(
        "PUT",
        "/v1/functions/hello",
        whole[:-30],
        headers={"content-type": "multipart/form-data; boundary=a-boundary"},
    )

    assert answer.status == 400
    assert "boundary" in answer.json()["detail"]


def test_a_deployment_that_is_not_multipart_is_415(world: Any) -> None:
    answer = world.call("PUT", "/v1/functions/hello", {"memory_mb": 1})

    assert answer.status == 415
    assert "curl -F" in answer.json()["next"]


def test_progress_streams_as_lines_and_ends_with_the_function(world: Any) -> None:
    class Step(msgspec.Struct):
        phase: str
        line: str

    inspect = world.packages.inspect_package

    async def telling(data: Any, config: Any, previous: Any, on_progress: Any) -> Any:
        on_progress(Step("resolve", "requests 2.32"))
        on_progress(Step("install", "1 package"))
        return await inspect(data, config, previous, on_progress)

    world.packages.inspect_package = telling
    answer = world.deploy("hello", headers={"accept": "application/x-ndjson"})

    lines = answer.lines()
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert lines[:2] == [
        {"phase": "resolve", "line": "requests 2.32"},
        {"phase": "install", "line": "1 package"},
    ]
    assert lines[-1]["function"]["version"] == "1"


def test_a_failed_deployment_that_streams_ends_with_the_problem(world: Any) -> None:
    answer = world.deploy(
        "hello", config={"memory_mb": -1}, headers={"accept": "application/x-ndjson"}
    )

    assert answer.status == 200
    assert answer.lines()[-1]["problem"]["field"] == "memory_mb"


def test_functions_are_listed_by_name_in_pages(world: Any) -> None:
    for name in ("c", "a", "b"):
        world.deploy(name)

    first = world.call("GET", "/v1/functions?limit=2").json()
    rest = world.call("GET", f"/v1/functions?limit=2&cursor={first['next_cursor']}").json()

    assert [one["name"] for one in first["items"]] == ["a", "b"]
    assert [one["name"] for one in rest["items"]] == ["c"]
    assert rest["next_cursor"] == ""


def test_an_unknown_function_is_404_with_names_like_it(world: Any) -> None:
    world.deploy("hello")

    problem = world.call("GET", "/v1/functions/helo").json()

    assert problem["status"] == 404
    assert problem["code"] == "not_found"
    assert "hello" in problem["next"]


def test_a_deleted_function_is_gone_and_its_versions_are_forgotten(world: Any) -> None:
    world.deploy("hello")
    world.deploy("hello", other("b"))
    world.changes.clear()

    assert world.call("DELETE", "/v1/functions/hello").status == 204

    assert world.call("GET", "/v1/functions/hello").status == 404
    assert world.call("DELETE", "/v1/functions/hello").status == 404
    assert world.changes == [(None, "default/hello/1"), (None, "default/hello/2")]


def test_versions_are_listed_newest_first_in_pages(world: Any) -> None:
    for text in "abc":
        world.deploy("hello", other(text))

    first = world.call("GET", "/v1/functions/hello/versions?limit=2").json()
    cursor = first["next_cursor"]
    rest = world.call("GET", f"/v1/functions/hello/versions?limit=2&cursor={cursor}").json()

    assert [one["version"] for one in first["items"]] == ["3", "2"]
    assert [one["latest"] for one in first["items"]] == [True, False]
    assert [one["version"] for one in rest["items"]] == ["1"]
    assert rest["next_cursor"] == ""


def test_publishing_keeps_a_description_and_makes_no_version(world: Any) -> None:
    world.deploy("hello")

    first = world.call("POST", "/v1/functions/hello/versions", {"description": "good"})
    again = world.call("POST", "/v1/functions/hello/versions")

    assert (first.status, first.json()["version"]) == (200, "1")
    assert first.json()["description"] == "good"
    assert again.json() == first.json()


def test_a_rollback_goes_to_the_version_before_or_the_one_named(world: Any) -> None:
    for text in "abc":
        world.deploy("hello", other(text))

    before = world.call("POST", "/v1/functions/hello/rollback")
    named = world.call("POST", "/v1/functions/hello/rollback", {"version": "3"})
    unknown = world.call("POST", "/v1/functions/hello/rollback", {"version": "9"})
    wrong = world.call("POST", "/v1/functions/hello/rollback", {"version": "x"})

    assert before.json()["version"] == "2"
    assert named.json()["version"] == "3"
    assert unknown.status == 404
    assert (wrong.status, wrong.json()["field"]) == (400, "version")
    assert world.changes[-2:] == [(2, "default/hello/2"), (3, "default/hello/3")]


def test_a_rollback_of_the_first_version_is_409(world: Any) -> None:
    world.deploy("hello")

    assert world.call("POST", "/v1/functions/hello/rollback").status == 409


def test_an_alias_is_made_moved_listed_and_deleted(world: Any) -> None:
    for text in "ab":
        world.deploy("hello", other(text))
    path = "/v1/functions/hello/aliases/live"

    made = world.call("PUT", path, {"version": "1"})
    moved = world.call("PUT", path, {"version": "1", "weights": {"2": 0.25}})

    assert (made.status, made.json()) == (201, {"name": "live", "version": "1", "weights": {}})
    assert (moved.status, moved.json()["weights"]) == (200, {"2": 0.25})
    assert world.call("GET", path).json() == moved.json()
    assert world.call("GET", "/v1/functions/hello/aliases").json()["items"] == [moved.json()]
    assert world.call("GET", "/v1/functions/hello").json()["aliases"] == {"live": moved.json()}
    assert world.call("DELETE", path).status == 204
    assert world.call("GET", path).status == 404


def test_an_alias_to_what_does_not_exist_or_with_wrong_weights_is_refused(world: Any) -> None:
    world.deploy("hello")
    path = "/v1/functions/hello/aliases/live"

    assert world.call("PUT", path, {"version": "7"}).status == 404
    assert world.call("PUT", path, {"version": "1", "weights": {"1": 1.5}}).status == 400
    two = world.call("PUT", path, {"version": "1", "weights": {"2": 0.1, "3": 0.1}})
    assert (two.status, two.json()["field"]) == (400, "weights")
    assert world.call("PUT", path, {"version": "1", "weight": {}}).json()["field"] == "weight"
    assert world.call("PUT", path, {}).json()["field"] == "version"
    assert world.call("PUT", "/v1/functions/hello/aliases/7", {"version": "1"}).status == 400


def test_a_function_that_asks_for_secrets_is_refused(world: Any) -> None:
    answer = world.deploy("shop", config={"secrets": ["TOKEN"]})
    assert answer.status == 400
    assert answer.json()["field"] == "secrets"
    assert "TOKEN" in answer.json()["detail"]
