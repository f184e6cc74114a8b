"""Handlers for invocations and dead letters: search, read, explain, run again, remove."""

from __future__ import annotations

from collections.abc import AsyncIterator

from msgspec.structs import replace
from starlette.responses import Response

from pratai.errors import NotFound, PlatformError, Throttled
from pratai.gateway.api.context import ApiContext
from pratai.gateway.api.freshness import read_young
from pratai.gateway.api.operations import Call, json_response, raw_response
from pratai.gateway.explain import explain
from pratai.gateway.problems import encoded, failure_problem
from pratai.gateway.views import invocation_view, media_type
from pratai.model.api import AcceptedView, InvocationList, PendingView, PurgeView
from pratai.model.invocation import Invocation
from pratai.store.base import InvocationQuery

#: Dead letters read at one time while all are replayed or removed.
BATCH = 200


async def list_invocations(call: Call) -> Response:
    """`GET /v1/invocations`."""
    return await _page(call, dead=None)


async def list_dead_letters(call: Call) -> Response:
    """`GET /v1/dead-letters`."""
    return await _page(call, dead=True)


async def read_invocation(call: Call) -> Response:
    """`GET /v1/invocations/{request_id}`."""
    return json_response(invocation_view(await _stored(call)))


async def read_dead_letter(call: Call) -> Response:
    """`GET /v1/dead-letters/{request_id}`."""
    return json_response(invocation_view(await _dead(call)))


async def read_result(call: Call) -> Response:
    """`GET /v1/invocations/{request_id}/result`: the bytes, or the problem a caller would get."""
    invocation = await _stored(call)
    headers = {"Pratai-Request-Id": invocation.request_id}
    if invocation.state != "done" or not invocation.outcome:
        pending = PendingView(
            request_id=invocation.request_id,
            state=invocation.state,
            attempt=invocation.attempt,
        )
        return json_response(pending, 202, {**headers, "Retry-After": "1"})
    if invocation.outcome != "succeeded":
        problem = failure_problem(
            invocation.outcome, invocation.failure, request_id=invocation.request_id
        )
        return raw_response(*encoded(problem), request_id=invocation.request_id)
    headers["Pratai-Outcome"] = "succeeded"
    headers["Content-Type"] = media_type(invocation.result_content_type)
    headers["X-Content-Type-Options"] = "nosniff"
    return Response(invocation.result or b"", 200, headers)


async def explain_invocation(call: Call) -> Response:
    """`GET /v1/invocations/{request_id}/why`."""
    return json_response(explain(await _stored(call)))


async def replay_invocation(call: Call) -> Response:
    """`POST /v1/invocations/{request_id}/replay`."""
    return _accepted(await call.context.replay(await _whole(call, await _stored(call))))


async def replay_dead_letter(call: Call) -> Response:
    """`POST /v1/dead-letters/{request_id}/replay`: accepted anew, then no dead letter any more."""
    invocation = await _whole(call, await _dead(call))
    request_id = await call.context.replay(invocation)
    await call.context.store.purge(call.namespace, [invocation.request_id])
    return _accepted(request_id)


async def replay_dead_letters(call: Call) -> Response:
    """`POST /v1/dead-letters/replay`: those of a function, or all."""
    count = 0
    async for batch in _dead_batches(call):
        for listed in batch:
            invocation = await call.context.store.invocation(call.namespace, listed.request_id)
            if invocation is None or not invocation.dead:
                continue
            try:
                await call.context.replay(await _whole(call, invocation))
            except Throttled:
                if count:
                    return json_response(PurgeView(count=count))
                raise
            await call.context.store.purge(call.namespace, [invocation.request_id])
            count += 1
    return json_response(PurgeView(count=count))


async def purge_dead_letter(call: Call) -> Response:
    """`DELETE /v1/dead-letters/{request_id}`."""
    invocation = await _dead(call)
    await call.context.store.purge(call.namespace, [invocation.request_id])
    return Response(status_code=204)


async def purge_dead_letters(call: Call) -> Response:
    """`DELETE /v1/dead-letters`: those of a function, or all."""
    count = 0
    async for batch in _dead_batches(call):
        ids = [invocation.request_id for invocation in batch]
        count += await call.context.store.purge(call.namespace, ids)
    return json_response(PurgeView(count=count))


async def stored_invocation(context: ApiContext, namespace: str, request_id: str) -> Invocation:
    """An invocation of the store. Raises `NotFound`."""

    async def read() -> Invocation | None:
        return await context.store.invocation(namespace, request_id)

    invocation = await (read_young(request_id, read) if context.catalog.shared else read())
    if invocation is None:
        raise NotFound(
            f"there is no invocation {request_id} in namespace {namespace}",
            next_step="`pratai invocations` lists them; old ones are removed after some days.",
            field="request_id",
            value=request_id,
        )
    return invocation


async def _page(call: Call, *, dead: bool | None) -> Response:
    query = InvocationQuery(
        namespace=call.namespace,
        function=call.text("function"),
        outcome=call.text("outcome") if dead is None else "",
        state=call.text("state") if dead is None else "",
        dead=dead,
        since_ms=call.whole("since"),
        until_ms=call.whole("until"),
        search=call.text("search"),
        limit=call.whole("limit"),
        cursor=call.text("cursor"),
    )
    page = await call.context.store.invocations(query)
    views = [invocation_view(invocation) for invocation in page.items]
    return json_response(InvocationList(items=views, next_cursor=page.next_cursor))


async def _stored(call: Call) -> Invocation:
    return await stored_invocation(call.context, call.namespace, call.text("request_id"))


async def _dead(call: Call) -> Invocation:
    invocation = await _stored(call)
    if not invocation.dead:
        raise NotFound(
            f"invocation {invocation.request_id} is no dead letter",
            next_step="`pratai dead-letters list` lists those there are.",
            field="request_id",
            value=invocation.request_id,
        )
    return invocation


async def _whole(call: Call, invocation: Invocation) -> Invocation:
    """The invocation with its event."""
    if invocation.event is not None:
        return invocation
    event = await call.context.store.event(invocation.namespace, invocation.request_id)
    if event is None:
        raise PlatformError(
            f"the event of {invocation.request_id} is not in the store any more",
            next_step="Send the event again.",
        )
    return replace(invocation, event=event)


async def _dead_batches(call: Call) -> AsyncIterator[list[Invocation]]:
    """All dead letters that match, page after page; each page may be removed when it was seen."""
    cursor = ""
    while True:
        page = await call.context.store.invocations(
            InvocationQuery(
                namespace=call.namespace,
                function=call.text("function"),
                dead=True,
                limit=BATCH,
                cursor=cursor,
            )
        )
        if page.items:
            yield page.items
        cursor = page.next_cursor
        if not cursor:
            return


def _accepted(request_id: str) -> Response:
    location = f"/v1/invocations/{request_id}"
    return json_response(
        AcceptedView(request_id=request_id, location=location),
        202,
        {"Location": location, "Pratai-Request-Id": request_id},
    )
