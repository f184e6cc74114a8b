"""Following one invocation until its outcome, by asking the server again and again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from pratai import clock
from pratai.cli.client import Client, ServerProblem, decode, route
from pratai.cli.records import InvocationRecord
from pratai.errors import PlatformError
from pratai.model.api import LogView

OnLog = Callable[[LogView], None]

#: How long a call that was just answered may take to appear in the records.
RECORD_PATIENCE_MS = 3_000
_POLL_FIRST_MS = 30
_POLL_LAST_MS = 1_000
#: Records are written in batches of their own, after the outcome at times.
_LOGS_LATE_MAX_MS = 500
_LOGS_AGAIN_MS = 50
_LOGS_QUIET = 2
_LOG_PAGE = 1_000
_LOG_PAGES_MAX = 10_000


def watch(
    client: Client, request_id: str, *, patience_ms: int, on_log: OnLog | None = None
) -> InvocationRecord:
    """The invocation once it is done; its logs are given to `on_log` on the way."""
    started_us = clock.monotonic_us()
    pause = threading.Event()
    poll_ms = _POLL_FIRST_MS
    seen = 0
    while True:
        waited_ms = (clock.monotonic_us() - started_us) // 1_000
        view = _look(client, request_id, forgiving=waited_ms < RECORD_PATIENCE_MS)
        if on_log is not None:
            seen = _pass_on_logs(client, request_id, seen, on_log)
        if view is not None and view.state == "done":
            if on_log is not None:
                last_logs(client, request_id, on_log, seen=seen)
            return view
        if waited_ms >= patience_ms:
            raise PlatformError(
                f"Invocation {request_id} was not done within {patience_ms / 1000:.0f} s.",
                next_step=f"See where it is with `pratai why {request_id}`.",
                code="not_done",
            )
        pause.wait(poll_ms / 1000)
        poll_ms = min(poll_ms * 3 // 2, _POLL_LAST_MS)


def recorded(client: Client, request_id: str) -> InvocationRecord | None:
    """The record of a call that was answered, waiting a little for it; None if it is not kept."""
    try:
        return watch(client, request_id, patience_ms=RECORD_PATIENCE_MS)
    except PlatformError:
        return None
    except ServerProblem as problem:
        if problem.status == 404:
            return None
        raise


def logs_of(client: Client, request_id: str, *, after: int = 0) -> Iterator[LogView]:
    """The log records of an invocation after a sequence, oldest first, page by page."""
    path = route("invocations", request_id, "logs")
    for _ in range(_LOG_PAGES_MAX):
        body = client.request("GET", path, query={"after": after, "limit": _LOG_PAGE}).body
        lines = [line for line in body.splitlines() if line.strip()]
        for line in lines:
            record = decode(line, LogView)
            if record.sequence > after:
                after = record.sequence
                yield record
        if len(lines) < _LOG_PAGE:
            return


def last_logs(client: Client, request_id: str, on_log: OnLog, *, seen: int = 0) -> None:
    """Logs of an invocation that is done: they may come a moment after its outcome."""
    started_us = clock.monotonic_us()
    pause = threading.Event()
    quiet = 0
    while True:
        newest = _pass_on_logs(client, request_id, seen, on_log)
        quiet = quiet + 1 if newest == seen else 0
        seen = newest
        waited_ms = (clock.monotonic_us() - started_us) // 1_000
        if (seen and quiet >= _LOGS_QUIET) or waited_ms >= _LOGS_LATE_MAX_MS:
            return
        pause.wait(_LOGS_AGAIN_MS / 1000)


def problem_of_view(view: InvocationRecord) -> ServerProblem | None:
    """How an invocation failed, as the error that a sync call would have got; None if it did not.

    `view` must be done.
    """
    if view.outcome == "succeeded":
        return None
    failure = view.failure
    document: dict[str, object] = {
        "code": failure.code if failure else view.outcome,
        "fault": (failure.fault if failure else "") or "function",
        "detail": _sentence(view),
        "request_id": view.request_id,
        "next": (failure.next if failure else "") or f"See `pratai why {view.request_id}`.",
    }
    if failure is not None:
        document["error_type"] = failure.error_type
        document["error_message"] = failure.error_message
        document["stack"] = failure.stack
    return ServerProblem(document, 504 if view.outcome == "timed_out" else 502)


def result_bytes(client: Client, view: InvocationRecord) -> bytes:
    """The result of an invocation that succeeded, unchanged."""
    return client.request("GET", route("invocations", view.request_id, "result")).body


def _sentence(view: InvocationRecord) -> str:
    how = view.outcome.replace("_", " ")
    failure = view.failure
    if failure is not None and failure.error_message:
        return ": ".join(text for text in (failure.error_type, failure.error_message) if text)
    return f"{view.function} {how} (request {view.request_id})."


def _look(client: Client, request_id: str, *, forgiving: bool) -> InvocationRecord | None:
    """The invocation now; None while its record may still be on its way."""
    try:
        view, _ = client.get(route("invocations", request_id), InvocationRecord)
    except ServerProblem as problem:
        if problem.status == 404 and forgiving:
            return None
        raise
    return view


def _pass_on_logs(client: Client, request_id: str, seen: int, on_log: OnLog) -> int:
    """Give records after `seen` to `on_log`; returns the newest sequence."""
    try:
        for record in logs_of(client, request_id, after=seen):
            on_log(record)
            seen = record.sequence
    except ServerProblem as problem:
        if problem.status != 404:
            raise
    return seen
