"""HTTP requests as Lambda events, results as HTTP responses."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest

from pratai.errors import FunctionError
from pratai.gateway.endpoint import Request, event_of, response_of

AT_MS = 1_764_000_000_000


def event(**fields: Any) -> dict[str, Any]:
    request = Request(
        **{
            "function": "hello",
            "method": "GET",
            "raw_path": "/",
            "query": b"",
            "headers": [],
            "body": b"",
            "protocol": "HTTP/1.1",
            "source_ip": "192.0.2.1",
            "request_id": "r1",
            "at_ms": AT_MS,
            **fields,
        }
    )
    told: dict[str, Any] = msgspec.json.decode(event_of(request))
    return told


def test_an_empty_request_has_the_shape_of_format_2_0() -> None:
    assert event(headers=[(b"Host", b"h.test"), (b"User-Agent", b"curl")]) == {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/",
        "rawQueryString": "",
        "headers": {"host": "h.test", "user-agent": "curl"},
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "hello",
            "domainName": "h.test",
            "domainPrefix": "h",
            "http": {
                "method": "GET",
                "path": "/",
                "protocol": "HTTP/1.1",
                "sourceIp": "192.0.2.1",
                "userAgent": "curl",
            },
            "requestId": "r1",
            "routeKey": "$default",
            "stage": "$default",
            "time": "24/Nov/2025:16:00:00 +0000",
            "timeEpoch": AT_MS,
        },
        "isBase64Encoded": False,
    }


def test_repeated_headers_and_parameters_are_joined_and_cookies_are_apart() -> None:
    told = event(
        headers=[(b"X-A", b"1"), (b"x-a", b"2"), (b"Cookie", b"a=1; b=2")],
        query=b"x=1&x=%32&y=",
    )

    assert told["headers"] == {"x-a": "1,2"}
    assert told["cookies"] == ["a=1", "b=2"]
    assert told["queryStringParameters"] == {"x": "1,2", "y": ""}


@pytest.mark.parametrize(
    ("content_type", "body", "encoded"),
    [
        (b"application/json", b"{}", False),
        (b"application/vnd.api+json; charset=utf-8", b"{}", False),
        (b"text/plain", "ü".encode(), False),
        (b"application/x-www-form-urlencoded", b"a=1", False),
        (b"text/plain", b"\xff", True),
        (b"image/png", b"\x89PNG", True),
        (b"", b"abc", True),
    ],
)
def test_a_body_is_text_where_it_is_text_else_base64(
    content_type: bytes, body: bytes, encoded: bool
) -> None:
    told = event(body=body, headers=[(b"content-type", content_type)])

    assert told["isBase64Encoded"] is encoded
    assert (base64.b64decode(told["body"]) if encoded else told["body"].encode()) == body


@pytest.mark.parametrize(
    ("payload", "content_type", "told_type", "body"),
    [
        (b'{"a":1}', "application/json", "application/json", b'{"a":1}'),
        (b'"hi"', "application/json", "text/plain; charset=utf-8", b"hi"),
        (b"", "application/json", "application/json", b"null"),
        (b"[1]", "application/json; charset=utf-8", "application/json", b"[1]"),
        (b"\x89PNG", "image/png", "image/png", b"\x89PNG"),
        (b"{broken", "application/json", "application/json", b"{broken"),
    ],
)
def test_a_plain_value_is_200_with_its_content_type(
    payload: bytes, content_type: str, told_type: str, body: bytes
) -> None:
    response = response_of(payload, content_type)

    assert (response.status, response.body) == (200, body)
    assert response.headers == [("content-type", told_type)]


def test_a_response_mapping_sets_status_headers_cookies_and_body() -> None:
    payload = msgspec.json.encode(
        {
            "statusCode": "302",
            "headers": {"Location": "/x", "X-N": 3, "Content-Length": "99"},
            "multiValueHeaders": {"X-M": ["1", "2"]},
            "cookies": ["a=1", "b=2"],
            "body": base64.b64encode(b"\x00\x01").decode(),
            "isBase64Encoded": True,
        }
    )

    response = response_of(payload, "application/json")

    assert (response.status, response.body) == (302, b"\x00\x01")
    assert response.headers == [
        ("location", "/x"),
        ("x-n", "3"),
        ("x-m", "1"),
        ("x-m", "2"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("content-type", "application/json"),
    ]


def test_a_body_that_is_no_text_is_written_as_json() -> None:
    assert response_of(b'{"statusCode":200,"body":{"a":1}}', "").body == b'{"a":1}'


@pytest.mark.parametrize(
    "value",
    [
        {"statusCode": 100},
        {"statusCode": 600},
        {"statusCode": True},
        {"statusCode": None},
        {"statusCode": 200, "headers": []},
        {"statusCode": 200, "headers": {"a": "b\nc"}},
        {"statusCode": 200, "headers": {"a": None}},
        {"statusCode": 200, "headers": {"a": "\u20ac"}},
        {"statusCode": 200, "headers": {"": "b"}},
        {"statusCode": 200, "multiValueHeaders": {"a": "b"}},
        {"statusCode": 200, "cookies": "a"},
        {"statusCode": 200, "body": "!", "isBase64Encoded": True},
    ],
)
def test_a_wrong_response_is_the_function_s_fault(value: object) -> None:
    with pytest.raises(FunctionError) as caught:
        response_of(msgspec.json.encode(value), "application/json")

    assert (caught.value.code, caught.value.status) == ("bad_response", 502)


def test_a_content_type_cannot_smuggle_a_header_in() -> None:
    with pytest.raises(FunctionError):
        response_of(b"x", "text/html\r\nx-evil: 1")
