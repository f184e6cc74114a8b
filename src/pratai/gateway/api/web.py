"""Handler of `/fn/{name}/...`: a function as a web endpoint, open or with a key."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from pratai.clock import now_ms
from pratai.errors import NotFound, PayloadTooLarge
from pratai.gateway import endpoint
from pratai.gateway.api.context import InvokeAnswer, InvokeCall
from pratai.gateway.api.operations import Call, authorization, raw_response, too_large
from pratai.gateway.api.parameters import NAMESPACE
from pratai.gateway.auth import choose_namespace
from pratai.gateway.problems import result_problem
from pratai.ids import request_id as new_request_id
from pratai.model.function import Version

#: Keys of Pratai begin with this (`ids.api_key`); they are no business of the function.
_KEY_PREFIX = b"bearer pratai_"


async def call_endpoint(call: Call) -> Response:
    """Any method on `/fn/{name}` and below."""
    version, with_key = await _version(call)
    bytes_max = call.context.config.gateway.sync_event_bytes_max
    request = endpoint.Request(
        function=version.name,
        method=call.request.method,
        raw_path=_path_below(call.request),
        query=call.request.scope["query_string"],
        headers=_headers(call.request, hide_key=with_key),
        body=await call.body(bytes_max),
        protocol=f"HTTP/{call.request.scope.get('http_version', '1.1')}",
        source_ip=call.request.client.host if call.request.client else "",
        request_id=new_request_id(),
        at_ms=now_ms(),
    )
    event = endpoint.event_of(request)
    if len(event) > bytes_max:
        raise _event_too_large(bytes_max)
    answer = await call.context.invoke(
        InvokeCall(
            namespace=version.namespace,
            name=version.name,
            payload=event,
            request_id=request.request_id,
            trace=call.request.headers.get("traceparent", "")[:256],
            gone=lambda: _gone(call.request),
        )
    )
    return _response(answer)


async def _gone(request: Request) -> None:
    """Return when the caller has hung up; its body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _version(call: Call) -> tuple[Version, bool]:
    """What to run, and whether a key was needed. Without a key nobody learns which names exist."""
    catalog, name = call.context.catalog, call.text("name")
    try:
        version = await catalog.resolve(call.namespace, name, "", 0.0)
    except NotFound:
        version = None
    if version is not None and version.config.public:
        return version, False
    principal = await call.context.keys.authenticate(authorization(call.request))
    namespace = choose_namespace(principal, call.text(NAMESPACE.name))
    return await catalog.resolve(namespace, name, "", 0.0), True


def _path_below(request: Request) -> str:
    """The path below `/fn/{name}` as it was sent, still percent-encoded."""
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    parts = raw.partition(b"?")[0].decode("latin-1").split("/", 3)
    return f"/{parts[3]}" if len(parts) > 3 else "/"


def _headers(request: Request, *, hide_key: bool) -> list[tuple[bytes, bytes]]:
    return [
        (name, value)
        for name, value in request.headers.raw
        if name != b"authorization"
        or not (hide_key or value[: len(_KEY_PREFIX)].lower() == _KEY_PREFIX)
    ]


def _response(answer: InvokeAnswer) -> Response:
    result = answer.result
    if result.outcome != "succeeded":
        answer_parts = result_problem(result, result.request_id)
        return raw_response(*answer_parts, request_id=result.request_id)
    told = endpoint.response_of(result.payload, result.content_type)
    headers = [(name.encode(), value.encode("latin-1")) for name, value in told.headers]
    return raw_response(told.status, headers, told.body, request_id=result.request_id)


def _event_too_large(bytes_max: int) -> PayloadTooLarge:
    return too_large("the request as an event", bytes_max)
