"""`POST /v1/events`: CloudEvents come in, and are in the journal once for each trigger they match.

The 202 is sent after the last acceptance. When one of them cannot be made, the whole request is
refused and sent again by its caller; what was accepted already is found by its key and not run
twice.
"""

from __future__ import annotations

import asyncio
import hashlib

import msgspec
from starlette.responses import Response

from pratai.errors import CallerError, Conflict, InvalidField, NotFound, PayloadTooLarge
from pratai.gateway.api.context import AcceptCall
from pratai.gateway.api.operations import Call, json_response, too_large
from pratai.gateway.api.triggers import catalog_of
from pratai.gateway.cloudevents import BATCH, STRUCTURED, parse_events
from pratai.model.api import EventsView, EventView, MatchView
from pratai.model.cloud_event import CloudEvent
from pratai.model.trigger import Trigger

#: Invocations that one request may begin.
MATCHES_MAX = 10_000
#: Acceptances under way at one time for one request; they share commits.
TOGETHER = 500


class _Event(msgspec.Struct, frozen=True):
    """An event, as JSON, with the triggers that it matches."""

    event: CloudEvent
    payload: bytes
    matched: list[Trigger]
    paused: list[Trigger]


async def send_events(call: Call) -> Response:
    """`POST /v1/events`."""
    gateway = call.context.config.gateway
    content_type = call.request.headers.get("content-type", "")
    body = await call.body(gateway.sync_event_bytes_max)
    events = parse_events(content_type, call.request.headers.items(), body)
    matched = []
    for event in events:
        matched.append(await _matched(call, event))
        await asyncio.sleep(0)  # comparing may take long: others are served between two events
    count = sum(len(one.matched) for one in matched)
    if count > MATCHES_MAX:
        raise PayloadTooLarge(
            f"the events of this request match {count} triggers",
            next_step="Send fewer events at one time.",
            allowed=f"at most {MATCHES_MAX}",
        )
    catalog = catalog_of(call)
    wanted = [(one, trigger) for one in matched for trigger in one.matched]
    views = await _accept_all(call, wanted)
    for (_, trigger), view in zip(wanted, views, strict=True):
        if view.failure:
            catalog.runs.failed(trigger, view.failure)
        elif not view.repeated:
            catalog.runs.ran(trigger, view.request_id)
    for one in matched:
        for trigger in one.paused:
            catalog.runs.skipped(trigger)
    return json_response(EventsView(events=_views(matched, views)), 202)


async def _matched(call: Call, event: CloudEvent) -> _Event:
    payload = event.to_json()
    bytes_max = call.context.config.gateway.async_event_bytes_max
    if len(payload) > bytes_max:
        raise too_large(f"the event {event.id[:64]}, as JSON,", bytes_max)
    triggers = await catalog_of(call).cache.matching(call.namespace, event)
    return _Event(
        event,
        payload,
        [trigger for trigger in triggers if not trigger.paused],
        [trigger for trigger in triggers if trigger.paused],
    )


async def _accept_all(call: Call, wanted: list[tuple[_Event, Trigger]]) -> list[MatchView]:
    """`TOGETHER` at one time. The first error is raised once those begun with it are over."""
    views: list[MatchView] = []
    for start in range(0, len(wanted), TOGETHER):
        steps = [_accept(call, *one) for one in wanted[start : start + TOGETHER]]
        for done in await asyncio.gather(*steps, return_exceptions=True):
            if isinstance(done, BaseException):
                raise done
            views.append(done)
    return views


async def _accept(call: Call, one: _Event, trigger: Trigger) -> MatchView:
    """Put the event into the journal for one trigger; what can never be accepted is a failure."""
    headers = call.request.headers
    try:
        accepted = await call.context.accept(
            AcceptCall(
                namespace=call.namespace,
                name=trigger.function,
                qualifier=trigger.qualifier,
                payload=one.payload,
                content_type=STRUCTURED,
                idempotency_key=_key(one.event, trigger),
                trigger=f"event:{trigger.name}",
                trace=one.event.text("traceparent") or headers.get("traceparent", ""),
            )
        )
    except NotFound as error:
        return MatchView(
            trigger=trigger.name, function=trigger.function, request_id="", failure=error.detail
        )
    except Conflict as error:
        raise _other_event(error, one.event) from error
    return MatchView(
        trigger=trigger.name,
        function=trigger.function,
        request_id=accepted.request_id,
        repeated=not accepted.created,
    )


def _key(event: CloudEvent, trigger: Trigger) -> str:
    """Names the event for this trigger: the same event is run once, however often it is sent."""
    parts = (event.source, event.id, trigger.name, str(trigger.epoch))
    return f"event:{hashlib.sha256(msgspec.json.encode(parts)).hexdigest()}"


def _other_event(error: Conflict, event: CloudEvent) -> CallerError:
    if error.code != "idempotency_key_reused":
        return error
    return InvalidField(
        f"another event with the id {event.id[:100]} came from {event.source[:200]} before",
        code=error.code,
        status=error.status,
        field="id",
        value=event.id,
        allowed="an id that no other event of this source has",
        next_step="Send a new event under a new id, and an old one as it was.",
    )


def _views(matched: list[_Event], views: list[MatchView]) -> list[EventView]:
    told: list[EventView] = []
    start = 0
    for one in matched:
        end = start + len(one.matched)
        told.append(
            EventView(
                id=one.event.id,
                source=one.event.source,
                matched=views[start:end],
                paused=[trigger.name for trigger in one.paused],
            )
        )
        start = end
    return told


#: Schemas of bodies for the OpenAPI document.
_TEXT: dict[str, object] = {"type": ["string", "null"], "minLength": 1}
EVENT_SCHEMA: dict[str, object] = {
    "type": "object",
    "required": ["specversion", "id", "source", "type"],
    "properties": {
        "specversion": {"const": "1.0"},
        "id": {"type": "string", "minLength": 1},
        "source": {"type": "string", "minLength": 1, "format": "uri-reference"},
        "type": {"type": "string", "minLength": 1},
        "subject": _TEXT,
        "time": {**_TEXT, "format": "date-time"},
        "datacontenttype": _TEXT,
        "dataschema": {**_TEXT, "format": "uri"},
        "data": {},
        "data_base64": {"type": ["string", "null"], "contentEncoding": "base64"},
    },
}
BODY_MEDIA: dict[str, dict[str, object]] = {
    STRUCTURED: EVENT_SCHEMA,
    BATCH: {"type": "array", "items": EVENT_SCHEMA},
    "application/json": {},
}
