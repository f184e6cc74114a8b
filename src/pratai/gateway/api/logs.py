"""Handlers for logs: JSON lines, or server-sent events that go on as records arrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
from msgspec.structs import replace
from starlette.responses import Response, StreamingResponse

from pratai.clock import monotonic_us
from pratai.errors import Throttled
from pratai.gateway.api.freshness import read_young
from pratai.gateway.api.invocations import stored_invocation
from pratai.gateway.api.operations import Call
from pratai.gateway.views import log_view
from pratai.model.invocation import LogRecord
from pratai.store.base import LogQuery, Store

NDJSON = "application/x-ndjson"
EVENT_STREAM = "text/event-stream"
#: Readers that follow at one time.
FOLLOWERS_MAX = 256
#: Time between two looks into the store.
POLL_MS = 100
#: After this long without a record a comment is sent, so that a dead connection is noticed.
KEEP_ALIVE_MS = 15_000

_encode = msgspec.json.Encoder().encode


class Followers:
    """Handler of a function's logs; bounds how many readers follow."""

    def __init__(self, followers_max: int = FOLLOWERS_MAX, poll_ms: int = POLL_MS) -> None:
        self._free = followers_max
        self._poll_ms = poll_ms

    def __repr__(self) -> str:
        """How many more may follow."""
        return f"<Followers [{self._free} free]>"

    async def function_logs(self, call: Call) -> Response:
        """`GET /v1/functions/{name}/logs`."""
        await call.context.catalog.get(call.namespace, call.text("name"))
        query = LogQuery(
            namespace=call.namespace,
            function=call.text("name"),
            since_ms=call.whole("since"),
            grep=call.text("grep"),
            after=call.whole("after"),
            limit=call.whole("limit"),
            tail=not call.whole("after"),
        )
        if not call.flag("follow"):
            return _lines(await call.context.store.logs(query))
        resumed = call.request.headers.get("last-event-id", "")
        if resumed.isascii() and resumed.isdecimal() and len(resumed) <= 16:
            query = replace(query, after=int(resumed), tail=False)
        if self._free <= 0:
            raise Throttled(
                "too many readers follow logs already",
                next_step="Stop following elsewhere, or read without follow.",
                retry_after_s=10,
            )
        return StreamingResponse(
            self._follow(call.context.store, query),
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
            media_type=EVENT_STREAM,
        )

    async def _follow(self, store: Store, query: LogQuery) -> AsyncIterator[bytes]:
        self._free -= 1
        silent_since_us = monotonic_us()
        try:
            yield b": following\n\n"
            while True:
                records = await store.logs(query)
                if records:
                    query = replace(query, after=records[-1].sequence, tail=False, since_ms=0)
                    silent_since_us = monotonic_us()
                    yield b"".join(_event(record) for record in records)
                    if len(records) == query.limit:
                        continue
                elif monotonic_us() - silent_since_us > KEEP_ALIVE_MS * 1_000:
                    silent_since_us = monotonic_us()
                    yield b": nothing new\n\n"
                await asyncio.sleep(self._poll_ms / 1_000)
        finally:
            self._free += 1


async def invocation_logs(call: Call) -> Response:
    """`GET /v1/invocations/{request_id}/logs`."""
    request_id = call.text("request_id")
    context = call.context
    await stored_invocation(context, call.namespace, request_id)
    query = LogQuery(
        namespace=call.namespace,
        request_id=request_id,
        grep=call.text("grep"),
        after=call.whole("after"),
        limit=call.whole("limit"),
        tail=not call.whole("after"),
    )

    async def read() -> list[LogRecord]:
        return await context.store.logs(query)

    shared = context.catalog.shared and not query.after
    return _lines(await (read_young(request_id, read) if shared else read()))


def _lines(records: list[LogRecord]) -> Response:
    body = b"".join(_encode(log_view(record)) + b"\n" for record in records)
    return Response(body, media_type=NDJSON)


def _event(record: LogRecord) -> bytes:
    return b"id: %d\nevent: log\ndata: %b\n\n" % (record.sequence, _encode(log_view(record)))
