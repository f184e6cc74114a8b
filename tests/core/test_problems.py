"""Errors as RFC 9457 problem documents."""

from __future__ import annotations

import msgspec
import pytest

from pratai.errors import (
    Conflict,
    Draining,
    InvalidField,
    NotFound,
    PrataiError,
    StoreUnavailable,
    Throttled,
    Unauthorized,
)
from pratai.gateway.problems import problem_bytes, result_problem
from pratai.model.invocation import Failure
from pratai.wire.messages import Result


def document(answer: tuple[int, list[tuple[bytes, bytes]], bytes]) -> dict[str, object]:
    status, headers, body = answer
    told: dict[str, object] = msgspec.json.decode(body)
    assert told["status"] == status
    assert dict(headers)[b"content-type"] == b"application/problem+json"
    return told


@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [
        (InvalidField("x"), 400, "invalid_field", None),
        (Unauthorized("x"), 401, "unauthorized", None),
        (NotFound("x"), 404, "not_found", None),
        (Conflict("x"), 409, "conflict", None),
        (Throttled("x", retry_after_s=7), 429, "throttled", b"7"),
        (Throttled("x"), 429, "throttled", b"1"),
        (StoreUnavailable("x"), 503, "store_unavailable", b"1"),
        (Draining("x"), 503, "draining", b"1"),
    ],
)
def test_an_error_has_its_status_code_and_retry_after(
    error: PrataiError, status: int, code: str, retry_after: bytes | None
) -> None:
    answer = problem_bytes(error, "r1")

    told = document(answer)
    assert (told["status"], told["code"]) == (status, code)
    assert told["type"] == f"urn:pratai:problem:{code}"
    assert told["request_id"] == "r1"
    assert told["title"]
    assert told["next"]
    assert dict(answer[1]).get(b"retry-after") == retry_after


def test_a_bad_field_is_told_with_its_value_cut_to_a_readable_length() -> None:
    error = InvalidField("x", field="name", value="y" * 5_000, allowed=("a", "b"))

    told = document(problem_bytes(error, "r1"))

    assert told["field"] == "name"
    assert told["allowed"] == ["a", "b"]
    assert isinstance(told["value"], str)
    assert len(told["value"]) == 200


def test_what_is_unforeseen_is_500_and_says_nothing_of_itself() -> None:
    answer = problem_bytes(ZeroDivisionError("secret"), "r1")

    assert document(answer)["code"] == "internal"
    assert answer[0] == 500
    assert b"secret" not in answer[2]
    assert b"ZeroDivision" not in answer[2]


@pytest.mark.parametrize(
    ("outcome", "failure", "status", "code"),
    [
        ("failed", None, 502, "function_error"),
        ("failed", Failure(code="import_error", fault="function"), 502, "import_error"),
        ("failed", Failure(code="event_unreadable", fault="caller"), 400, "event_unreadable"),
        ("failed", Failure(code="start_failed", fault="platform"), 503, "start_failed"),
        ("crashed", None, 502, "crashed"),
        ("crashed", Failure(code="node_lost", fault="platform"), 503, "node_lost"),
        ("timed_out", None, 504, "timed_out"),
        ("timed_out", Failure(code="timed_out_queued", fault="platform"), 504, "timed_out_queued"),
        ("throttled", None, 429, "throttled"),
        ("discarded", None, 503, "discarded"),
    ],
)
def test_an_outcome_without_success_has_a_status(
    outcome: str, failure: Failure | None, status: int, code: str
) -> None:
    result = Result(request_id="r1", outcome=outcome, failure=failure)  # type: ignore[arg-type]

    answer = result_problem(result, "r1")

    told = document(answer)
    assert (told["status"], told["code"]) == (status, code)
    assert told["detail"]
    assert told["next"]
    assert (b"retry-after" in dict(answer[1])) == (status in (429, 503))


def test_a_function_s_own_failure_carries_type_message_and_stack() -> None:
    failure = Failure(
        code="function_error",
        fault="function",
        error_type="KeyError",
        error_message="'x'",
        stack=["main.py:3 in main"],
        next="Mend it.",
    )

    told = document(result_problem(Result(request_id="r1", outcome="failed", failure=failure), "r"))

    assert told["detail"] == "KeyError: 'x'"
    assert told["error_type"] == "KeyError"
    assert told["error_message"] == "'x'"
    assert told["stack"] == ["main.py:3 in main"]
    assert told["fault"] == "function"
    assert told["next"] == "Mend it."


def test_the_wait_that_the_scheduler_foresees_is_told() -> None:
    result = Result(request_id="r1", outcome="throttled", retry_after_s=4)

    assert dict(result_problem(result, "r1")[1])[b"retry-after"] == b"4"
