"""The ASGI application: the invoke path by hand, everything else handed to the API.

`POST /v1/functions/{name}/invocations` is most of all traffic, and a framework's routing and
request objects would cost more than the whole rest of a warm call (`docs/decisions/0001`). Here is
HTTP only; admission, waiting and recording are `service.py`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any

from pratai import ids
from pratai.config.schema import Config
from pratai.errors import PrataiError
from pratai.gateway.auth import KeyRing, choose_namespace
from pratai.gateway.calls import Call
from pratai.gateway.catalog import Catalog
from pratai.gateway.problems import problem_bytes, result_problem
from pratai.gateway.request import Request, Scope, check_event, is_invoke, is_json, too_large
from pratai.gateway.service import GatewayService
from pratai.metrics import count
from pratai.model.function import Version
from pratai.wire.messages import Result

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

#: A stream whose caller takes nothing for this long is broken off.
SLOW_READER_S = 30.0

#: Head of most answers, in one go; the general way is below.
_SUCCESS = (
    b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\npratai-request-id: %b\r\n"
    b"pratai-outcome: succeeded\r\npratai-start-kind: %b\r\n"
    b"server-timing: queue;dur=%.3f, start;dur=%.3f, run;dur=%.3f\r\n\r\n"
)
_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode())
    for status in HTTPStatus
}


class CallerGone(Exception):
    """The caller hung up before its request was whole: there is nobody to answer."""


class StreamBroken(Exception):
    """A streamed result failed midway; the connection is closed so that it cannot look whole."""


class App:
    """Pratai over ASGI."""

    def __init__(
        self,
        config: Config,
        *,
        service: GatewayService,
        catalog: Catalog,
        keys: KeyRing,
        api: ASGIApp,
    ) -> None:
        self._config = config
        self._service = service
        self._catalog = catalog
        self._keys = keys
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["method"] == "POST" and is_invoke(scope["path"]):
            await self._invoke(scope, receive, send)
            return
        await self._api(scope, receive, send)

    # the short way, `direct.py`

    def begin_at_once(
        self, scope: Scope, event: bytes, listener: Callable[[Call], None]
    ) -> Call | None:
        """Begin a sync call if nothing must be awaited for it and nothing is wrong with it."""
        if not is_invoke(scope["path"]):
            return None
        try:
            request = Request(scope)
            principal = self._keys.authenticate_cached(request.authorization)
            if (
                principal is None
                or request.prefer
                or request.idempotency_key
                or request.namespace
                or len(event) > self._config.gateway.sync_event_bytes_max
            ):
                return None
            version = self._catalog.resolve_cached(
                principal.namespace, request.name, request.qualifier, ids.chance()
            )
            if version is None:
                return None
            if event and is_json(request.content_type):
                check_event(event)
            timeout_ms = request.timeout_ms(version) if request.timeout else 0
        except PrataiError:
            return None  # the long way finds it again, and says so
        return self._service.begin(
            version,
            event,
            content_type=request.content_type,
            qualifier=request.qualifier,
            timeout_ms=timeout_ms,
            trace=request.trace,
            listener=listener,
        )

    def answer_bytes(self, call: Call, *, keep_alive: bool) -> tuple[bytes, bytes]:
        """Head and body of the answer to a call that has its result."""
        result = call.result
        assert result is not None, "it is answered"
        total_us = self._service.elapsed_us(call)
        if result.outcome == "succeeded" and keep_alive:
            return _SUCCESS % (
                result.content_type.encode("latin-1"),
                len(result.payload),
                result.request_id.encode(),
                result.start_kind.encode(),
                max(0, total_us - result.start_us - result.run_us) / 1_000,
                result.start_us / 1_000,
                result.run_us / 1_000,
            ), result.payload
        status, body, headers = 200, result.payload, _call_headers(result, total_us)
        if result.outcome == "succeeded":
            headers.append((b"content-type", result.content_type.encode("latin-1")))
        else:
            status, more, body = result_problem(result, result.request_id)
            headers.extend(more)
        lines = [_STATUS_LINES[status]]
        lines.extend(b"%b: %b\r\n" % header for header in headers)
        lines.append(
            b"pratai-request-id: %b\r\ncontent-length: %d\r\n%b\r\n"
            % (
                result.request_id.encode(),
                len(body),
                b"" if keep_alive else b"connection: close\r\n",
            )
        )
        return b"".join(lines), body

    def streamer(self, call: Call) -> ASGIApp:
        """An ASGI application that writes the answer of a call that streams."""

        async def stream(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001

            async def gone() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass

            self._service.watch(call, gone)
            await self._stream(call, send)

        return stream

    def finish(self, call: Call) -> None:
        """Record an answered call."""
        if call.result is not None:
            self._service.finish(call, call.result, self._service.elapsed_us(call))

    def cancel(self, call: Call) -> None:
        """The caller has gone."""
        self._service.cancel(call)

    # the long way

    async def _invoke(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = ids.request_id()
        try:
            request = Request(scope)
            principal = self._keys.authenticate_cached(request.authorization)
            if principal is None:
                principal = await self._keys.authenticate(request.authorization)
            namespace = principal.namespace
            if request.namespace:
                namespace = choose_namespace(principal, request.namespace)
            catalog, chance = self._catalog, ids.chance()
            version = catalog.resolve_cached(
                namespace, request.name, request.qualifier, chance
            ) or await catalog.resolve(namespace, request.name, request.qualifier, chance)
            event = await self._event(request, receive)
            if request.wants_async:
                await self._accept(request, version, event, send)
            else:
                await self._call(
                    request, version, event, request_id=request_id, receive=receive, send=send
                )
        except CallerGone:
            count("callers_gone")
        except StreamBroken:
            raise
        except PrataiError as error:
            await _answer(send, problem_bytes(error, request_id), request_id)
        except Exception as error:  # noqa: BLE001  the boundary of a request: told, not leaked
            await _answer(send, problem_bytes(error, request_id), request_id)

    async def _event(self, request: Request, receive: Receive) -> bytes:
        """The event, whole and within its limit; JSON that does not parse goes no further."""
        gateway = self._config.gateway
        limit = (
            gateway.async_event_bytes_max if request.wants_async else gateway.sync_event_bytes_max
        )
        length = request.content_length
        if length and length.isdigit() and int(length[:20]) > limit:
            raise too_large(int(length[:20]), limit)
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CallerGone
        event: bytes = message.get("body", b"")
        if message.get("more_body"):
            parts, size = [event], len(event)
            while message.get("more_body"):
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise CallerGone
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limit:
                    raise too_large(size, limit)
            event = b"".join(parts)
        if len(event) > limit:
            raise too_large(len(event), limit)
        if event and is_json(request.content_type):
            check_event(event)
        return event

    async def _accept(self, request: Request, version: Version, event: bytes, send: Send) -> None:
        if request.idempotency_key:
            request.check_key()
        accepted = await self._service.acceptor.accept(
            version,
            event,
            content_type=request.content_type,
            qualifier=request.qualifier,
            timeout_ms=request.timeout_ms(version),
            idempotency_key=request.idempotency_key,
            trace=request.trace,
        )
        location = f"/v1/invocations/{accepted.request_id}".encode()
        body = b'{"request_id":"%b","location":"%b"}' % (accepted.request_id.encode(), location)
        headers = [
            (b"content-type", b"application/json"),
            (b"location", location),
            (b"preference-applied", b"respond-async"),
        ]
        await _answer(send, (202, headers, body), accepted.request_id)

    async def _call(
        self,
        request: Request,
        version: Version,
        event: bytes,
        *,
        request_id: str,
        receive: Receive,
        send: Send,
    ) -> None:
        service = self._service
        if request.idempotency_key:
            request.check_key()
            call = await service.begin_idempotent(
                version,
                event,
                content_type=request.content_type,
                qualifier=request.qualifier,
                timeout_ms=request.timeout_ms(version),
                idempotency_key=request.idempotency_key,
                trace=request.trace,
            )
        else:
            call = service.begin(
                version,
                event,
                content_type=request.content_type,
                qualifier=request.qualifier,
                timeout_ms=request.timeout_ms(version) if request.timeout else 0,
                trace=request.trace,
                request_id=request_id,
            )
        begun = call.begun
        assert begun is not None, "it has no listener"
        if not begun.done():

            async def gone() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass

            service.watch(call, gone)
        result = await begun
        if result is None:
            await self._stream(call, send)
            return
        await self._finish(call, result, send)

    async def _finish(self, call: Call, result: Result, send: Send) -> None:
        total_us = self._service.elapsed_us(call)
        request_id = result.request_id
        if result.outcome != "succeeded":
            status, headers, body = result_problem(result, request_id)
            headers = [*headers, *_call_headers(result, total_us)]
            await _answer(send, (status, headers, body), request_id)
            self._service.finish(call, result, total_us)
            return
        payload = result.payload
        headers = [
            (b"content-type", result.content_type.encode("latin-1")),
            (b"content-length", b"%d" % len(payload)),
            (b"pratai-request-id", request_id.encode()),
            *_call_headers(result, total_us),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": payload})
        self._service.finish(call, result, total_us)

    async def _stream(self, call: Call, send: Send) -> None:
        """Write chunks as they come. A failure midway breaks the connection off."""
        headers = [
            (b"content-type", (call.content_type or "application/octet-stream").encode("latin-1")),
            (b"pratai-request-id", call.invoke.request_id.encode()),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            while call.chunks or call.result is None:
                await self._service.more(call)
                if call.chunks:
                    part = self._service.take(call)
                    async with asyncio.timeout(SLOW_READER_S):
                        await send({"type": "http.response.body", "body": part, "more_body": True})
        except TimeoutError:
            count("streams_too_slow")
            self._service.cancel(call)
        finally:
            self._service.drop(call)
        result = call.result
        assert result is not None, "the loop ends with it"
        self._service.finish(call, result, self._service.elapsed_us(call))
        if result.outcome != "succeeded":
            raise StreamBroken(result.failure.error_message if result.failure else result.outcome)
        await send({"type": "http.response.body", "body": b""})


def _call_headers(result: Result, total_us: int) -> list[tuple[bytes, bytes]]:
    queue_us = max(0, total_us - result.start_us - result.run_us)
    timing = b"queue;dur=%.3f, start;dur=%.3f, run;dur=%.3f" % (
        queue_us / 1_000,
        result.start_us / 1_000,
        result.run_us / 1_000,
    )
    return [
        (b"pratai-outcome", result.outcome.encode()),
        (b"pratai-start-kind", result.start_kind.encode()),
        (b"server-timing", timing),
    ]


async def _answer(
    send: Send, answer: tuple[int, list[tuple[bytes, bytes]], bytes], request_id: str
) -> None:
    status, headers, body = answer
    headers = [
        *headers,
        (b"content-length", b"%d" % len(body)),
        (b"pratai-request-id", request_id.encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
