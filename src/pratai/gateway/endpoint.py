"""A function as a web endpoint: an HTTP request as a Lambda event, a result as an HTTP response.

Pure translation of AWS Lambda's payload format 2.0; sockets and keys are the API's affair.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec

from pratai.errors import FunctionError

Headers = Sequence[tuple[bytes, bytes]]

_TEXTUAL = ("text/", "application/json", "application/xml", "application/javascript")
_TEXTUAL_SUFFIXES = ("+json", "+xml", "x-www-form-urlencoded", "/graphql", "/yaml", "/x-ndjson")
#: Headers that belong to one connection, not to the response.
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "content-length",
        "keep-alive",
        "proxy-authenticate",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NAME_CHARS = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What the endpoint was asked, as ASGI tells it."""

    function: str
    method: str
    #: Below `/fn/{name}`, always with a leading slash, still percent-encoded.
    raw_path: str
    query: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    protocol: str
    source_ip: str
    request_id: str
    at_ms: int


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """What the endpoint answers."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


def event_of(request: Request) -> bytes:
    """The event a function gets: payload format 2.0 as JSON."""
    headers, cookies = _headers(request.headers)
    body, encoded = _body(request.body, headers.get("content-type", ""))
    event: dict[str, object] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": _text(unquote_to_bytes(request.raw_path)),
        "rawQueryString": request.query.decode("latin-1"),
        "headers": headers,
        "requestContext": _context(request, headers),
        "isBase64Encoded": encoded,
    }
    if cookies:
        event["cookies"] = cookies
    query = _query(request.query)
    if query:
        event["queryStringParameters"] = query
    if request.body:
        event["body"] = body
    return _encode(event)


def response_of(payload: bytes, content_type: str) -> Response:
    """The HTTP response that a result means.

    Raises:
        FunctionError: it looks like a response (`statusCode`) but is not a correct one.

    """
    if not _is_json(content_type):
        return _plain(payload, content_type or "application/octet-stream")
    try:
        value = _decode(payload) if payload else None
    except msgspec.DecodeError:
        return _plain(payload, content_type)
    if isinstance(value, dict) and "statusCode" in value:
        return _structured(value)
    if isinstance(value, str):
        return _plain(value.encode("utf-8", "replace"), "text/plain; charset=utf-8")
    return _plain(payload or b"null", "application/json")


def _context(request: Request, headers: dict[str, str]) -> dict[str, object]:
    domain = headers.get("host", "localhost")
    return {
        "accountId": "anonymous",
        "apiId": request.function,
        "domainName": domain,
        "domainPrefix": domain.partition(".")[0],
        "http": {
            "method": request.method,
            "path": _text(unquote_to_bytes(request.raw_path)),
            "protocol": request.protocol,
            "sourceIp": request.source_ip,
            "userAgent": headers.get("user-agent", ""),
        },
        "requestId": request.request_id,
        "routeKey": "$default",
        "stage": "$default",
        "time": datetime.fromtimestamp(request.at_ms / 1_000, UTC).strftime("%d/%b/%Y:%H:%M:%S %z"),
        "timeEpoch": request.at_ms,
    }


def _headers(raw: Headers) -> tuple[dict[str, str], list[str]]:
    """Lower-case names, repeated ones joined by a comma; cookies apart."""
    headers: dict[str, str] = {}
    cookies: list[str] = []
    for raw_name, raw_value in raw:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        if name == "cookie":
            cookies += [part.strip() for part in value.split(";") if part.strip()]
        elif name in headers:
            headers[name] += f",{value}"
        else:
            headers[name] = value
    return headers, cookies


def _query(raw: bytes) -> dict[str, str]:
    query: dict[str, str] = {}
    for name, value in parse_qsl(raw.decode("latin-1"), keep_blank_values=True):
        query[name] = f"{query[name]},{value}" if name in query else value
    return query


def _body(body: bytes, content_type: str) -> tuple[str, bool]:
    kind = content_type.partition(";")[0].strip().lower()
    if kind.startswith(_TEXTUAL) or kind.endswith(_TEXTUAL_SUFFIXES):
        try:
            return body.decode(), False
        except UnicodeDecodeError:
            return base64.b64encode(body).decode(), True
    return base64.b64encode(body).decode(), bool(body)


def _structured(value: dict[str, object]) -> Response:
    status = value["statusCode"]
    if isinstance(status, str) and status.isdecimal():
        status = int(status)
    if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599:
        raise _bad_response(f"statusCode is {status!r}, not a number from 200 to 599")
    headers = _response_headers(value.get("headers"), value.get("multiValueHeaders"))
    for cookie in _list(value.get("cookies"), "cookies"):
        headers.append(("set-cookie", _header_value("cookies", cookie)))
    body = _response_body(value.get("body"), value.get("isBase64Encoded"))
    if body and all(name != "content-type" for name, _ in headers):
        headers.append(("content-type", "application/json"))
    return Response(status=status, headers=headers, body=body)


def _response_headers(single: object, multiple: object) -> list[tuple[str, str]]:
    headers: list[tuple[str, str]] = []
    for field, given in (("headers", single), ("multiValueHeaders", multiple)):
        if given is None:
            continue
        if not isinstance(given, dict):
            raise _bad_response(f"{field} is not an object")
        for raw_name, value in given.items():
            name = str(raw_name).lower()
            if not name or not _NAME_CHARS.issuperset(name):
                raise _bad_response(f"{raw_name!r} is not a name of a header")
            if name in _HOP_BY_HOP:
                continue
            values = _list(value, field) if field == "multiValueHeaders" else [value]
            headers += [(name, _header_value(name, one)) for one in values]
    return headers


def _header_value(name: str, value: object) -> str:
    if isinstance(value, bool):
        value = "true" if value else "false"
    if not isinstance(value, str | int | float):
        raise _bad_response(f"header {name} is not text")
    text = str(value)
    if any(char in "\r\n\0" for char in text):
        raise _bad_response(f"header {name} has a line break in it")
    try:
        text.encode("latin-1")
    except UnicodeEncodeError as error:
        raise _bad_response(f"header {name} has characters that headers cannot have") from error
    return text


def _response_body(body: object, encoded: object) -> bytes:
    if body is None:
        return b""
    if not isinstance(body, str):
        return _encode(body)
    if encoded is not True:
        return body.encode("utf-8", "replace")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _bad_response("isBase64Encoded is true but body is not base64") from error


def _list(value: object, field: str) -> list[object]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise _bad_response(f"{field} is not a list")
    return value


def _plain(body: bytes, content_type: str) -> Response:
    kind = _header_value("content-type", content_type)
    return Response(status=200, headers=[("content-type", kind)], body=body)


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind in ("", "application/json") or kind.endswith("+json")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _bad_response(detail: str) -> FunctionError:
    return FunctionError(
        f"the function's response is wrong: {detail}",
        code="bad_response",
        next_step="Return statusCode, headers and body as Lambda's payload format 2.0 has them.",
    )
