"""Errors as RFC 9457 `application/problem+json`, for every HTTP answer of the gateway.

Pure but for the log line of an unexpected error. What a problem says to its reader is decided
here and in the error itself, never in a route.
"""

from __future__ import annotations

import msgspec
import structlog

from pratai.errors import Fault, PrataiError
from pratai.model.api import Problem
from pratai.model.invocation import Failure, OutcomeKind
from pratai.wire.messages import Result

CONTENT_TYPE = "application/problem+json"
#: Status, headers, body: what an ASGI server needs.
Answer = tuple[int, list[tuple[bytes, bytes]], bytes]

#: Characters of a bad value that are told back; the rest is cut.
VALUE_CHARS_MAX = 200
#: How much of an error's own sentence is said; it may repeat what was sent.
DETAIL_CHARS_MAX = 2_000

_TITLES = {
    "bad_request": "The request is wrong",
    "invalid_field": "A field of the request is wrong",
    "invalid_json": "The body is not JSON",
    "unauthorized": "A key is needed",
    "forbidden": "The key may not do this",
    "not_found": "It does not exist",
    "method_not_allowed": "The method is not allowed here",
    "conflict": "It exists or was changed meanwhile",
    "payload_too_large": "The body is too large",
    "unsupported_media_type": "The content type is not understood",
    "throttled": "Too many calls at one time",
    "timed_out": "The call took too long",
    "store_unavailable": "The store cannot be reached",
    "draining": "This gateway is shutting down",
    "platform_error": "The platform failed",
    "internal": "The platform failed",
    "function_error": "The function failed",
    "import_error": "The function cannot be imported",
    "handler_missing": "The function's handler does not exist",
    "result_unserialisable": "The function's result is not JSON",
    "result_too_large": "The function's result is too large",
    "bad_response": "The function's response is not an HTTP response",
    "exited": "The function ended its process",
    "crashed": "The function crashed",
    "out_of_memory": "The function used more memory than it may",
    "discarded": "The event was discarded",
}

_NEXT: dict[Fault, str] = {
    "caller": "Change the request as `detail` says and send it again.",
    "function": "Read the function's logs of this request id, mend the function, deploy it again.",
    "platform": "Send the request again; if it repeats, give the request id to the operator.",
}

_STATUS: dict[OutcomeKind, int] = {
    "succeeded": 200,
    "failed": 502,
    "crashed": 502,
    "timed_out": 504,
    "throttled": 429,
    "discarded": 503,
}

_DEFAULT_CODE: dict[OutcomeKind, str] = {
    "succeeded": "internal",
    "failed": "function_error",
    "crashed": "crashed",
    "timed_out": "timed_out",
    "throttled": "throttled",
    "discarded": "discarded",
}

_DEFAULT_DETAIL: dict[OutcomeKind, str] = {
    "succeeded": "The call succeeded.",
    "failed": "The function raised an error.",
    "crashed": "The process of the function ended before it gave a result.",
    "timed_out": "The deadline of the call passed before there was a result.",
    "throttled": "Too many calls of this function wait already.",
    "discarded": "The event was given up before it ran.",
}

_DEFAULT_FAULT: dict[OutcomeKind, Fault] = {
    "succeeded": "platform",
    "failed": "function",
    "crashed": "function",
    "timed_out": "function",
    "throttled": "caller",
    "discarded": "platform",
}

_log = structlog.get_logger("pratai.gateway")
_encode = msgspec.json.Encoder().encode


def title(code: str) -> str:
    """The short text of a code; the same for every occurrence."""
    return _TITLES.get(code) or code.replace("_", " ").capitalize()


def problem_type(code: str) -> str:
    """The URI that names a kind of problem."""
    return f"urn:pratai:problem:{code}"


def problem_of(error: BaseException, request_id: str) -> Problem:
    """The problem document of an error. What is not a `PrataiError` is logged, never shown."""
    if not isinstance(error, PrataiError):
        _log.error("unexpected_error", request_id=request_id, exc_info=error)
        error = PrataiError("An error that was not foreseen stopped this request.")
    return Problem(
        type=problem_type(error.code),
        title=title(error.code),
        status=error.status,
        code=error.code,
        detail=error.detail[:DETAIL_CHARS_MAX] or title(error.code),
        fault=error.fault,
        next=error.next_step or _NEXT[error.fault],
        request_id=request_id,
        field=error.field,
        value=_shown(error.value),
        allowed=_allowed(error.allowed),
        retry_after_s=_retry_after_s(error),
    )


def problem_bytes(error: BaseException, request_id: str) -> Answer:
    """Status, headers and body of an error."""
    return encoded(problem_of(error, request_id))


def failure_problem(
    outcome: OutcomeKind, failure: Failure | None, *, request_id: str, retry_after_s: int = 0
) -> Problem:
    """The problem document of an invocation that did not succeed."""
    if failure is None:
        failure = Failure(code=_DEFAULT_CODE[outcome], fault=_DEFAULT_FAULT[outcome])
    status = _failure_status(outcome, failure)
    if status in (429, 503):
        retry_after_s = max(1, retry_after_s)
    fault: Fault = failure.fault or _DEFAULT_FAULT[outcome]
    return Problem(
        type=problem_type(failure.code),
        title=title(failure.code),
        status=status,
        code=failure.code,
        detail=_failure_detail(outcome, failure),
        fault=fault,
        next=failure.next or _NEXT[fault],
        request_id=request_id,
        error_type=failure.error_type,
        error_message=failure.error_message,
        stack=failure.stack,
        retry_after_s=retry_after_s or None,
    )


def result_problem(result: Result, request_id: str) -> Answer:
    """Status, headers and body of a sync call that did not succeed."""
    problem = failure_problem(
        result.outcome,
        result.failure,
        request_id=request_id,
        retry_after_s=result.retry_after_s,
    )
    return encoded(problem)


def encoded(problem: Problem) -> Answer:
    """A problem document as an answer. The request id's own header is the sender's to add."""
    headers = [(b"content-type", CONTENT_TYPE.encode())]
    if problem.retry_after_s is not None:
        headers.append((b"retry-after", str(problem.retry_after_s).encode()))
    if problem.status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="pratai"'))
    return problem.status, headers, _encode(problem)


def _failure_status(outcome: OutcomeKind, failure: Failure) -> int:
    status = _STATUS[outcome]
    if failure.fault == "platform" and (status == 502 or failure.code == "draining"):
        return 503
    if status == 502 and failure.fault == "caller":
        return 400
    return status


def _failure_detail(outcome: OutcomeKind, failure: Failure) -> str:
    if failure.error_type and failure.error_message:
        return f"{failure.error_type}: {failure.error_message}"
    return failure.error_message or failure.error_type or _DEFAULT_DETAIL[outcome]


def _retry_after_s(error: PrataiError) -> int | None:
    if error.retry_after_s is not None:
        return error.retry_after_s
    return 1 if error.status in (429, 503) else None


def _shown(value: object) -> str | int | float | bool | None:
    if value is None or isinstance(value, int | float | bool):
        return value
    return str(value)[:VALUE_CHARS_MAX]


def _allowed(allowed: object) -> str | list[str] | None:
    if allowed is None or isinstance(allowed, str):
        return allowed
    if isinstance(allowed, list | tuple | set | frozenset):
        return [str(one) for one in allowed]
    return str(allowed)
