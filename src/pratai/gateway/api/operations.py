"""What an operation of the API is, and the ASGI endpoint that runs operations of one path.

One boundary for all of them: keys, namespaces, parameters and errors are handled here, so that a
handler gets only what is right and raises what it finds wrong.
"""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

import msgspec
import structlog
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pratai import ids
from pratai.errors import CallerError, Forbidden, InvalidField, PayloadTooLarge
from pratai.gateway.api.context import ApiContext
from pratai.gateway.api.parameters import NAMESPACE, Parameter, Value
from pratai.gateway.auth import DEFAULT_NAMESPACE, Principal, choose_namespace
from pratai.gateway.problems import problem_bytes
from pratai.model.refusal import invalid

#: JSON bodies of the API; packages and events have their own limits.
BODY_BYTES_MAX = 1024 * 1024
JSON = "application/json"
#: `open`: anybody. `loopback`: without a key only from this machine. `endpoint`: the handler asks.
Access = Literal["open", "loopback", "endpoint", "key", "admin"]

_LOOPBACK = ("127.", "::1", "::ffff:127.")
_NOBODY = Principal(namespace=DEFAULT_NAMESPACE, admin=False, label="nobody")
_log = structlog.get_logger("pratai.gateway")
_encode = msgspec.json.Encoder().encode


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One request, checked: what a handler gets."""

    context: ApiContext
    request: Request
    principal: Principal
    namespace: str
    arguments: dict[str, Value]
    request_id: str

    def text(self, name: str) -> str:
        """A parameter's text; "" when it was not given."""
        return str(self.arguments[name])

    def whole(self, name: str) -> int:
        """A parameter's number."""
        return int(self.arguments[name])

    def flag(self, name: str) -> bool:
        """Whether a parameter is true."""
        return self.arguments[name] is True

    async def body(self, bytes_max: int = BODY_BYTES_MAX) -> bytes:
        """The body, when it is within its bound."""
        return await read_body(self.request, bytes_max)


Handler = Callable[[Call], Awaitable[Response]]


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A success that an operation may answer."""

    description: str
    #: Struct that the JSON body is; None for a body that is not JSON, or none at all.
    model: type[msgspec.Struct] | None = None
    #: Media types of a body that is not the model's JSON.
    media: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """A method on a path: all that server, OpenAPI document and reference page know of it."""

    id: str
    method: str
    path: str
    summary: str
    tag: str
    replies: dict[int, Reply]
    #: None: served by another part of the gateway, listed here for the document.
    handler: Handler | None
    parameters: tuple[Parameter, ...] = ()
    #: Struct of the JSON body; `body_media` instead for others.
    body: type[msgspec.Struct] | None = None
    body_required: bool = True
    body_media: dict[str, dict[str, object]] = {}
    access: Access = "key"
    #: Statuses of problems beside those every operation may answer.
    problems: tuple[int, ...] = ()
    #: Any query parameter is let through.
    query_free: bool = False


def json_response(
    value: msgspec.Struct, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """A Struct as a JSON answer."""
    return Response(_encode(value), status, headers, JSON)


async def read_body(request: Request, bytes_max: int) -> bytes:
    """A request's body. Raises `PayloadTooLarge` as soon as more than its bound has come."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:19]) > bytes_max:
        raise too_large("the body", bytes_max)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > bytes_max:
            raise too_large("the body", bytes_max)
    return bytes(body)


def too_large(what: str, bytes_max: int) -> PayloadTooLarge:
    """The error of a body beyond its bound."""
    return PayloadTooLarge(
        f"{what} has more than {bytes_max} bytes",
        next_step="Send less, or keep large data elsewhere and send where it is.",
        allowed=f"at most {bytes_max} bytes",
    )


class PathEndpoint:
    """All operations of one path, as an ASGI application."""

    def __init__(self, context: ApiContext, operations: Sequence[Operation]) -> None:
        self._context = context
        self._operations = {operation.method: operation for operation in operations}
        get = self._operations.get("GET")
        if get is not None:
            self._operations.setdefault("HEAD", get)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the operation; whatever goes wrong becomes a problem document."""
        request = Request(scope, receive)
        request_id = ids.request_id()
        try:
            response = await self._run(request, request_id)
        except ClientDisconnect:
            _log.info("caller_gone", path=scope["path"])
            return
        except Exception as error:  # noqa: BLE001 - the boundary; what is unforeseen is logged
            response = problem_response(error, request_id)
        if scope["method"] == "HEAD":
            response = Response(status_code=response.status_code, headers=dict(response.headers))
        await response(scope, receive, send)

    async def _run(self, request: Request, request_id: str) -> Response:
        operation = self._operations.get(request.method)
        if operation is None or operation.handler is None:
            raise method_not_allowed(request.method, list(self._operations))
        principal = await _principal(self._context, operation, request)
        arguments = _arguments(operation, request)
        header = str(arguments.get(NAMESPACE.name, ""))
        namespace = header or DEFAULT_NAMESPACE
        if operation.access in ("key", "admin"):
            namespace = choose_namespace(principal, header)
        call = Call(
            context=self._context,
            request=request,
            principal=principal,
            namespace=namespace,
            arguments=arguments,
            request_id=request_id,
        )
        return await operation.handler(call)


def problem_response(error: BaseException, request_id: str) -> Response:
    """An error as an answer."""
    response = raw_response(*problem_bytes(error, request_id), request_id=request_id)
    allow: str = getattr(error, "allow", "")
    if allow:
        response.headers["allow"] = allow
    return response


def raw_response(
    status: int, headers: list[tuple[bytes, bytes]], body: bytes, *, request_id: str
) -> Response:
    """An answer from its parts as bytes. 204 and 304 have no body, whatever was given."""
    response = Response(b"" if status in (204, 304) else body, status)
    response.raw_headers += headers
    response.headers["pratai-request-id"] = request_id
    return response


class MethodNotAllowed(CallerError):
    """The path is there, the method is not."""

    code = "method_not_allowed"
    status = 405
    allow = ""


def method_not_allowed(method: str, known: list[str]) -> MethodNotAllowed:
    """The error for a method that a path does not have; carries its Allow header."""
    error = MethodNotAllowed(
        f"{method} is not something this path does",
        next_step=f"Use {' or '.join(known)}.",
        field="method",
        value=method,
        allowed=known,
    )
    error.allow = ", ".join(known)
    return error


async def _principal(context: ApiContext, operation: Operation, request: Request) -> Principal:
    if operation.access in ("open", "endpoint"):
        return _NOBODY
    if operation.access == "loopback" and from_loopback(request):
        return _NOBODY
    principal = await context.keys.authenticate(authorization(request))
    if operation.access == "admin" and not principal.admin:
        raise Forbidden(
            "this needs an admin key",
            next_step="Use the key that `pratai up` wrote, or ask the operator.",
        )
    return principal


def authorization(request: Request) -> bytes:
    """The Authorization header as it came."""
    return request.headers.get("authorization", "").encode("latin-1", "replace")


def from_loopback(request: Request) -> bool:
    """Whether the caller is on this machine; what came through a proxy is not."""
    headers: Headers = request.headers
    if "x-forwarded-for" in headers or "forwarded" in headers:
        return False
    host = request.client.host if request.client else ""
    return host.startswith(_LOOPBACK)


def _arguments(operation: Operation, request: Request) -> dict[str, Value]:
    """Every parameter's value. An unknown or repeated query parameter is an error."""
    query: dict[str, str] = {}
    known = [one.name for one in operation.parameters if one.where == "query"]
    if not operation.query_free:
        query = _query(request, known)
    arguments: dict[str, Value] = {}
    for parameter in operation.parameters:
        raw: str | None
        if parameter.where == "path":
            raw = request.path_params[parameter.name]
        elif parameter.where == "header":
            raw = request.headers.get(parameter.name)
        else:
            raw = query.get(parameter.name)
        if raw is None:
            arguments[parameter.name] = parameter.default
        else:
            arguments[parameter.name] = parameter.parse(parameter.name, raw)
    return arguments


def _query(request: Request, known: list[str]) -> dict[str, str]:
    query: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            raise _unknown_parameter(name, known)
        if name in query:
            raise invalid(name, value, "given once", next_step=f"Give {name} once.")
        query[name] = value
    return query


def _unknown_parameter(name: str, known: list[str]) -> InvalidField:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return invalid(
        name[:64],
        None,
        known or "no query parameters",
        detail=f"{name[:64]!r} is not a query parameter of this path",
        next_step=f"Did you mean {near[0]}?" if near else "Leave it out.",
    )
