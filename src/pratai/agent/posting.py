"""One HTTP POST to somebody's URL. Blocking, called in threads; says what came of it.

urllib3 in threads, because it is a dependency already and deliveries are few and slow: a thread
each costs less than a second HTTP client would. An address is looked up once, judged, and connected
to as judged, so that a name cannot answer differently the second time. Redirects are not followed,
proxies and the environment not asked.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
from datetime import UTC
from email.utils import parsedate_to_datetime
from fnmatch import fnmatchcase
from http.client import HTTPException
from typing import Self
from urllib.parse import urlsplit

import msgspec
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

#: Of an answer so much is read, for the failure's text.
ANSWER_BYTES_MAX = 2_048
ANSWER_CHARS_SHOWN = 200


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a POST: a status, or (0) why there is none."""

    status: int = 0
    detail: str = ""
    #: How long the destination asks to be left alone.
    retry_after_ms: int = 0
    #: The destination does not exist any more: trying again is of no use.
    final: bool = False

    @property
    def delivered(self) -> bool:
        """Whether the destination took it."""
        return 200 <= self.status < 300


def post(
    url: str,
    body: bytes,
    headers: dict[str, str],
    *,
    timeout_s: float,
    hosts: str,
    private: bool,
    now_ms: int,
) -> Answer:
    """Send, and read the head of the answer."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if not any(fnmatchcase(host, pattern.strip().lower()) for pattern in hosts.split(",")):
        return Answer(detail=f"{host} is none of the hosts that [agent] deliver_hosts allows")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        return Answer(detail=f"the host {host} was not found: {error.strerror or error}")
    addresses = [str(entry[4][0]) for entry in found]
    allowed = [address for address in addresses if private or is_public(address)]
    if not allowed:
        return Answer(
            detail=f"{host} is at {addresses[0]}, which is private; [agent] deliver_private is no"
        )
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection = _connection(parts.scheme, host, allowed[0], port=port, timeout_s=timeout_s)
    try:
        with _Limit(connection, timeout_s) as limit:
            return _answer(connection, target, body, headers | {"host": parts.netloc}, now_ms)
    except (urllib3.exceptions.HTTPError, HTTPException, OSError, ValueError) as error:
        reason = "it took too long" if limit.passed else _reason(error)
        return Answer(detail=f"{host} did not answer: {reason}")
    finally:
        connection.close()


class _Limit:
    """Cuts a connection off when its time has passed, however slowly the other side goes on.

    A socket's own timeout begins anew with every byte.
    """

    def __init__(self, connection: HTTPConnection, timeout_s: float) -> None:
        self._connection = connection
        self._timer = threading.Timer(timeout_s, self._cut)
        self._timer.daemon = True
        #: Whether it was cut off.
        self.passed = False

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _cut(self) -> None:
        self.passed = True
        opened = self._connection.sock
        if opened is not None:
            with contextlib.suppress(OSError):  # it ended at this moment
                opened.shutdown(socket.SHUT_RDWR)


def _connection(
    scheme: str, host: str, address: str, *, port: int, timeout_s: float
) -> HTTPConnection:
    """To an address, as the host that its owner named."""
    if scheme == "https":
        return HTTPSConnection(
            address, port, timeout=timeout_s, assert_hostname=host, server_hostname=host
        )
    return HTTPConnection(address, port, timeout=timeout_s)


def is_public(address: str) -> bool:
    """Whether an address is one of the open network, not of this machine or a private one."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        embedded = parsed.ipv4_mapped or parsed.sixtofour
        if embedded is not None:
            parsed = embedded
        elif parsed in _NAT64:
            parsed = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
    return parsed.is_global and not parsed.is_multicast


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def _answer(
    connection: HTTPConnection, target: str, body: bytes, headers: dict[str, str], now_ms: int
) -> Answer:
    connection.request(
        "POST", target, body=body, headers=headers, preload_content=False, decode_content=False
    )
    response = connection.getresponse()
    text = response.read(ANSWER_BYTES_MAX).decode("utf-8", "replace")
    retry_after = response.headers.get("retry-after", "")
    shown = " ".join(text.split())[:ANSWER_CHARS_SHOWN]
    return Answer(
        status=response.status,
        detail=f"it answered {response.status}{': ' + shown if shown else ''}",
        retry_after_ms=asked_wait_ms(retry_after, now_ms),
        final=response.status == 410,
    )


def asked_wait_ms(retry_after: str, now_ms: int) -> int:
    """What `Retry-After` asks for, seconds or a date; 0 when it says nothing that is understood."""
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return int(text[:9]) * 1_000
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return 0
    aware = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return max(0, int(aware.timestamp() * 1_000) - now_ms)


def _reason(error: Exception) -> str:
    """The cause of an error, without the names of classes and objects."""
    refused = isinstance(error, urllib3.exceptions.NewConnectionError)  # a kind of timeout, there
    if isinstance(error, urllib3.exceptions.TimeoutError) and not refused:
        return "it took too long"
    reason: BaseException = error
    while reason.__cause__ is not None or isinstance(reason.__context__, OSError):
        reason = reason.__cause__ or reason.__context__ or reason
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror.lower()
    return str(reason)
