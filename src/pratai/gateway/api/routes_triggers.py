"""Rows of the table: triggers, and the door for CloudEvents."""

from __future__ import annotations

from pratai.gateway.api import events, triggers
from pratai.gateway.api import parameters as p
from pratai.gateway.api.operations import Handler, Operation, Reply
from pratai.gateway.api.rows import ACCEPTED, BODY, gone, ok
from pratai.model import api

_NAME = p.text("name", "Name of the trigger.", where="path", pattern=p.NAME_PATTERN)
_OF_TRIGGER = (p.NAMESPACE, _NAME)
_PATH = "/v1/triggers/{name}"


def triggers_rows() -> list[Operation]:
    """Rows of triggers."""
    return [
        Operation(
            id="listTriggers",
            method="GET",
            path="/v1/triggers",
            summary="List triggers by name.",
            tag="triggers",
            handler=triggers.list_triggers,
            parameters=(p.NAMESPACE, p.FUNCTION, p.LIMIT, p.NAME_CURSOR),
            replies=ok(api.TriggerList),
        ),
        _put_row(),
        Operation(
            id="readTrigger",
            method="GET",
            path=_PATH,
            summary="A trigger: what it was told, and what it did.",
            tag="triggers",
            handler=triggers.read_trigger,
            parameters=_OF_TRIGGER,
            problems=(404,),
            replies=ok(api.TriggerView),
        ),
        Operation(
            id="deleteTrigger",
            method="DELETE",
            path=_PATH,
            summary="Delete a trigger. What it accepted runs as it would have.",
            tag="triggers",
            handler=triggers.delete_trigger,
            parameters=_OF_TRIGGER,
            problems=(404, 409),
            replies=gone("Deleted."),
        ),
        *_switch_rows(),
        _fire_row(),
    ]


def _put_row() -> Operation:
    location = (("Location", "Where the trigger is read."),)
    return Operation(
        id="putTrigger",
        method="PUT",
        path=_PATH,
        summary="Make a trigger, or change it whole: what is not given has its default, but "
        "`enabled` and `paused` stay as they are. One that reads folders needs an admin key.",
        tag="triggers",
        handler=triggers.put_trigger,
        parameters=_OF_TRIGGER,
        body=api.TriggerRequest,
        problems=(404, 409, *BODY),
        replies={
            200: Reply(description="Changed.", model=api.TriggerView, headers=location),
            201: Reply(description="Created.", model=api.TriggerView, headers=location),
        },
    )


def _switch_rows() -> list[Operation]:
    return [
        _switch_row(
            "enable",
            "Switch a trigger on. What happened while it was off is not made up for.",
            triggers.enable_trigger,
        ),
        _switch_row("disable", "Switch a trigger off.", triggers.disable_trigger),
        _switch_row(
            "pause",
            "Hold a trigger for now. A timer's runs meanwhile are made up for by `missed`; events "
            "that come meanwhile are not given to it.",
            triggers.pause_trigger,
        ),
        _switch_row("resume", "Hold a trigger no longer.", triggers.resume_trigger),
    ]


def _fire_row() -> Operation:
    return Operation(
        id="fireTrigger",
        method="POST",
        path=f"{_PATH}/fire",
        summary="Run a trigger's function once, now, whether it is switched on or not.",
        tag="triggers",
        handler=triggers.fire_trigger,
        parameters=_OF_TRIGGER,
        body=api.FireRequest,
        body_required=False,
        problems=(404, 429, *BODY),
        replies={202: ACCEPTED},
    )


def _switch_row(move: str, summary: str, handler: Handler) -> Operation:
    return Operation(
        id=f"{move}Trigger",
        method="POST",
        path=f"{_PATH}/{move}",
        summary=summary,
        tag="triggers",
        handler=handler,
        parameters=_OF_TRIGGER,
        problems=(404, 409),
        replies=ok(api.TriggerView),
    )


def events_rows() -> list[Operation]:
    """The row of CloudEvents."""
    return [
        Operation(
            id="sendEvents",
            method="POST",
            path="/v1/events",
            summary="Give CloudEvents 1.0 to every trigger that they match: one with `ce-*` "
            "headers and any body, one in JSON, or a batch in JSON. Answered once all of it is "
            "kept durably; the same event (`source` and `id`) sent again is not run again.",
            tag="events",
            handler=events.send_events,
            parameters=(p.NAMESPACE,),
            body_media=events.BODY_MEDIA,
            problems=(409, 413, 415, 429),
            replies={202: Reply(description="Kept durably.", model=api.EventsView)},
        )
    ]
