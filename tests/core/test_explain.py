"""The story of an invocation in words."""

from __future__ import annotations

from typing import Any

import pytest

from pratai.gateway.explain import REASONS, explain, reason_code
from pratai.model.invocation import Failure, Invocation, Mark

T0 = 1_764_000_000_000


def invocation(**fields: Any) -> Invocation:
    return Invocation(
        **{
            "namespace": "default",
            "request_id": "r1",
            "function": "hello",
            "version": "3",
            "accepted_at_ms": T0,
            "state": "done",
            "outcome": "succeeded",
            "attempt": 1,
            "node_id": "node-1",
            "instance_id": "i-1",
            "start_kind": "warm",
            "queue_us": 2_000,
            "run_us": 8_000,
            "finished_at_ms": T0 + 10,
            **fields,
        }
    )


def failed(code: str, outcome: str = "failed", **fields: Any) -> Invocation:
    fault = REASONS[code].fault if code in REASONS else "function"
    failure = Failure(code=code, fault=fault, error_type="ValueError", error_message="bad {input}")
    return invocation(outcome=outcome, failure=failure, **fields)


def test_a_success_is_told_in_order_and_has_no_cause() -> None:
    story = explain(invocation())

    assert [step.name for step in story.steps] == [
        "accepted",
        "queued",
        "placed",
        "started",
        "ran",
        "answered",
    ]
    assert [step.offset_ms for step in story.steps] == [0.0, 0.0, 2.0, 2.0, 2.0, 10.0]
    assert story.summary == "hello version 3 succeeded after 10 ms."
    assert (story.fault, story.cause, story.next) == ("", "", "")


@pytest.mark.parametrize("code", sorted(REASONS))
def test_every_code_tells_cause_fault_and_what_to_do(code: str) -> None:
    story = explain(failed(code))

    assert story.fault == REASONS[code].fault
    for sentence in (story.summary, story.cause, story.next):
        assert sentence[0].isupper() or sentence.startswith("hello version 3 ")
        assert sentence.endswith(".")
        assert ".." not in sentence
        assert "{" not in sentence.replace("bad {input}", "")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("function_error", "ValueError: bad {input}"),
        ("import_error", "Importing"),
        ("handler_missing", "not in the package"),
        ("result_unserialisable", "cannot be written as JSON"),
        ("result_too_large", "larger than a result may be"),
        ("exited", "ended its own process"),
        ("out_of_memory", "256 MB"),
        ("event_too_old", "event_age_max_ms"),
        ("caller_gone", "closed its connection"),
        ("recoveries_exhausted", "given up"),
        ("node_lost", "node-1"),
        ("dispatch_lost", "node-1"),
        ("lease_expired", "node-1"),
        ("store_unavailable", "store"),
    ],
)
def test_the_cause_names_what_matters(code: str, told: str) -> None:
    assert told in explain(failed(code)).cause


def test_a_crash_tells_the_signal() -> None:
    failure = Failure(code="crashed", fault="function", error_message="killed by SIGSEGV")

    story = explain(invocation(outcome="crashed", failure=failure))

    assert "killed by SIGSEGV" in story.cause


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"run_us": 0, "node_id": "", "start_kind": ""}, "timed_out_queued"),
        ({"run_us": 0, "start_kind": ""}, "timed_out_starting"),
        ({"run_us": 5_000}, "timed_out_running"),
        ({"run_us": 0, "timeline": [Mark("started", T0, 1)]}, "timed_out_running"),
    ],
)
def test_a_timeout_tells_the_stage_that_was_late(fields: dict[str, Any], code: str) -> None:
    late = invocation(outcome="timed_out", failure=None, **fields)

    assert reason_code(late) == code
    assert "30000 ms" in explain(late).cause


def test_a_code_not_in_the_table_is_told_by_its_outcome() -> None:
    failure = Failure(code="something_new", fault="platform", error_message="x")

    assert reason_code(invocation(outcome="failed", failure=failure)) == "function_error"
    assert reason_code(invocation(outcome="throttled", failure=failure)) == "throttled"
    assert reason_code(invocation(outcome="discarded", failure=None)) == "discarded"
    assert explain(invocation(outcome="crashed", failure=failure)).fault == "platform"


def test_what_the_failure_itself_advises_comes_first() -> None:
    failure = Failure(code="function_error", fault="function", next="Do this.")

    assert explain(invocation(outcome="failed", failure=failure)).next == "Do this."


@pytest.mark.parametrize("reason", ["", "all 3 instances were busy"])
def test_a_cold_start_tells_how_long_and_why(reason: str) -> None:
    story = explain(invocation(start_kind="cold", cold_reason=reason, start_us=90_000))

    (started,) = [step for step in story.steps if step.name == "started"]
    assert started.duration_ms == 90.0
    assert (reason or "no instance was idle") in started.text


def test_earlier_attempts_are_told() -> None:
    marks = [
        Mark("accepted", T0),
        Mark("retried", T0 + 20, 1, "ValueError"),
        Mark("recovered", T0 + 40, 1),
        Mark("placed", T0 + 60, 2),
    ]

    story = explain(invocation(attempt=2, attempts_max=3, timeline=marks, finished_at_ms=T0 + 70))

    names = [step.name for step in story.steps]
    assert names[:3] == ["accepted", "retried", "recovered"]
    assert "at attempt 2 of 3" in story.summary
    assert [step.offset_ms for step in story.steps if step.name == "placed"] == [60.0]


def test_what_is_not_done_says_where_it_is() -> None:
    queued = explain(invocation(state="queued", outcome="", attempt=0, finished_at_ms=0))
    running = explain(invocation(state="leased", outcome="", finished_at_ms=0, run_us=0))

    assert queued.steps[-1].name == "queued"
    assert "waits to run" in queued.summary
    assert running.steps[-1].name == "started"
    assert "runs now" in running.summary
    assert running.cause == ""
