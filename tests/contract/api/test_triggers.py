"""Triggers over the API: made, read, listed, switched, fired, deleted; and their function's end."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pratai.clock import now_ms
from pratai.errors import Throttled
from pratai.gateway.api.app import build_api
from pratai.gateway.api.context import AcceptCall
from pratai.gateway.triggers import TriggerCatalog
from pratai.gateway.triggers import disabled as switched_off
from pratai.model.trigger import Trigger
from pratai.store.base import Accepted

TIMER = {"function": "report", "timer": {"cron": "0 3 * * *", "timezone": "Europe/Berlin"}}
EVENT = {"function": "report", "event": {"type": ["com.shop.*"]}}


class Triggers:
    """The API with a function `report`, and what was accepted through it."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.accepted: list[AcceptCall] = []
        self.refusal: Exception | None = None
        self.catalog = TriggerCatalog(world.store, shared=False, triggers_max=5)
        context = msgspec.structs.replace(world.context, accept=self._accept, triggers=self.catalog)
        world.app = build_api(context)
        world.deploy("report")

    async def _accept(self, call: AcceptCall) -> Accepted:
        if self.refusal is not None:
            raise self.refusal
        self.accepted.append(call)
        return Accepted(request_id=f"r{len(self.accepted)}", created=True)

    def put(self, name: str, body: object, **options: Any) -> Any:
        return self.world.call("PUT", f"/v1/triggers/{name}", body, **options)

    def post(self, name: str, move: str, body: object = b"") -> Any:
        return self.world.call("POST", f"/v1/triggers/{name}/{move}", body)

    def get(self, name: str) -> Any:
        return self.world.call("GET", f"/v1/triggers/{name}")

    def kept(self, name: str) -> Trigger:
        kept: Trigger = self.world.run(self.catalog.get("default", name))
        return kept


@pytest.fixture
def triggers(world: Any) -> Triggers:
    return Triggers(world)


def test_a_new_trigger_is_201_and_answers_the_whole_trigger(triggers: Triggers) -> None:
    answer = triggers.put("nightly", {**TIMER, "input": {"deep": [1, None]}})

    told = answer.json()
    assert (answer.status, answer.headers["location"]) == (201, "/v1/triggers/nightly")
    assert (told["namespace"], told["name"], told["kind"]) == ("default", "nightly", "timer")
    assert told["timer"] == {
        "cron": "0 3 * * *",
        "every_ms": 0,
        "timezone": "Europe/Berlin",
        "start_at_ms": 0,
        "missed": "latest",
        "missed_max": 1_000,
    }
    assert (told["event"], told["folder"], told["input"]) == (None, None, {"deep": [1, None]})
    assert (told["enabled"], told["paused"], told["disabled_because"]) == (True, False, "")
    assert told["state"]["runs"] == 0
    assert 0 < told["state"]["next_run_at_ms"] - now_ms() <= 25 * 3_600_000
    assert told == triggers.get("nightly").json()


def test_a_change_is_200_and_replaces_all_but_how_it_is_switched(triggers: Triggers) -> None:
    first = triggers.put("nightly", {**TIMER, "description": "old", "input": 1}).json()
    triggers.post("nightly", "pause")
    triggers.post("nightly", "disable")

    answer = triggers.put("nightly", {**TIMER, "timer": {"every_ms": 60_000}})

    told = answer.json()
    assert answer.status == 200
    assert (told["description"], told["input"], told["timer"]["cron"]) == ("", None, "")
    assert (told["enabled"], told["paused"]) == (False, True)
    assert told["created_at_ms"] == first["created_at_ms"]
    assert triggers.put("nightly", {**EVENT, "enabled": True, "paused": False}).json() == {
        **triggers.get("nightly").json(),
        "kind": "event",
        "timer": None,
        "enabled": True,
        "paused": False,
    }


def test_the_epoch_rises_when_runs_begin_anew_and_only_then(triggers: Triggers) -> None:
    def epoch() -> int:
        return triggers.kept("nightly").epoch

    triggers.put("nightly", TIMER)
    first = epoch()
    triggers.put("nightly", {**TIMER, "description": "new"})
    triggers.post("nightly", "pause")
    triggers.post("nightly", "resume")
    triggers.post("nightly", "enable")
    assert epoch() == first
    triggers.put("nightly", {**TIMER, "timer": {"every_ms": 1_000}})
    assert epoch() == first + 1
    triggers.post("nightly", "disable")
    triggers.post("nightly", "enable")
    assert epoch() == first + 2


def test_the_same_again_writes_nothing(triggers: Triggers) -> None:
    triggers.put("nightly", TIMER)
    before = triggers.world.run(triggers.world.store.get("trigger", "default", "nightly"))

    triggers.put("nightly", TIMER)
    triggers.post("nightly", "enable")

    after = triggers.world.run(triggers.world.store.get("trigger", "default", "nightly"))
    assert after == before


@pytest.mark.parametrize(
    ("move", "enabled", "paused"),
    [
        ("disable", False, False),
        ("enable", True, False),
        ("pause", True, True),
        ("resume", True, False),
    ],
)
def test_a_switch_answers_the_trigger_as_it_is_now(
    triggers: Triggers, move: str, enabled: bool, paused: bool
) -> None:
    triggers.put("nightly", TIMER)

    answer = triggers.post("nightly", move)

    assert answer.status == 200
    assert (answer.json()["enabled"], answer.json()["paused"]) == (enabled, paused)
    is_due = enabled and not paused
    assert bool(answer.json()["state"]["next_run_at_ms"]) is is_due
    assert answer.json() == triggers.get("nightly").json()


def test_triggers_are_listed_by_name_page_by_page_and_by_function(triggers: Triggers) -> None:
    triggers.world.deploy("other")
    for name in ("c", "a", "d", "b"):
        triggers.put(name, {**TIMER, "function": "other" if name in "bd" else "report"})

    first = triggers.world.call("GET", "/v1/triggers?limit=3").json()
    second = triggers.world.call("GET", f"/v1/triggers?cursor={first['next_cursor']}").json()
    others = triggers.world.call("GET", "/v1/triggers?function=other&limit=1").json()
    rest = triggers.world.call("GET", "/v1/triggers?function=other&cursor=b").json()

    assert [one["name"] for one in first["items"]] == ["a", "b", "c"]
    assert ([one["name"] for one in second["items"]], second["next_cursor"]) == (["d"], "")
    assert ([one["name"] for one in others["items"]], others["next_cursor"]) == (["b"], "b")
    assert ([one["name"] for one in rest["items"]], rest["next_cursor"]) == (["d"], "")


def test_an_unknown_trigger_is_404_with_the_nearest_name(triggers: Triggers) -> None:
    triggers.put("nightly", TIMER)

    for method, path in (
        ("GET", "nigthly"),
        ("DELETE", "nigthly"),
        ("POST", "nigthly/enable"),
        ("POST", "nigthly/pause"),
        ("POST", "nigthly/fire"),
    ):
        answer = triggers.world.call(method, f"/v1/triggers/{path}")
        assert (answer.status, answer.json()["field"]) == (404, "name")
        assert "nightly" in answer.json()["next"]


@pytest.mark.parametrize(
    ("change", "field", "told"),
    [
        ({"function": "reprot"}, "function", "report"),
        ({"qualifier": "live"}, "qualifier", "aliases"),
        ({"qualifier": "7"}, "qualifier", "versions"),
    ],
)
def test_a_trigger_of_what_is_not_there_is_404(
    triggers: Triggers, change: dict[str, str], field: str, told: str
) -> None:
    answer = triggers.put("nightly", {**TIMER, **change})

    assert (answer.status, answer.json()["field"]) == (404, field)
    assert told in answer.json()["next"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{", "body"),
        ({"function": "report"}, "kind"),
        ({**TIMER, "timer": {"cron": "61 * * * *"}}, "timer.cron"),
        ({**TIMER, "timer": {"cron": "0 0 30 2 *"}}, "timer.cron"),
        ({**TIMER, "timer": {"cron": "a b c d e"}}, "timer.cron"),
        ({**TIMER, "timer": {"cron": "* * *"}}, "timer.cron"),
        ({**TIMER, "timer": {"cron": "* * * * *", "timezone": "Mars/Base"}}, "timer.timezone"),
        ({**EVENT, "event": {"type": ["a*b"]}}, "event.type"),
        ({**EVENT, "input": {}}, "input"),
        ({**TIMER, "paused": None, "nmae": 1}, "nmae"),
    ],
)
def test_a_wrong_trigger_is_400_and_makes_none(
    triggers: Triggers, body: object, field: str
) -> None:
    answer = triggers.put("nightly", body)

    assert (answer.status, answer.json()["field"]) == (400, field)
    assert answer.json()["next"]
    assert triggers.get("nightly").status == 404


@pytest.mark.parametrize("path", ["a%20b", "%C3%A4", "x" * 65, "..", "a/b/c"])
def test_a_wrong_name_in_the_path_is_refused(triggers: Triggers, path: str) -> None:
    assert triggers.put(path, TIMER).status in (400, 404)


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=x", "cursor=%00", "function=a b", "functoin=report", "limit=1&limit=2"],
)
def test_a_wrong_query_is_400(triggers: Triggers, query: str) -> None:
    assert triggers.world.call("GET", f"/v1/triggers?{query}").status == 400


def test_a_body_above_its_bound_is_413(triggers: Triggers) -> None:
    assert triggers.put("nightly", b" " * (1024 * 1024 + 1)).status == 413


def test_a_namespace_has_so_many_triggers_and_no_more(triggers: Triggers) -> None:
    for number in range(5):
        assert triggers.put(f"t{number}", TIMER).status == 201

    answer = triggers.put("t5", TIMER)

    assert (answer.status, "5 triggers" in answer.json()["detail"]) == (409, True)
    assert triggers.put("t4", {**TIMER, "description": "changed"}).status == 200
    triggers.world.call("DELETE", "/v1/triggers/t0")
    assert triggers.put("t5", TIMER).status == 201


def test_folders_are_for_admins(triggers: Triggers) -> None:
    world = triggers.world
    key = world.call("POST", "/v1/keys", {"admin": False}).json()["key"]
    folder = {"function": "report", "folder": {"path": "/srv/in"}}

    assert triggers.put("incoming", folder, key=key).status == 403
    assert triggers.put("nightly", TIMER, key=key).status == 201
    assert triggers.put("incoming", folder).status == 201


def test_a_key_sees_the_triggers_of_its_namespace_alone(triggers: Triggers) -> None:
    world = triggers.world
    triggers.put("nightly", TIMER)
    key = world.call("POST", "/v1/keys", {"namespace": "other"}).json()["key"]

    assert world.call("GET", "/v1/triggers/nightly", key=key).status == 404
    assert world.call("GET", "/v1/triggers", key=key).json()["items"] == []
    assert world.call("GET", "/v1/triggers", key="").status == 401


def test_a_deleted_trigger_is_gone_with_what_it_did(triggers: Triggers) -> None:
    triggers.put("nightly", TIMER)

    assert triggers.world.call("DELETE", "/v1/triggers/nightly").status == 204

    assert triggers.get("nightly").status == 404
    assert triggers.world.call("GET", "/v1/triggers").json()["items"] == []
    assert triggers.world.call("DELETE", "/v1/triggers/nightly").status == 404


def test_firing_runs_the_function_once_with_the_timers_event(triggers: Triggers) -> None:
    triggers.put("nightly", {**TIMER, "qualifier": "1", "paused": True})
    before = now_ms()

    answer = triggers.post("nightly", "fire")

    assert answer.status == 202
    assert answer.json() == {"request_id": "r1", "location": "/v1/invocations/r1"}
    assert answer.headers["location"] == "/v1/invocations/r1"
    (call,) = triggers.accepted
    assert (call.name, call.qualifier, call.trigger) == ("report", "1", "timer:nightly")
    event = msgspec.json.decode(call.payload)
    assert (event["trigger"], event["due_at_ms"] >= before) == ("nightly", True)


def test_firing_gives_the_input_or_the_event_that_was_sent(triggers: Triggers) -> None:
    triggers.put("nightly", {**TIMER, "input": {"deep": True}})
    triggers.put("orders", EVENT)

    triggers.post("nightly", "fire")
    triggers.post("nightly", "fire", {"event": {"deep": False}})
    triggers.post("orders", "fire", {"event": [1]})
    refused = triggers.post("orders", "fire")

    assert [call.payload for call in triggers.accepted] == [
        b'{"deep":true}',
        b'{"deep":false}',
        b"[1]",
    ]
    assert (refused.status, refused.json()["field"]) == (400, "event")


def test_firing_tells_when_there_is_no_room(triggers: Triggers) -> None:
    triggers.put("nightly", TIMER)
    triggers.refusal = Throttled("too many events wait", retry_after_s=7)

    answer = triggers.post("nightly", "fire")

    assert (answer.status, answer.headers["retry-after"]) == (429, "7")


# a function and its triggers


def test_a_function_that_triggers_run_is_not_deleted_by_the_way(triggers: Triggers) -> None:
    for number in range(3):
        triggers.put(f"t{number}", TIMER)

    answer = triggers.world.call("DELETE", "/v1/functions/report")

    assert (answer.status, answer.json()["code"]) == (409, "function_has_triggers")
    assert "t0, t1, t2" in answer.json()["detail"]
    assert triggers.world.call("GET", "/v1/functions/report").status == 200


def test_deleting_a_function_by_force_disables_its_triggers_and_says_why(
    triggers: Triggers,
) -> None:
    triggers.world.deploy("other")
    triggers.put("nightly", TIMER)
    triggers.put("others", {**TIMER, "function": "other"})

    assert triggers.world.call("DELETE", "/v1/functions/report?force=true").status == 204

    told = triggers.get("nightly").json()
    assert told["enabled"] is False
    assert told["disabled_because"] == "its function report was deleted"
    assert triggers.get("others").json()["enabled"] is True
    assert triggers.post("nightly", "enable").status == 404
    triggers.world.deploy("report")
    assert triggers.post("nightly", "enable").json()["disabled_because"] == ""


def test_a_function_without_triggers_is_deleted_as_ever(triggers: Triggers) -> None:
    assert triggers.world.call("DELETE", "/v1/functions/report?force=maybe").status == 400
    assert triggers.world.call("DELETE", "/v1/functions/report").status == 204


# two gateways


def test_another_gateway_reads_triggers_again_when_they_are_old(
    triggers: Triggers, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = triggers.world
    here = TriggerCatalog(world.store, shared=True)
    there = TriggerCatalog(world.store, shared=True)

    async def names() -> list[str]:
        return [one.name for one in await here.cache.triggers("default")]

    def trigger(name: str) -> Trigger:
        return Trigger(namespace="default", name=name, kind="event", function="report")

    at_ms = now_ms()
    monkeypatch.setattr("pratai.gateway.trigger_cache.now_ms", lambda: at_ms)
    assert world.run(names()) == []
    world.run(there.put(trigger("b"), enabled=None, paused=None))
    assert world.run(names()) == []
    at_ms += 501
    assert world.run(names()) == ["b"]
    world.run(here.put(trigger("a"), enabled=None, paused=None))
    assert world.run(names()) == ["a", "b"]
    world.run(there.delete("default", "b"))
    at_ms += 501
    assert world.run(names()) == ["a"]
    world.run(here.delete("default", "a"))
    assert world.run(names()) == []


def test_a_list_that_lags_behind_takes_back_no_change_of_this_gateway(
    triggers: Triggers, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, here = triggers.world, TriggerCatalog(triggers.world.store, shared=True)
    for name in ("changed", "deleted"):
        made = Trigger(namespace="default", name=name, kind="event", function="report")
        world.run(here.put(made, enabled=None, paused=None))
    stale = world.run(world.store.documents("trigger", "default"))

    async def lagging(*_: object, **__: object) -> Any:
        return stale

    world.run(here.change("default", "changed", switched_off))
    world.run(here.delete("default", "deleted"))
    made = Trigger(namespace="default", name="new", kind="event", function="report")
    world.run(here.put(made, enabled=None, paused=None))
    monkeypatch.setattr(world.store, "documents", lagging)
    at_ms = now_ms() + 501
    monkeypatch.setattr("pratai.gateway.trigger_cache.now_ms", lambda: at_ms)

    found = world.run(here.cache.triggers("default"))

    assert [(one.name, one.enabled) for one in found] == [("changed", False), ("new", True)]


def test_changes_at_one_time_are_all_made(triggers: Triggers) -> None:
    triggers.put("nightly", TIMER)
    catalog = triggers.catalog

    async def change_all() -> None:
        import asyncio

        await asyncio.gather(
            *(
                catalog.change(
                    "default",
                    "nightly",
                    lambda trigger: msgspec.structs.replace(
                        trigger, description=trigger.description + "x"
                    ),
                )
                for _ in range(5)
            )
        )

    triggers.world.run(change_all())

    assert triggers.kept("nightly").description == "xxxxx"
