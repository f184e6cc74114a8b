"""Handlers for triggers: make, read, list, switch, run now, delete."""

from __future__ import annotations

from starlette.responses import Response

from pratai.clock import now_ms
from pratai.errors import Forbidden, NotFound
from pratai.gateway import triggers
from pratai.gateway.api.context import AcceptCall
from pratai.gateway.api.operations import Call, json_response
from pratai.gateway.lookup import no_qualifier
from pratai.gateway.triggers import Change, TriggerCatalog, next_run_at_ms
from pratai.model.api import AcceptedView, TriggerList, TriggerStateView, TriggerView
from pratai.model.function import resolve
from pratai.model.trigger import Trigger, TriggerState, timer_event
from pratai.model.trigger_validation import parse_fire, parse_trigger


async def list_triggers(call: Call) -> Response:
    """`GET /v1/triggers`."""
    catalog = catalog_of(call)
    found, following = await catalog.page(
        call.namespace,
        after=call.text("cursor"),
        limit=call.whole("limit"),
        function=call.text("function"),
    )
    states = await catalog.states(found)
    views = [trigger_view(*one) for one in zip(found, states, strict=True)]
    return json_response(TriggerList(items=views, next_cursor=following))


async def read_trigger(call: Call) -> Response:
    """`GET /v1/triggers/{name}`."""
    return await _answer(call, await catalog_of(call).get(call.namespace, call.text("name")))


async def put_trigger(call: Call) -> Response:
    """`PUT /v1/triggers/{name}`."""
    wanted, given = parse_trigger(await call.body(), call.namespace, call.text("name"))
    if wanted.kind == "folder" and not call.principal.admin:
        raise Forbidden(
            "a trigger that reads the agent's folders needs an admin key",
            next_step="Ask the operator, or use a trigger of another kind.",
        )
    await _check_function(call, wanted)
    trigger, created = await catalog_of(call).put(
        wanted, enabled=given.enabled, paused=given.paused
    )
    location = {"Location": f"/v1/triggers/{trigger.name}"}
    return await _answer(call, trigger, 201 if created else 200, location)


async def delete_trigger(call: Call) -> Response:
    """`DELETE /v1/triggers/{name}`."""
    await catalog_of(call).delete(call.namespace, call.text("name"))
    return Response(status_code=204)


async def enable_trigger(call: Call) -> Response:
    """`POST /v1/triggers/{name}/enable`."""
    trigger = await catalog_of(call).get(call.namespace, call.text("name"))
    if not trigger.enabled:
        await _check_function(call, trigger)
    return await _change(call, triggers.enabled)


async def disable_trigger(call: Call) -> Response:
    """`POST /v1/triggers/{name}/disable`."""
    return await _change(call, triggers.disabled)


async def pause_trigger(call: Call) -> Response:
    """`POST /v1/triggers/{name}/pause`."""
    return await _change(call, triggers.paused)


async def resume_trigger(call: Call) -> Response:
    """`POST /v1/triggers/{name}/resume`."""
    return await _change(call, triggers.resumed)


async def fire_trigger(call: Call) -> Response:
    """`POST /v1/triggers/{name}/fire`: one run now, whatever its state; counted nowhere."""
    trigger = await catalog_of(call).get(call.namespace, call.text("name"))
    raw = await call.body(call.context.config.gateway.async_event_bytes_max)
    event = parse_fire(raw, trigger)
    accepted = await call.context.accept(
        AcceptCall(
            namespace=call.namespace,
            name=trigger.function,
            qualifier=trigger.qualifier,
            payload=timer_event(trigger, now_ms()) if event is None else event,
            trigger=f"{trigger.kind}:{trigger.name}",
        )
    )
    request_id = accepted.request_id
    location = f"/v1/invocations/{request_id}"
    return json_response(
        AcceptedView(request_id=request_id, location=location),
        202,
        {"Location": location, "Pratai-Request-Id": request_id},
    )


def catalog_of(call: Call) -> TriggerCatalog:
    """The triggers of this gateway."""
    catalog = call.context.triggers
    assert catalog is not None, "`build_api` makes one"
    return catalog


def trigger_view(trigger: Trigger, state: TriggerState) -> TriggerView:
    """A trigger as the API shows it."""
    told = {name: getattr(trigger, name) for name in _SHOWN}
    return TriggerView(
        **told,
        state=TriggerStateView(
            last_run_at_ms=state.last_run_at_ms,
            last_request_id=state.last_request_id,
            next_run_at_ms=next_run_at_ms(trigger),
            runs=state.runs,
            skipped=state.skipped,
            failures=state.failures,
            last_failure=state.last_failure,
            last_failure_at_ms=state.last_failure_at_ms,
        ),
    )


_SHOWN = [name for name in TriggerView.__struct_fields__ if name != "state"]


async def _change(call: Call, change: Change) -> Response:
    return await _answer(
        call, await catalog_of(call).change(call.namespace, call.text("name"), change)
    )


async def _answer(
    call: Call, trigger: Trigger, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    (state,) = await catalog_of(call).states([trigger])
    return json_response(trigger_view(trigger, state), status, headers)


async def _check_function(call: Call, trigger: Trigger) -> None:
    """Refuse a trigger of a function, version or alias that is not there."""
    try:
        function = await call.context.catalog.get(call.namespace, trigger.function)
    except NotFound as error:
        error.field = "function"
        raise
    number = resolve(function, trigger.qualifier, 0.5)
    if number is None:
        no_qualifier(function, trigger.qualifier)
    await call.context.catalog.version(function, number)
