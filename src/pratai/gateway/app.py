"""The ASGI application: the invoke path by hand, everything else handed to the API.

`POST /v1/functions/{name}/invocations` is most of all traffic, and a framework's routing and
request objects would cost more than the whole rest of a warm call (`docs/decisions/0001`). Here is
HTTP only; admission, waiting and recording are `service.py`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from pratai import ids
from pratai.config.schema import Config
from pratai.errors import CallerError, InvalidField, PayloadTooLarge, PrataiError
from pratai.gateway.auth import KeyRing, choose_namespace
from pratai.gateway.calls import Call
from pratai.gateway.catalog import Catalog
from pratai.gateway.problems import problem_bytes, result_problem
from pratai.gateway.service import GatewayService
from pratai.metrics import count
from pratai.model.function import Version
from pratai.wire.messages import Result

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_PREFIX = "/v1/functions/"
_SUFFIX = "/invocations"
#: Longest `Idempotency-Key` and `traceparent` that are taken.
KEY_CHARS_MAX = 255
TRACE_CHARS_MAX = 512
TIMEOUT_DIGITS_MAX = 16
#: A stream whose caller takes nothing for this long is broken off.
SLOW_READER_S = 30.0

_check_json = msgspec.json.Decoder(msgspec.Raw).decode


class CallerGone(Exception):
    """The caller hung up before its request was whole: there is nobody to answer."""


class StreamBroken(Exception):
    """A streamed result failed midway; the connection is closed so that it cannot look whole."""


class Request:
    """The parts of an invoke request that matter, read in one pass over its headers."""

    __slots__ = (
        "authorization",
        "content_length",
        "content_type",
        "idempotency_key",
        "name",
        "namespace",
        "prefer",
        "qualifier",
        "timeout",
        "trace",
    )

    def __init__(self, scope: Scope) -> None:
        self.name: str = scope["path"][len(_PREFIX) : -len(_SUFFIX)]
        self.authorization = b""
        self.content_type = "application/json"
        self.content_length = b""
        self.idempotency_key = ""
        self.namespace = ""
        self.prefer = b""
        self.timeout = b""
        self.trace = ""
        for key, value in scope["headers"]:
            if key == b"authorization":
                self.authorization = value
            elif key == b"content-type":
                self.content_type = value.decode("latin-1")
            elif key == b"content-length":
                self.content_length = value
            elif key == b"prefer":
                self.prefer = value
            elif key == b"idempotency-key":
                self.idempotency_key = value.decode("latin-1") or _refuse_empty("Idempotency-Key")
            elif key == b"pratai-timeout-ms":
                self.timeout = value or b"empty"
            elif key == b"traceparent":
                self.trace = value.decode("latin-1")[:TRACE_CHARS_MAX]
            elif key == b"pratai-namespace":
                self.namespace = value.decode("latin-1") or _refuse_empty("Pratai-Namespace")
        self.qualifier = _qualifier(scope["query_string"]) if scope["query_string"] else ""

    @property
    def wants_async(self) -> bool:
        """Whether the caller prefers not to wait (RFC 7240)."""
        return bool(self.prefer) and b"respond-async" in self.prefer.lower()

    def timeout_ms(self, version: Version) -> int:
        """The caller's timeout, at most the function's own."""
        if not self.timeout:
            return version.config.timeout_ms
        digits = self.timeout.isdigit() and len(self.timeout) <= TIMEOUT_DIGITS_MAX
        if not digits or not 1 <= int(self.timeout) <= 900_000:
            raise InvalidField(
                "Pratai-Timeout-Ms is not a number of milliseconds in 1..900000",
                field="Pratai-Timeout-Ms",
                value=self.timeout[:80].decode("latin-1"),
                allowed="1..900000",
                next_step="Send a whole number of milliseconds, or leave the header out.",
            )
        return min(int(self.timeout), version.config.timeout_ms)

    def check_key(self) -> None:
        """Refuse an idempotency key that cannot be kept."""
        key = self.idempotency_key
        if len(key) > KEY_CHARS_MAX or not (key.isascii() and key.isprintable()):
            raise InvalidField(
                f"Idempotency-Key must be 1 to {KEY_CHARS_MAX} printable characters",
                field="Idempotency-Key",
                value=key[:80],
                allowed=f"1..{KEY_CHARS_MAX} printable characters",
                next_step="Use e.g. a UUID.",
            )


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
        if scope["type"] == "http" and scope["method"] == "POST":
            path: str = scope["path"]
            if path.startswith(_PREFIX) and path.endswith(_SUFFIX) and path.count("/") == 4:
                await self._invoke(scope, receive, send)
                return
        await self._api(scope, receive, send)

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
            raise _too_large(int(length[:20]), limit)
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
                    raise _too_large(size, limit)
            event = b"".join(parts)
        if len(event) > limit:
            raise _too_large(len(event), limit)
        if event and _is_json(request.content_type):
            _check_event(event)
        return event

    async def _accept(self, request: Request, version: Version, event: bytes, send: Send) -> None:
        if request.idempotency_key:
            request.check_key()
        accepted = await self._service.accept(
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


def _refuse_empty(header: str) -> str:
    raise InvalidField(
        f"{header} is empty",
        field=header,
        value="",
        allowed="at least one character",
        next_step=f"Give {header} a value, or leave it out.",
    )


def _is_json(content_type: str) -> bool:
    if content_type == "application/json":
        return True
    kind = content_type.split(";", 1)[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def _check_event(event: bytes) -> None:
    """Refuse an event that is not the JSON it says it is."""
    try:
        _check_json(event)
        if not event.isascii():
            event.decode()
    except msgspec.DecodeError as error:
        why = str(error)
    except UnicodeDecodeError as error:
        why = f"byte {error.start} is not UTF-8"
    except RecursionError:
        why = "it is nested too deeply"
    else:
        return
    raise CallerError(
        f"the event says it is JSON but does not parse: {why}",
        code="invalid_json",
        field="body",
        next_step="Send valid JSON, or say what it is in Content-Type.",
    )


def _qualifier(query: bytes) -> str:
    qualifier = ""
    for key, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if key != "qualifier":
            raise InvalidField(
                f"there is no query parameter {key!r} here",
                field=key[:80],
                value=value[:80],
                allowed=["qualifier"],
                next_step="Use `qualifier`, or none.",
            )
        qualifier = value
    return qualifier


def _too_large(size: int, limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the event has {size} bytes, above the limit of {limit}",
        field="body",
        value=size,
        allowed=f"at most {limit} bytes",
        next_step="Send less, or store it elsewhere and send where it is.",
    )


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
