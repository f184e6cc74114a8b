"""HTTP to a Pratai server: one keep-alive pool, problems turned into errors. No output here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec
import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
)

from pratai import __version__
from pratai.errors import Fault, InvalidField, PlatformError, PrataiError

T = TypeVar("T")
Query = Mapping[str, str | int | bool | None]

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 60.0
#: A sync call may take 15 minutes; the server answers at its deadline, so this is only a net.
CALL_TIMEOUT_S = 960.0
JSON_BODY = {"Content-Type": "application/json"}
_CHUNK_BYTES = 64 * 1024


class ServerProblem(PrataiError):
    """An error that the server told as a problem document, kept whole in `document`."""

    def __init__(self, document: dict[str, object], status: int) -> None:
        super().__init__(
            _text(document, "detail") or _text(document, "title") or f"HTTP status {status}.",
            next_step=_text(document, "next"),
            code=_text(document, "code") or "internal",
            status=status,
        )
        self.document = document
        self.fault = _fault(document, status)
        self.request_id = _text(document, "request_id")
        self.error_type = _text(document, "error_type")
        self.error_message = _text(document, "error_message")
        stack = document.get("stack")
        self.stack = [str(line) for line in stack] if isinstance(stack, list) else []


class ServerUnreachable(PlatformError):
    """Nothing answers at the server's address, or the connection broke."""

    code = "server_unreachable"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer. Header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Stream:
    """An answer whose body is read as it arrives."""

    def __init__(self, response: urllib3.BaseHTTPResponse, server: str) -> None:
        self._response = response
        self._server = server
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        #: Whether the body was read to its end.
        self.whole = False

    def chunks(self) -> Iterator[bytes]:
        """The body in the pieces it comes in."""
        with _mapped(self._server):
            yield from self._response.stream(_CHUNK_BYTES, decode_content=False)
        self.whole = True

    def lines(self) -> Iterator[bytes]:
        """The body's lines, each as soon as it is whole."""
        rest = b""
        with _mapped(self._server):
            while chunk := self._response.read1(_CHUNK_BYTES):
                *whole, rest = (rest + chunk).split(b"\n")
                yield from whole
        self.whole = True
        if rest:
            yield rest


class Client:
    """Requests to one server with one key."""

    def __init__(
        self, *, server: str, key: str, namespace: str = "", patience_s: float | None = None
    ) -> None:
        self.server = normalized(server)
        self.has_key = bool(key)
        #: Overrides all timeouts; for questions that must not hold anybody up.
        self._patience_s = patience_s
        self._headers = {"User-Agent": f"pratai-cli/{__version__}"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        if namespace:
            self._headers["Pratai-Namespace"] = namespace
        self._pool = urllib3.PoolManager(num_pools=1, maxsize=2, retries=False)

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | Iterable[bytes] | None = None,
        timeout_s: float = READ_TIMEOUT_S,
    ) -> Answer:
        """The whole answer; raises `ServerProblem` for a status of 400 and above."""
        with self.open(
            method, path, query=query, headers=headers, body=body, timeout_s=timeout_s
        ) as stream:
            content = b"".join(stream.chunks())
            return Answer(status=stream.status, headers=stream.headers, body=content)

    @contextmanager
    def open(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | Iterable[bytes] | None = None,
        timeout_s: float = READ_TIMEOUT_S,
    ) -> Iterator[Stream]:
        """An answer to be read as it arrives; raises as `request` does."""
        patience_s = self._patience_s
        timeout = urllib3.Timeout(
            connect=patience_s or CONNECT_TIMEOUT_S, read=patience_s or timeout_s
        )
        with _mapped(self.server):
            response = self._pool.urlopen(
                method,
                self.server + path + _query_string(query),
                headers={**self._headers, **(headers or {})},
                body=body,
                timeout=timeout,
                redirect=False,
                preload_content=False,
            )
        stream = Stream(response, self.server)
        try:
            if response.status >= 400:
                raise problem_of(response.status, b"".join(stream.chunks()))
            yield stream
        finally:
            # A body left half read would be taken for the next answer's head.
            if stream.whole:
                response.release_conn()
            else:
                response.close()

    def get(self, path: str, type_: type[T], query: Query | None = None) -> tuple[T, bytes]:
        """The answer decoded, and its bytes as they came."""
        body = self.request("GET", path, query=query).body
        return decode(body, type_), body


def decode(body: bytes, type_: type[T]) -> T:
    """The value in `body`; what cannot be read is the server's fault."""
    try:
        return msgspec.json.decode(body, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PlatformError(
            f"The server's answer is not what this version of pratai understands: {error}.",
            next_step="Use the same version of pratai on both sides: `pratai --version`.",
            code="answer_not_understood",
        ) from error


def problem_of(status: int, body: bytes) -> ServerProblem:
    """The error that an answer tells, whether or not it is a problem document."""
    try:
        document = msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = body[:200].decode("utf-8", "replace").strip()
        document = {"title": f"HTTP status {status}", "status": status, "detail": text}
    return ServerProblem(document, status)


def route(*parts: str) -> str:
    """A path below `/v1` with each part quoted."""
    return "/v1/" + "/".join(quote(part, safe="$") for part in parts)


def normalized(server: str) -> str:
    """`host:port` gets `http://`; what is no address is refused."""
    text = server if "://" in server else f"http://{server}"
    parts = urlsplit(text)
    try:
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise InvalidField(
            f"{server!r} is not the address of a server.",
            next_step="Write it like http://127.0.0.1:9996.",
            field="server",
            value=server,
        )
    return text.rstrip("/")


@contextmanager
def _mapped(server: str) -> Iterator[None]:
    """urllib3's errors as ours."""
    try:
        yield
    except (NewConnectionError, ConnectTimeoutError) as error:
        raise ServerUnreachable(
            f"No server answers at {server}.",
            next_step="Start one with `pratai up`, or name another with --server.",
        ) from error
    except ReadTimeoutError as error:
        raise ServerUnreachable(
            f"The server at {server} took the request but did not answer in time.",
            next_step="Try again; `pratai doctor` tells whether the server is well.",
            code="server_timeout",
        ) from error
    except ProtocolError as error:
        raise ServerUnreachable(
            f"The connection to {server} broke before the answer was whole.",
            next_step="Try again; `pratai doctor` tells whether the server is well.",
            code="connection_broken",
        ) from error
    except HTTPError as error:
        raise ServerUnreachable(
            f"Talking to {server} failed: {error}.",
            next_step="Check the address given with --server or PRATAI_SERVER.",
        ) from error


def _query_string(query: Query | None) -> str:
    if not query:
        return ""
    pairs = {
        name: ("true" if value is True else str(value))
        for name, value in query.items()
        if value not in (None, "", False)
    }
    return "?" + urlencode(pairs) if pairs else ""


def _text(document: dict[str, object], name: str) -> str:
    value = document.get(name)
    return value if isinstance(value, str) else ""


_FAULTS: dict[object, Fault] = {
    "caller": "caller",
    "function": "function",
    "platform": "platform",
}
_FUNCTION_CODES = frozenset({"function_error", "timed_out", "function_crashed"})


def _fault(document: dict[str, object], status: int) -> Fault:
    """Whose fault it is: as told, else by code and status."""
    told = _FAULTS.get(document.get("fault"))
    if told is not None:
        return told
    if document.get("code") in _FUNCTION_CODES:
        return "function"
    return "caller" if status < 500 else "platform"
