"""Hostile and mistaken HTTP: each is refused with the right status and a problem document that
says what to do, gives nothing of the inside away, and leaves the platform serving.

Command lines and configuration files are in `test_bad_start.py`.
"""

from __future__ import annotations

import io
import json
import re
import stat
import time
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from platform_process import Answer, PlatformProcess
from raw_http import RawAnswer, connect, exchange, head, read_answer

ECHO = "def main(payload):\n    return {'got': payload}\n"
CALL = b"/v1/functions/echo/invocations"
JSON = b"content-type: application/json"
MIB = 1 << 20
#: Words of a Python error or of this machine that no caller should see.
LEAKS = re.compile(
    rb"Traceback|File \\?\"|site-packages|\.py\\?\", line|object at 0x|<class '|Errno|/tmp/|src/pratai"
    rb"|(Key|Type|Attribute|Value|Index|Unicode\w+|Runtime|OS)Error"
)


@pytest.fixture(scope="module")
def served(platform: PlatformProcess) -> PlatformProcess:
    """The platform with `echo`, which must still work after each test; without a proxy before it,
    which would refuse some of this in its own way.
    """
    platform.url = platform.gateway_url
    platform.deploy("echo", ECHO)
    platform.deploy("closed", ECHO)
    return platform


@pytest.fixture(autouse=True)
def still_serving(served: PlatformProcess) -> Iterator[None]:
    told_before = len(served.log())
    yield
    assert served.invoke("echo", {"well": True}).json() == {"got": {"well": True}}
    told = served.log()[told_before:]
    assert "raceback" not in told, told[-4_000:]
    assert "unexpected_error" not in told, told[-4_000:]


def check_problem(answer: Answer | RawAnswer, status: int, code: str = "") -> dict[str, Any]:
    """The answer is a problem document with this status and nothing of the inside."""
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/problem+json", answer
    told = answer.json()
    for name in ("type", "title", "code", "detail", "next", "request_id"):
        assert told[name], (name, told)
    assert told["status"] == status
    assert answer.headers["pratai-request-id"] == told["request_id"]
    assert not LEAKS.search(answer.body), answer.body
    assert len(answer.body) < 4_096, "a refusal need not repeat what was sent"
    if code:
        assert told["code"] == code, told
    return told


# the invoke path


def post(*lines: bytes, body: bytes = b"1", path: bytes = CALL) -> Callable[[str], bytes]:
    """A call with these header lines; the key is added when it is sent."""

    def build(key: str) -> bytes:
        size = (
            []
            if any(b"transfer-encoding" in line for line in lines)
            else [b"content-length: %d" % len(body)]
        )
        return head(b"POST", path, *lines, *size, key=key) + body

    return build


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (*parts, b""))


DEEP = b"[" * 200_000
#: {name: (request, status, code, field)}
CALLS: dict[str, tuple[Callable[[str], bytes], int, str, str]] = {
    "json cut short": (post(JSON, body=b'{"a": '), 400, "invalid_json", "body"),
    "json with a trailing comma": (post(JSON, body=b"[1,]"), 400, "invalid_json", "body"),
    "json of two values": (post(JSON, body=b"1 2"), 400, "invalid_json", "body"),
    "json of NaN": (post(JSON, body=b"NaN"), 400, "invalid_json", "body"),
    "json nested without end": (post(JSON, body=DEEP), 400, "invalid_json", "body"),
    "json not UTF-8": (post(JSON, body=b'"\xff\xfe"'), 400, "invalid_json", "body"),
    "json by suffix": (
        post(b"content-type: application/vnd.x+json; charset=utf-8", body=b"{"),
        400,
        "invalid_json",
        "body",
    ),
    "too large as declared": (
        lambda key: head(b"POST", CALL, JSON, b"content-length: 99999999999", key=key) + b"[",
        413,
        "payload_too_large",
        "body",
    ),
    "too large in chunks": (
        post(JSON, b"transfer-encoding: chunked", body=chunked(*[b" " * MIB] * 8)),
        413,
        "payload_too_large",
        "body",
    ),
    "too large for async": (
        post(JSON, b"prefer: respond-async", body=b" " * (MIB + 1)),
        413,
        "payload_too_large",
        "body",
    ),
    "timeout of words": (post(JSON, b"pratai-timeout-ms: abc"), 400, "", "Pratai-Timeout-Ms"),
    "timeout below zero": (post(JSON, b"pratai-timeout-ms: -1"), 400, "", "Pratai-Timeout-Ms"),
    "timeout of nothing": (post(JSON, b"pratai-timeout-ms: 0"), 400, "", "Pratai-Timeout-Ms"),
    "timeout empty": (post(JSON, b"pratai-timeout-ms:"), 400, "", "Pratai-Timeout-Ms"),
    "timeout huge": (
        post(JSON, b"pratai-timeout-ms: " + b"9" * 6_000),
        400,
        "",
        "Pratai-Timeout-Ms",
    ),
    "timeout of many zeros": (
        post(JSON, b"pratai-timeout-ms: " + b"0" * 6_000 + b"5"),
        400,
        "",
        "Pratai-Timeout-Ms",
    ),
    "timeout async": (
        post(JSON, b"prefer: respond-async", b"pratai-timeout-ms: 1.5"),
        400,
        "",
        "Pratai-Timeout-Ms",
    ),
    "idempotency key long": (
        post(JSON, b"idempotency-key: " + b"k" * 300),
        400,
        "",
        "Idempotency-Key",
    ),
    "idempotency key empty": (post(JSON, b"idempotency-key:"), 400, "", "Idempotency-Key"),
    "idempotency key not ASCII": (
        post(JSON, b"idempotency-key: \xff\xfe", b"prefer: respond-async"),
        400,
        "",
        "Idempotency-Key",
    ),
    "idempotency key of 1 MiB": (
        post(JSON, b"idempotency-key: " + b"k" * MIB),
        431,
        "head_too_large",
        "",
    ),
    "headers of 1 MiB": (
        post(JSON, *[b"x-%d: " % n + b"v" * 1_000 for n in range(1_000)]),
        431,
        "head_too_large",
        "",
    ),
    "path of 1 MiB": (post(JSON, path=b"/" + b"a" * MIB), 431, "head_too_large", ""),
    "namespace bad": (post(JSON, b"pratai-namespace: a/b"), 400, "", "namespace"),
    "namespace empty": (post(JSON, b"pratai-namespace:"), 400, "", "Pratai-Namespace"),
    "namespace without it": (post(JSON, b"pratai-namespace: other"), 404, "not_found", ""),
    "query unknown": (post(JSON, path=CALL + b"?qualifer=1"), 400, "", "qualifer"),
    "qualifier unknown": (post(JSON, path=CALL + b"?qualifier=none"), 404, "not_found", ""),
    "qualifier nonsense": (post(JSON, path=CALL + b"?qualifier=%00%ff"), 404, "", ""),
    "function unknown": (
        post(JSON, path=b"/v1/functions/nobody/invocations"),
        404,
        "not_found",
        "",
    ),
    "name with a slash": (
        post(JSON, path=b"/v1/functions/a%2Fb/invocations"),
        404,
        "not_found",
        "",
    ),
    "name of dots": (post(JSON, path=b"/v1/functions/../invocations"), 404, "", ""),
    "name with NUL": (post(JSON, path=b"/v1/functions/a%00b/invocations"), 404, "", ""),
    "name not UTF-8": (post(JSON, path=b"/v1/functions/%ff%fe/invocations"), 404, "", ""),
    "name long": (
        post(JSON, path=b"/v1/functions/" + b"a" * 5_000 + b"/invocations"),
        404,
        "",
        "",
    ),
    "path up and out": (
        post(JSON, path=b"/../../../../etc/passwd"),
        404,
        "not_found",
        "",
    ),
    "path up and out, encoded": (
        post(JSON, path=b"/console/..%2f..%2f..%2fetc%2fpasswd"),
        404,
        "not_found",
        "",
    ),
    "path raw bytes": (post(JSON, path=b"/v1/\xff\xfe"), 400, "bad_request", ""),
    "http of another kind": (lambda _: b"\x16\x03\x01\x02\x00\x01\x00\xff\xff", 400, "", ""),
    "http line by hand": (lambda _: b"HELLO\r\n\r\n", 400, "bad_request", ""),
    "http of two lengths": (
        post(JSON, b"content-length: 9", b"content-length: 1"),
        400,
        "bad_request",
        "",
    ),
    "http length not a number": (
        lambda key: head(b"POST", CALL, JSON, b"content-length: many", key=key),
        400,
        "",
        "",
    ),
    "http chunk size nonsense": (
        post(JSON, b"transfer-encoding: chunked", body=b"zz\r\n1\r\n0\r\n\r\n"),
        400,
        "",
        "",
    ),
    "http length and chunks": (
        lambda key: (
            head(b"POST", CALL, JSON, b"content-length: 4", b"transfer-encoding: chunked", key=key)
            + chunked(b"1")
        ),
        400,
        "bad_request",
        "",
    ),
    "http header with NUL": (post(JSON, b"x-y: a\x00b"), 400, "bad_request", ""),
    "http header without a name": (post(JSON, b": value"), 400, "bad_request", ""),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_call_is_refused(served: PlatformProcess, name: str) -> None:
    build, status, code, field = CALLS[name]

    told = check_problem(exchange(served.url, build(served.key)), status, code)

    if field:
        assert told["field"] == field, told


GOOD_CALLS: dict[str, Callable[[str], bytes]] = {
    "trace garbage is ignored": post(JSON, b"traceparent: " + b"\xff" * 2_000),
    "prefer garbage is ignored": post(JSON, b"prefer: " + b"x" * 2_000),
    "a hundred header lines": post(JSON, *[b"x-line-%d: v" % n for n in range(100)]),
    "chunks": post(JSON, b"transfer-encoding: chunked", body=chunked(b"[1,", b"2]")),
    "expect continue": post(JSON, b"expect: 100-continue"),
    "an upgrade nobody offers": post(JSON, b"connection: upgrade", b"upgrade: websocket"),
}


@pytest.mark.parametrize("name", GOOD_CALLS)
def test_an_odd_but_correct_call_is_served(served: PlatformProcess, name: str) -> None:
    request = GOOD_CALLS[name](served.key)
    with connect(served.url) as connection:
        connection.sendall(request)
        answer = RawAnswer(read_answer(connection))
    assert answer.status == 200, answer


# keys


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Bearer " + "x" * 8_000,
        "Basic YWRtaW46YWRtaW4=",
        "Bearer \x7fé",
        "bearer pratai_" + "A" * 43,
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/functions/echo/invocations"),
        ("POST", "/v1/functions/nobody/invocations"),
        ("GET", "/v1/functions"),
        ("GET", "/v1/functions/nobody"),
        ("DELETE", "/v1/functions/echo"),
        ("PUT", "/v1/functions/echo"),
        ("GET", "/v1/invocations?bogus=1"),
        ("POST", "/v1/keys"),
        ("GET", "/fn/closed/"),
        ("GET", "/fn/nobody/"),
    ],
)
def test_without_the_right_key_nothing_is_done_or_told(
    served: PlatformProcess, method: str, path: str, authorization: str
) -> None:
    lines = [b"authorization: " + authorization.encode("latin-1")] if authorization else []
    request = head(method.encode(), path.encode(), *lines, b"content-length: 0")
    if "\x7f" in authorization:
        assert exchange(served.url, request).status in (400, 401)
        return
    answer = exchange(served.url, request)
    told = check_problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert "nobody" not in told["detail"]


def test_a_key_reaches_its_own_namespace_alone(served: PlatformProcess) -> None:
    made = served.request(
        "POST",
        "/v1/keys",
        body=json.dumps({"label": "guest"}).encode(),
        headers={"content-type": "application/json", "pratai-namespace": "guests"},
    )
    assert made.status == 201, made
    guest = {"authorization": f"Bearer {made.json()['key']}"}
    json_type = {"content-type": "application/json"}
    request_id = served.invoke("echo", 1).headers["pratai-request-id"]
    for path in ("/v1/functions/echo", f"/v1/invocations/{request_id}"):
        check_problem(served.request("GET", path, headers=guest), 404, "not_found")
    called = served.request("POST", CALL.decode(), body=b"1", headers={**guest, **json_type})
    check_problem(called, 404, "not_found")
    assert served.request("GET", "/v1/functions", headers=guest).json()["items"] == []
    named = {**guest, "pratai-namespace": "default"}
    for method, path in (("GET", "/v1/functions"), ("POST", CALL.decode())):
        answer = served.request(method, path, body=b"", headers={**named, **json_type})
        check_problem(answer, 403, "forbidden")
    check_problem(
        served.request("POST", "/v1/keys", body=b"{}", headers={**guest, **json_type}), 403
    )


# the rest of the API

#: {name: (method, path, body, content type, status, words of detail or next)}
REQUESTS: dict[str, tuple[str, str, bytes, str, int, str]] = {
    "method": ("PATCH", "/v1/functions/echo", b"", "", 405, "GET"),
    "method on calls": ("GET", "/v1/functions/echo/invocations", b"", "", 405, "POST"),
    "method unknown": ("BREW", "/v1/functions", b"", "", 400, ""),
    "path": ("GET", "/v2/functions", b"", "", 404, ""),
    "path of many slashes": ("GET", "/" * 3_000, b"", "", 404, ""),
    "limit of words": ("GET", "/v1/functions?limit=many", b"", "", 400, "1 to 500"),
    "limit too large": ("GET", "/v1/functions?limit=501", b"", "", 400, "1 to 500"),
    "limit of digits": ("GET", "/v1/functions?limit=" + "9" * 5_000, b"", "", 400, "1 to 500"),
    "limit twice": ("GET", "/v1/functions?limit=1&limit=2", b"", "", 400, "once"),
    "query nearly right": ("GET", "/v1/functions?limmit=1", b"", "", 400, "limit"),
    "cursor": ("GET", "/v1/invocations?cursor=%00", b"", "", 400, ""),
    "moment": ("GET", "/v1/invocations?since=yesterday", b"", "", 400, "RFC 3339"),
    "moment out of range": ("GET", "/v1/invocations?since=9999-99-99T00:00:00Z", b"", "", 400, ""),
    "outcome nearly right": ("GET", "/v1/invocations?outcome=succeded", b"", "", 400, "succeeded"),
    "search of operators": ("GET", "/v1/invocations?search=%22*%28%29%20NEAR", b"", "", 200, ""),
    "search of quotes": ("GET", "/v1/invocations?search=';DROP%20TABLE%20x;--", b"", "", 200, ""),
    "invocation unknown": ("GET", "/v1/invocations/nothing", b"", "", 404, ""),
    "alias name": ("PUT", "/v1/functions/echo/aliases/7", b"{}", "application/json", 400, ""),
    "alias without version": (
        "PUT",
        "/v1/functions/echo/aliases/live",
        b"{}",
        "application/json",
        400,
        "version",
    ),
    "alias with more": (
        "PUT",
        "/v1/functions/echo/aliases/live",
        b'{"version":"1","vresion":"2"}',
        "application/json",
        400,
        "version",
    ),
    "alias of a version that is not": (
        "PUT",
        "/v1/functions/echo/aliases/live",
        b'{"version":"999"}',
        "application/json",
        404,
        "999",
    ),
    "body not JSON": (
        "POST",
        "/v1/functions/echo/rollback",
        b"{",
        "application/json",
        400,
        "JSON",
    ),
    "body a list": ("POST", "/v1/functions/echo/rollback", b"[]", "application/json", 400, ""),
    "body nested without end": (
        "POST",
        "/v1/functions/echo/rollback",
        DEEP,
        "application/json",
        400,
        "",
    ),
    "body too large": (
        "POST",
        "/v1/functions/echo/rollback",
        b" " * (2 * MIB),
        "application/json",
        413,
        "bytes",
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_wrong_request_is_refused(served: PlatformProcess, name: str) -> None:
    method, path, body, kind, status, words = REQUESTS[name]
    lines = [b"content-type: " + kind.encode()] if kind else []
    size = b"content-length: %d" % len(body)
    request = head(method.encode(), path.encode(), *lines, size, key=served.key) + body

    answer = exchange(served.url, request)

    if status == 200:
        assert answer.status == 200, answer
        return
    told = check_problem(answer, status)
    assert words in told["detail"] + told["next"] + str(told.get("allowed")), told
    if status == 405:
        assert answer.headers["allow"]


# deployments


def zipped(*files: tuple[str | zipfile.ZipInfo, bytes], compress: bool = True) -> bytes:
    out = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w", kind) as archive:
        for name, data in files:
            archive.writestr(name, data, kind)
    return out.getvalue()


def link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


MAIN = ("main.py", ECHO.encode())
GOOD_ZIP = zipped(MAIN)

#: {name: (config, package, statuses, field or "", words of detail, next or allowed)}
DEPLOYMENTS: dict[str, tuple[bytes, bytes, tuple[int, ...], str, str]] = {
    "field nearly right": (b'{"memory_md": 1}', GOOD_ZIP, (400, 422), "memory_md", "memory_mb"),
    "field of another type": (b'{"memory_mb": "much"}', GOOD_ZIP, (400, 422), "memory_mb", ""),
    "field out of range": (b'{"timeout_ms": 900001}', GOOD_ZIP, (400, 422), "timeout_ms", "900000"),
    "field below zero": (b'{"retries": -1}', GOOD_ZIP, (400, 422), "retries", ""),
    "field huge": (b'{"retries": 1e400}', GOOD_ZIP, (400, 422), "", ""),
    "environment of numbers": (b'{"environment": {"A": 1}}', GOOD_ZIP, (400, 422), "", ""),
    "environment name": (b'{"environment": {"A=B": "1"}}', GOOD_ZIP, (400, 422), "", ""),
    "environment NUL": (b'{"environment": {"A": "\\u0000"}}', GOOD_ZIP, (400, 422), "", ""),
    "runtime nearly right": (b'{"runtime": "pyhton"}', GOOD_ZIP, (400, 422), "runtime", "python"),
    "handler nonsense": (b'{"handler": "../x:y"}', GOOD_ZIP, (400, 422), "handler", ""),
    "handler missing": (b'{"handler": "main:nothing"}', GOOD_ZIP, (400, 422), "handler", "main"),
    "config not JSON": (b"{", GOOD_ZIP, (400,), "config", "JSON"),
    "config a list": (b"[]", GOOD_ZIP, (400,), "config", ""),
    "config not UTF-8": (b'{"description": "\xff"}', GOOD_ZIP, (400,), "", ""),
    "package empty": (b"{}", b"", (400, 422), "", ""),
    "package nonsense": (b"{}", b"\x00\x01\x02" * 100, (400, 422), "", ""),
    "package of no function": (b"{}", zipped(("read.me", b"hi")), (400, 422), "", ""),
    "package with a syntax error": (b"{}", b"def main(:\n", (400, 422), "", ""),
    "zip cut short": (b"{}", GOOD_ZIP[: len(GOOD_ZIP) // 2], (400, 422), "", ""),
    "zip without an end": (b"{}", GOOD_ZIP[:-10], (400, 422), "", ""),
    "zip damaged": (
        b"{}",
        zipped(MAIN, compress=False).replace(b"payload", b"PAYLOAD", 1),
        (400, 422),
        "",
        "",
    ),
    "zip of nothing": (b"{}", zipped(), (400, 422), "", ""),
    "zip upwards": (b"{}", zipped(MAIN, ("../../evil.py", b"1")), (400, 422), "", "evil"),
    "zip absolute": (b"{}", zipped(MAIN, ("/etc/evil.py", b"1")), (400, 422), "", "evil"),
    "zip with backslashes": (b"{}", zipped(MAIN, ("..\\evil.py", b"1")), (400, 422), "", ""),
    "zip with a link": (b"{}", zipped(MAIN, (link("out"), b"/etc/passwd")), (400, 422), "", "out"),
    "zip with a link upwards": (
        b"{}",
        zipped(MAIN, (link("out"), b"../../x")),
        (400, 422),
        "",
        "out",
    ),
    "zip bomb": (b"{}", zipped(MAIN, ("zeros", bytes(600 * MIB))), (400, 413, 422), "", ""),
    "zip of many files": (
        b"{}",
        zipped(MAIN, *[(f"f{n}", b"") for n in range(70_000)], compress=False),
        (400, 413, 422),
        "",
        "",
    ),
}


def multipart(*parts: tuple[str, bytes], boundary: bytes = b"bound") -> bytes:
    body = b"".join(
        b'--%b\r\ncontent-disposition: form-data; name="%b"; filename="x"\r\n\r\n%b\r\n'
        % (boundary, name.encode(), data)
        for name, data in parts
    )
    return body + b"--%b--\r\n" % boundary


def put(name: str, body: bytes, kind: bytes, key: str) -> bytes:
    lines = (b"content-type: " + kind, b"content-length: %d" % len(body))
    return head(b"PUT", b"/v1/functions/" + name.encode(), *lines, key=key) + body


FORM = b"multipart/form-data; boundary=bound"


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_wrong_deployment_is_refused_and_changes_nothing(
    served: PlatformProcess, name: str
) -> None:
    config, package, statuses, field, words = DEPLOYMENTS[name]
    body = multipart(("config", config), ("package", package))

    answer = exchange(served.url, put("refused", body, FORM, served.key))

    assert answer.status in statuses, answer
    told = check_problem(answer, answer.status)
    if field:
        assert told["field"] == field, told
    assert words in told["detail"] + told["next"] + str(told.get("allowed")), told
    assert served.request("GET", "/v1/functions/refused").status == 404


#: {name: (function, body, content type, statuses)}
UPLOADS: dict[str, tuple[str, bytes, bytes, tuple[int, ...]]] = {
    "json": ("x", b"{}", b"application/json", (415,)),
    "no boundary": ("x", b"", b"multipart/form-data", (415,)),
    "boundary long": ("x", b"", b"multipart/form-data; boundary=" + b"b" * 5_000, (400, 415)),
    "empty": ("x", b"", FORM, (400,)),
    "nonsense": ("x", b"\x00" * 1_000, FORM, (400,)),
    "no end": ("x", multipart(("package", GOOD_ZIP))[:-9], FORM, (400,)),
    "no package": ("x", multipart(("config", b"{}")), FORM, (400,)),
    "part unknown": ("x", multipart(("pakage", GOOD_ZIP)), FORM, (400,)),
    "part twice": ("x", multipart(("package", b"1"), ("package", b"2")), FORM, (400,)),
    "many parts": ("x", multipart(*[("package", b"")] * 5_000), FORM, (400,)),
    "config too large": ("x", multipart(("config", b" " * (2 * MIB))), FORM, (413,)),
    "part headers without end": ("x", b"--bound\r\nx: " + b"a" * 300_000, FORM, (400, 413)),
    "name of dots": ("..", multipart(("package", GOOD_ZIP)), FORM, (400, 404)),
    "name of words": ("a%20b", multipart(("package", GOOD_ZIP)), FORM, (400,)),
    "name long": ("a" * 65, multipart(("package", GOOD_ZIP)), FORM, (400,)),
    "name not ASCII": ("%C3%A9", multipart(("package", GOOD_ZIP)), FORM, (400,)),
}


@pytest.mark.parametrize("name", UPLOADS)
def test_a_wrong_upload_is_refused(served: PlatformProcess, name: str) -> None:
    function, body, kind, statuses = UPLOADS[name]
    answer = exchange(served.url, put(function, body, kind, served.key))
    assert answer.status in statuses, answer
    check_problem(answer, answer.status)


def test_a_package_above_its_bound_is_refused_before_it_is_read(served: PlatformProcess) -> None:
    with connect(served.url) as connection:
        lines = (b"content-type: " + FORM, b"content-length: 999999999999")
        connection.sendall(head(b"PUT", b"/v1/functions/x", *lines, key=served.key))
        connection.sendall(b'--bound\r\ncontent-disposition: form-data; name="package"\r\n\r\nP')
        connection.settimeout(10)
        check_problem(RawAnswer(read_answer(connection)), 413, "payload_too_large")


# connections


def test_callers_that_leave_midway_cost_nothing(served: PlatformProcess) -> None:
    whole = post(JSON, body=b'{"a": 1}')(served.key)
    upload = put("left", multipart(("package", GOOD_ZIP)), FORM, served.key)
    for request in (whole, upload):
        for size in range(1, len(request), max(1, len(request) // 40)):
            with connect(served.url) as connection:
                connection.sendall(request[:size])
    assert served.request("GET", "/v1/functions/left").status == 404


def test_unfinished_requests_keep_nobody_else_waiting(served: PlatformProcess) -> None:
    whole = post(JSON, body=b'{"a": 1}')(served.key)
    slow = [connect(served.url) for _ in range(200)]
    try:
        for number, connection in enumerate(slow):
            connection.sendall(whole[: 20 + number % (len(whole) - 21)])
        for _ in range(20):
            began = time.monotonic()
            assert served.invoke("echo", 1).status == 200
            assert time.monotonic() - began < 5
        for number, connection in enumerate(slow):
            connection.sendall(whole[20 + number % (len(whole) - 21) :])
            assert RawAnswer(read_answer(connection)).status == 200
    finally:
        for connection in slow:
            connection.close()


def test_pipelined_calls_are_answered_in_order(served: PlatformProcess) -> None:
    calls = [post(JSON, body=b"%d" % number)(served.key) for number in range(50)]
    bad = post(JSON, body=b"{")(served.key)
    with connect(served.url) as connection:
        connection.sendall(b"".join([*calls[:25], bad, *calls[25:]]))
        data = b""
        while data.count(b"HTTP/1.1 ") < 51 or not data.endswith(b'{"got":49}'):
            more = connection.recv(65_536)
            assert more, data[-200:]
            data += more
    statuses = re.findall(rb"HTTP/1.1 (\d+)", data)
    assert statuses == [b"200"] * 25 + [b"400"] + [b"200"] * 25
    assert re.findall(rb'{"got":(\d+)}', data) == [b"%d" % number for number in range(50)]
