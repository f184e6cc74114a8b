"""A server that speaks the shapes of the native API, and a way to run one command against it.

It decides nothing: a test says what is answered, and looks at what was asked.
"""

from __future__ import annotations

import io
import re
import sys
import threading
from collections.abc import Callable, Iterator
from email.message import Message
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
import pytest

from pratai.cli.main import run

KEY = "pratai_test-key"


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    #: Which connection it came over.
    connection: int

    def json(self) -> object:
        return msgspec.json.decode(self.body)

    def parts(self) -> dict[str, Message]:
        head = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode()
        message = BytesParser().parsebytes(head + self.body)
        return {
            str(part.get_param("name", header="content-disposition")): part
            for part in message.get_payload()
        }


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """An answer; `chunks` is sent chunked, and broken off before its end when `broken`."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = {}
    chunks: list[bytes] | None = None
    broken: bool = False
    #: Held back until it is set, before the last chunk.
    gate: threading.Event | None = None


def json_reply(value: object, status: int = 200, **headers: str) -> Reply:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Reply(
        status=status,
        body=msgspec.json.encode(value),
        headers={"content-type": "application/json", **named},
    )


def problem_reply(status: int, **fields: object) -> Reply:
    document = {
        "type": f"urn:pratai:problem:{fields.get('code', 'bad_request')}",
        "title": "A problem",
        "status": status,
        "code": "bad_request",
        "detail": "It is wrong.",
        "fault": "caller",
        "next": "Do it right.",
        **fields,
    }
    return Reply(
        status=status,
        body=msgspec.json.encode(document),
        headers={"content-type": "application/problem+json"},
    )


FUNCTION = {
    "namespace": "default",
    "name": "hello",
    "version": "3",
    "digest": "ab" * 32,
    "package_bytes": 2048,
    "layer": "",
    "created_at_ms": 1_700_000_000_000,
    "updated_at_ms": 1_700_000_060_000,
    "state": "active",
    "url": "http://127.0.0.1:9996/fn/hello",
    "runtime": "python3.11",
    "handler": "main:main",
    "description": "",
    "memory_mb": 256,
    "timeout_ms": 30_000,
    "concurrency_max": None,
    "environment": {"STAGE": "test"},
    "secrets": [],
    "network": "outbound",
    "tmp_mb": 512,
    "retries": 2,
    "retry_backoff_ms": 1_000,
    "event_age_max_ms": 21_600_000,
    "on_success": "",
    "on_failure": "",
    "public": False,
    "keep_warm": 0,
    "labels": {},
    "aliases": {},
}
INVOCATION = {
    "request_id": "r-1",
    "function": "hello",
    "version": "3",
    "qualifier": "",
    "mode": "sync",
    "trigger": "http",
    "state": "done",
    "outcome": "succeeded",
    "attempt": 1,
    "attempts_max": 1,
    "accepted_at_ms": 1_700_000_000_000,
    "finished_at_ms": 1_700_000_000_012,
    "duration_ms": 12.0,
    "queue_ms": 0.1,
    "start_ms": 8.0,
    "run_ms": 3.9,
    "start_kind": "cold",
    "cold_reason": "first call",
    "node_id": "node-1",
    "instance_id": "i-1",
    "idempotency_key": "",
    "trace": "",
    "content_type": "application/json",
    "event": {"name": "Ada"},
    "event_encoding": "json",
    "result": "Hello Ada",
    "result_encoding": "json",
    "result_content_type": "application/json",
    "failure": None,
    "timeline": [
        {"name": "accepted", "at_ms": 1_700_000_000_000, "offset_ms": 0},
        {"name": "started", "at_ms": 1_700_000_000_008, "offset_ms": 8, "attempt": 1},
        {"name": "ran", "at_ms": 1_700_000_000_012, "offset_ms": 12, "attempt": 1},
    ],
    "replay_of": "",
    "dead": False,
}
FAILURE = {
    "code": "function_error",
    "fault": "function",
    "error_type": "ZeroDivisionError",
    "error_message": "division by zero",
    "stack": ['  File "main.py", line 2, in main', "    return 1 / 0"],
    "next": "Mend main.py.",
}


def function_view(**changed: object) -> dict[str, object]:
    return {**FUNCTION, **changed}


def invocation_view(**changed: object) -> dict[str, object]:
    return {**INVOCATION, **changed}


def failed_view(**changed: object) -> dict[str, object]:
    return invocation_view(outcome="failed", failure=FAILURE, result=None, **changed)


def log_view(sequence: int, text: str, level: str = "INFO") -> dict[str, object]:
    return {
        "at_ms": 1_700_000_000_000 + sequence,
        "level": level,
        "text": text,
        "function": "hello",
        "version": "3",
        "request_id": "r-1",
        "instance_id": "i-1",
        "sequence": sequence,
    }


def log_lines(*records: dict[str, object]) -> Reply:
    body = b"".join(msgspec.json.encode(record) + b"\n" for record in records)
    return Reply(body=body, headers={"content-type": "application/x-ndjson"})


class FakeApi:
    """What is asked and answered. Of several answers to one path, the last is repeated."""

    reply = Reply
    json = staticmethod(json_reply)
    problem = staticmethod(problem_reply)
    function = staticmethod(function_view)
    invocation = staticmethod(invocation_view)
    failed = staticmethod(failed_view)
    log = staticmethod(log_view)
    logs = staticmethod(log_lines)
    failure = FAILURE
    key = KEY

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self._replies: dict[tuple[str, str], list[Reply | Callable[[Asked], Reply]]] = {}
        self.url = ""
        self.changed = threading.Condition()

    def on(self, method: str, path: str, *replies: Reply | Callable[[Asked], Reply]) -> None:
        self._replies[method, path] = list(replies)

    def answer(self, asked: Asked) -> Reply:
        with self.changed:
            self.asked.append(asked)
            self.changed.notify_all()
            waiting = self._replies.get((asked.method, asked.path))
            if waiting is None:
                return problem_reply(404, code="not_found", detail=f"No {asked.path}.")
            reply = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        return reply(asked) if callable(reply) else reply

    def only(self, method: str, path: str) -> Asked:
        found = [item for item in self.asked if (item.method, item.path) == (method, path)]
        assert len(found) == 1, [(item.method, item.path) for item in self.asked]
        return found[0]

    def wait_for(self, wanted: Callable[[list[Asked]], bool], seconds: float = 10.0) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: wanted(self.asked), seconds), self.asked


class Handler(BaseHTTPRequestHandler):
    """Reads a request, asks the `FakeApi`, writes the answer."""

    protocol_version = "HTTP/1.1"
    api: FakeApi

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _any(self) -> None:
        length = int(self.headers.get("content-length", "0"))
        parts = urlsplit(self.path)
        asked = Asked(
            method=self.command,
            path=unquote(parts.path),
            query=dict(parse_qsl(parts.query)),
            headers={name.lower(): value for name, value in self.headers.items()},
            body=self.rfile.read(length),
            connection=self.client_address[1],
        )
        self._write(self.api.answer(asked))

    do_GET = do_POST = do_PUT = do_DELETE = _any

    def _write(self, reply: Reply) -> None:
        self.send_response_only(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.chunks is None:
            self.send_header("content-length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)
            return
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for index, chunk in enumerate(reply.chunks):
            if reply.gate is not None and index == len(reply.chunks) - 1:
                reply.gate.wait(10)
            self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        if reply.broken:
            self.close_connection = True
            return
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Quiet."""


@pytest.fixture
def api() -> Iterator[FakeApi]:
    fake = FakeApi()
    handler = type("BoundHandler", (Handler,), {"api": fake})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.block_on_close = False
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield fake
    server.shutdown()
    server.server_close()
    thread.join()


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """How a command ended."""

    code: int
    out: bytes
    err: str

    def json(self) -> object:
        return msgspec.json.decode(self.out)

    def lines(self) -> list[object]:
        return [msgspec.json.decode(line) for line in self.out.splitlines()]

    @property
    def text(self) -> str:
        """Without the escape codes of a terminal."""
        return re.sub(r"\x1b\[[0-9;]*m", "", self.out.decode())


Pratai = Callable[..., Ran]


@pytest.fixture
def pratai(
    api: FakeApi,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
    tmp_path_factory: pytest.TempPathFactory,
) -> Pratai:
    """`pratai("functions", "--json")` runs one command; `terminal=True` as if typed in one."""
    home = tmp_path_factory.mktemp("home")
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "HOME"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("PRATAI_SERVER", api.url)
    monkeypatch.setenv("PRATAI_KEY", KEY)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm-256color")

    def command(*arguments: str, stdin: bytes | None = None, terminal: bool = False) -> Ran:
        capsysbinary.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin or b"")))
            code = run(arguments)
        captured = capsysbinary.readouterr()
        return Ran(code=code, out=captured.out, err=captured.err.decode())

    return command
