"""The door for CloudEvents: what matches is accepted before the 202, and once."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pratai.errors import Conflict, NotFound, PrataiError, StoreUnavailable, Throttled
from pratai.gateway.api.app import build_api
from pratai.gateway.api.context import AcceptCall
from pratai.gateway.cloudevents import BATCH, STRUCTURED
from pratai.gateway.triggers import TriggerCatalog
from pratai.store.base import Accepted

LEAST = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.made"}
BINARY = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/shop", "ce-type": "order.made"}


class Door:
    """The API with functions `bill` and `mail`; accepts by idempotency key as the journal does."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.calls: list[AcceptCall] = []
        self.kept: dict[tuple[str, str], tuple[str, bytes]] = {}
        #: {function: what accepting for it raises}.
        self.refusals: dict[str, PrataiError] = {}
        self.catalog = TriggerCatalog(world.store, shared=False)
        world.app = build_api(
            msgspec.structs.replace(world.context, accept=self._accept, triggers=self.catalog)
        )
        for name in ("bill", "mail"):
            world.deploy(name)

    async def _accept(self, call: AcceptCall) -> Accepted:
        self.calls.append(call)
        if call.name in self.refusals:
            raise self.refusals[call.name]
        key = (call.name, call.idempotency_key)
        if key in self.kept:
            request_id, payload = self.kept[key]
            if payload != call.payload:
                raise Conflict("used before", code="idempotency_key_reused")
            return Accepted(request_id=request_id, created=False)
        self.kept[key] = (f"r{len(self.kept) + 1}", call.payload)
        return Accepted(request_id=self.kept[key][0], created=True)

    def trigger(self, name: str, function: str = "bill", **event: object) -> None:
        body = {"function": function, "event": event}
        assert self.world.call("PUT", f"/v1/triggers/{name}", body).status in (200, 201)

    def send(self, body: object, content_type: str = STRUCTURED, **headers: str) -> Any:
        return self.world.call(
            "POST",
            "/v1/events",
            body,
            headers={"content-type": content_type}
            | {name.replace("_", "-"): text for name, text in headers.items()},
        )

    def state(self, name: str) -> Any:
        return self.world.call("GET", f"/v1/triggers/{name}").json()["state"]


@pytest.fixture
def door(world: Any) -> Door:
    return Door(world)


def matched(answer: Any) -> list[list[str]]:
    assert answer.status == 202, answer
    return [[one["trigger"] for one in event["matched"]] for event in answer.json()["events"]]


def test_an_event_is_accepted_for_every_trigger_that_it_matches(door: Door) -> None:
    door.trigger("b-mail", "mail", type=["order.*"])
    door.trigger("a-bill", "bill", type=["order.made"], data={"sum": [7]})
    door.trigger("c-other", "bill", type=["order.paid"])

    answer = door.send({**LEAST, "data": {"sum": 7}})

    assert answer.status == 202
    assert answer.json() == {
        "events": [
            {
                "id": "1",
                "source": "/shop",
                "matched": [
                    {
                        "trigger": "a-bill",
                        "function": "bill",
                        "request_id": "r1",
                        "repeated": False,
                        "failure": "",
                    },
                    {
                        "trigger": "b-mail",
                        "function": "mail",
                        "request_id": "r2",
                        "repeated": False,
                        "failure": "",
                    },
                ],
                "paused": [],
            }
        ]
    }
    first = door.calls[0]
    assert (first.trigger, first.content_type) == ("event:a-bill", STRUCTURED)
    assert msgspec.json.decode(first.payload) == {**LEAST, "data": {"sum": 7}}


def test_the_three_forms_give_the_function_the_same(door: Door) -> None:
    door.trigger("a")
    whole = {**LEAST, "datacontenttype": "application/json", "data": {"sum": 7}}

    answers = [
        door.send(whole),
        door.send(b'{"sum":7}', "application/json", **BINARY),
        door.send([whole], BATCH),
    ]

    assert [answer.status for answer in answers] == [202, 202, 202]
    assert len({call.payload for call in door.calls}) == 1
    assert len(door.kept) == 1
    assert [answer.json()["events"][0]["matched"][0]["repeated"] for answer in answers] == [
        False,
        True,
        True,
    ]


def test_what_matches_nothing_is_taken_all_the_same(door: Door) -> None:
    assert matched(door.send(LEAST)) == [[]]
    assert matched(door.send([], BATCH)) == []
    assert door.calls == []


def test_a_batch_is_answered_event_by_event_in_its_order(door: Door) -> None:
    door.trigger("made", type=["order.made"])
    door.trigger("all")
    events = [
        {**LEAST, "id": "1"},
        {**LEAST, "id": "2", "type": "x"},
        {**LEAST, "id": "3"},
    ]

    assert matched(door.send(events, BATCH)) == [["all", "made"], ["all"], ["all", "made"]]


def test_one_wrong_event_refuses_its_whole_batch(door: Door) -> None:
    door.trigger("all")

    answer = door.send([LEAST, {**LEAST, "id": ""}], BATCH)

    assert (answer.status, answer.json()["field"]) == (400, "[1].id")
    assert door.calls == []


def test_disabled_triggers_get_nothing_and_paused_ones_are_named(door: Door) -> None:
    for name in ("off", "held", "on"):
        door.trigger(name)
    door.world.call("POST", "/v1/triggers/off/disable")
    door.world.call("POST", "/v1/triggers/held/pause")

    answer = door.send(LEAST)

    assert matched(answer) == [["on"]]
    assert answer.json()["events"][0]["paused"] == ["held"]
    assert (door.state("held")["skipped"], door.state("on")["skipped"]) == (1, 0)
    door.world.call("POST", "/v1/triggers/held/resume")
    door.world.call("POST", "/v1/triggers/off/enable")
    assert matched(door.send({**LEAST, "id": "2"})) == [["held", "off", "on"]]


def test_changes_through_this_gateway_hold_for_the_next_event(door: Door) -> None:
    assert matched(door.send(LEAST)) == [[]]
    door.trigger("a", type=["order.made"])
    assert matched(door.send(LEAST)) == [["a"]]
    door.trigger("a", type=["order.paid"])
    assert matched(door.send(LEAST)) == [[]]
    door.trigger("a", type=["*"])
    assert matched(door.send(LEAST)) == [["a"]]
    door.world.call("DELETE", "/v1/triggers/a")
    assert matched(door.send(LEAST)) == [[]]


def test_events_stay_in_their_namespace(door: Door) -> None:
    door.trigger("a")
    key = door.world.call("POST", "/v1/keys", {"namespace": "other"}).json()["key"]

    answer = door.world.call(
        "POST", "/v1/events", LEAST, headers={"content-type": STRUCTURED}, key=key
    )

    assert matched(answer) == [[]]
    assert door.world.call("POST", "/v1/events", LEAST, key="").status == 401


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Throttled("too many events wait", retry_after_s=3), 429),
        (StoreUnavailable("the store cannot be written"), 503),
    ],
)
def test_when_one_acceptance_fails_all_is_sent_again_and_nothing_runs_twice(
    door: Door, error: PrataiError, status: int
) -> None:
    door.trigger("a", "bill")
    door.trigger("b", "mail")
    door.refusals["mail"] = error

    refused = door.send([LEAST, {**LEAST, "id": "2"}], BATCH)
    assert refused.status == status
    assert int(refused.headers["retry-after"]) >= 1
    assert len(door.kept) == 2
    assert door.state("a")["runs"] == 0
    door.refusals.clear()
    repeated = door.send([LEAST, {**LEAST, "id": "2"}], BATCH)

    assert matched(repeated) == [["a", "b"], ["a", "b"]]
    assert len(door.kept) == 4
    told = [one["repeated"] for event in repeated.json()["events"] for one in event["matched"]]
    assert told == [True, False, True, False]


def test_a_trigger_whose_function_is_gone_fails_alone(door: Door) -> None:
    door.trigger("a", "bill")
    door.trigger("b", "mail")
    door.refusals["bill"] = NotFound("there is no function bill in namespace default")

    answer = door.send(LEAST)

    first, second = answer.json()["events"][0]["matched"]
    assert (answer.status, first["request_id"], second["request_id"]) == (202, "", "r1")
    assert "no function bill" in first["failure"]
    state = door.state("a")
    assert (state["runs"], state["failures"], state["last_failure"]) == (0, 1, first["failure"])
    assert state["last_failure_at_ms"] > 0


def test_an_id_that_was_used_for_another_event_is_409(door: Door) -> None:
    door.trigger("a")
    door.send({**LEAST, "data": 1})

    answer = door.send({**LEAST, "data": 2})

    assert (answer.status, answer.json()["field"]) == (409, "id")
    assert answer.json()["code"] == "idempotency_key_reused"
    assert matched(door.send({**LEAST, "data": 2, "source": "/bank"})) == [["a"]]


def test_what_event_triggers_did_is_counted_and_written_down(door: Door) -> None:
    door.trigger("a")
    for number in range(3):
        door.send({**LEAST, "id": str(number)})
    door.send({**LEAST, "id": "2"})

    before = door.state("a")
    door.world.run(door.catalog.runs.write())
    after = door.state("a")
    door.send({**LEAST, "id": "4"})

    assert (before["runs"], before["last_request_id"]) == (3, "r3")
    assert before["last_run_at_ms"] > 0
    assert after == before
    assert repr(door.catalog.runs) == "<TriggerRuns [1 waiting]>"
    assert (door.state("a")["runs"], door.state("a")["last_request_id"]) == (4, "r4")
    listed = door.world.call("GET", "/v1/triggers").json()["items"][0]["state"]
    assert listed == door.state("a")


def test_counts_that_cannot_be_written_wait(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    door.trigger("a")
    door.send(LEAST)

    async def away(_: object) -> int:
        raise StoreUnavailable("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(door.world.store, "put", away)
        with pytest.raises(StoreUnavailable):
            door.world.run(door.catalog.runs.write())
    assert door.state("a")["runs"] == 1
    door.world.run(door.catalog.runs.write())
    assert door.state("a")["runs"] == 1
    assert repr(door.catalog.runs) == "<TriggerRuns [0 waiting]>"


@pytest.mark.parametrize(
    ("body", "content_type", "headers", "status", "field"),
    [
        (b"", "", {}, 400, "ce-specversion"),
        (b"{}", "application/json", {}, 400, "ce-specversion"),
        (b"{", STRUCTURED, {}, 400, "body"),
        (b"{}", STRUCTURED, {}, 400, "specversion"),
        (b"{}", BATCH, {}, 400, "body"),
        (b"<e/>", "application/cloudevents+xml", {}, 415, "content-type"),
        (b"{", "application/json", BINARY, 400, "body"),
        (b"{}", "application/json", {**BINARY, "ce-source": "a b"}, 400, "ce-source"),
    ],
)
def test_a_wrong_request_is_refused_by_field(
    door: Door, body: bytes, content_type: str, headers: dict[str, str], status: int, field: str
) -> None:
    answer = door.send(body, content_type, **headers)

    assert (answer.status, answer.json()["field"]) == (status, field)
    assert answer.json()["next"]


def test_an_event_that_is_too_large_as_json_is_413(door: Door) -> None:
    door.trigger("a")
    limit = door.world.context.config.gateway.async_event_bytes_max

    assert door.send(b"\0" * limit, "image/png", **BINARY).status == 413
    assert door.send(b"\0" * (limit // 2), "image/png", **BINARY).status == 202
    assert door.send(b" " * (7 << 20)).status == 413


def test_a_query_is_refused(door: Door) -> None:
    answer = door.world.call("POST", "/v1/events?x=1", LEAST, headers={"content-type": STRUCTURED})

    assert (answer.status, answer.json()["field"]) == (400, "x")


def test_a_request_may_not_begin_more_than_so_many_invocations(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pratai.gateway.api.events.MATCHES_MAX", 2)
    door.trigger("a")
    events = [{**LEAST, "id": str(number)} for number in range(3)]

    assert door.send(events, BATCH).status == 413
    assert door.send(events[:2], BATCH).status == 202
    assert len(door.calls) == 2
