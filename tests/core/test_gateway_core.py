"""Facts about the gateway's core: who may come in, who waits, and until when."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import GATEWAY, NOW, TIMEOUT_MS, Checked, invoke, of_kind, sent, wakes

from pratai.config import schema
from pratai.core.effects import Answer, Count, Send, StreamChunk
from pratai.core.machine import UnknownMessage
from pratai.gateway.core import Gateway
from pratai.wire.messages import Backlog, Cancel, Chunk, Gone, Message, Result, Tick


def given(*messages: Message, **config: Any) -> Checked[Gateway]:
    """A gateway to which this was said."""
    gateway = Checked(Gateway(schema.Gateway(**config), GATEWAY))
    for message in messages:
        gateway.handle(message)
    return gateway


def refusal(gateway: Checked[Gateway], message: Message) -> Result:
    (answer,) = of_kind(gateway.handle(message), Answer)
    return answer.result


def test_a_call_is_sent_to_the_scheduler_and_waits() -> None:
    gateway = given()

    effects = gateway.handle(invoke("r1", payload=b"12345"))

    assert of_kind(effects, Send) == [Send("scheduler", invoke("r1", payload=b"12345"))]
    assert (gateway.waiting, gateway.waiting_bytes) == ({"r1": 5}, 5)


def test_a_result_answers_its_caller_once() -> None:
    gateway = given(invoke("r1"))
    result = Result(request_id="r1", outcome="succeeded", payload=b"42")

    assert gateway.handle(result) == [Answer(result)]
    assert gateway.handle(result) == [Count("results_unawaited")]
    assert (gateway.waiting, gateway.waiting_bytes) == ({}, 0)


def test_calls_beyond_waiting_max_are_throttled() -> None:
    gateway = given(invoke("r1"), invoke("r2"), waiting_max=2)

    result = refusal(gateway, invoke("r3"))

    assert (result.outcome, result.retry_after_s) == ("throttled", 1)
    assert result.failure is not None
    assert (result.failure.code, result.failure.fault) == ("throttled", "caller")
    gateway.handle(Result(request_id="r1", outcome="succeeded"))
    assert of_kind(gateway.handle(invoke("r4")), Answer) == []


def test_events_beyond_waiting_bytes_max_are_throttled() -> None:
    gateway = given(invoke("r1", payload=b"x" * 60), waiting_bytes_max=100)

    result = refusal(gateway, invoke("r2", payload=b"x" * 41))

    assert result.failure is not None
    assert result.failure.error_message == "waiting calls hold 100 bytes of events already"
    assert of_kind(gateway.handle(invoke("r3", payload=b"x" * 40)), Answer) == []


def test_a_draining_gateway_takes_no_call_and_answers_those_it_has() -> None:
    gateway = given(invoke("r1"))
    gateway.core.draining = True

    result = refusal(gateway, invoke("r2"))

    assert result.failure is not None
    assert (result.failure.code, result.failure.fault) == ("draining", "platform")
    answer = Result(request_id="r1", outcome="succeeded")
    assert gateway.handle(answer) == [Answer(answer)]


def test_a_refused_call_that_is_in_the_journal_runs_all_the_same() -> None:
    """It was accepted durably before; nobody else would ever run it."""
    gateway = given(invoke("r1"), waiting_max=1)

    effects = gateway.handle(invoke("r2", journalled=True))

    assert [answer.result.outcome for answer in of_kind(effects, Answer)] == ["throttled"]
    assert of_kind(effects, Send) == [Send("scheduler", invoke("r2", journalled=True, reply_to=""))]


def test_a_call_that_nobody_answers_is_answered_after_its_deadline_and_a_grace() -> None:
    gateway = given(deadline_grace_ms=500)
    due_ms = NOW + TIMEOUT_MS + 500
    assert wakes(gateway.handle(invoke("r1"))) == [due_ms]
    assert of_kind(gateway.handle(Tick(), due_ms - 1), Answer) == []

    effects = gateway.handle(Tick(), due_ms)

    (answer,) = of_kind(effects, Answer)
    assert (answer.result.request_id, answer.result.outcome) == ("r1", "timed_out")
    assert sent(effects, Cancel, "scheduler") == [Cancel(request_id="r1")]
    late = Result(request_id="r1", outcome="succeeded")
    assert gateway.handle(late) == [Count("results_unawaited")]


def test_an_answered_call_is_not_answered_again_at_its_deadline() -> None:
    gateway = given(invoke("r1"), Result(request_id="r1", outcome="succeeded"))

    assert gateway.handle(Tick(), NOW + 10 * TIMEOUT_MS) == []


def test_the_next_deadline_is_asked_for_at_every_tick() -> None:
    gateway = given(
        invoke("r1", deadline_ms=NOW + 100),
        invoke("r2", deadline_ms=NOW + 900),
        deadline_grace_ms=0,
    )

    assert wakes(gateway.handle(Tick(), NOW + 100)) == [NOW + 900]


def test_a_cancelled_call_is_told_to_the_scheduler_and_waits_no_more() -> None:
    gateway = given(invoke("r1"))

    assert gateway.handle(Cancel(request_id="r1")) == [Send("scheduler", Cancel(request_id="r1"))]
    assert gateway.handle(Cancel(request_id="r1")) == []
    assert gateway.waiting == {}


def test_chunks_go_to_a_caller_that_waits_and_to_nobody_else() -> None:
    gateway = given(invoke("r1"))
    chunk = Chunk(request_id="r1", payload=b"a", content_type="text/plain")

    assert gateway.handle(chunk) == [StreamChunk("r1", b"a", "text/plain")]
    gateway.handle(Cancel(request_id="r1"))
    assert gateway.handle(chunk) == []


def test_a_full_backlog_is_known_until_there_is_room() -> None:
    full = Backlog(namespace="default", function="f", full=True, retry_after_s=7)
    room = Backlog(namespace="default", function="f", full=False)
    gateway = given(full)
    assert gateway.backlog_wait_s("default", "f") == 7
    assert gateway.backlog_wait_s("default", "g") == 0

    gateway.handle(room)

    assert gateway.backlog_wait_s("default", "f") == 0


def test_a_message_that_is_not_the_gateways_raises() -> None:
    with pytest.raises(UnknownMessage, match="Gateway has no transition for Gone"):
        given().handle(Gone(node_id="n1"))
