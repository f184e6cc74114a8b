"""One HTTP POST to somebody's URL. Blocking, called in threads; says what came of it.

urllib3 in threads, because it is a dependency already and deliveries are few and slow: a thread
each costs less than a second HTTP client would. An address is looked up once, judged, and connected
to as judged, so that a name cannot answer differently the second time. Redirects are not followed,
proxies and the environment not asked.
"""

from __future__ import annotations

import ipaddress
import socket
from datetime import UTC
from email.utils import parsedate_to_datetime
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

import msgspec
import urllib3

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
    timeout = urllib3.Timeout(total=timeout_s)
    pool: urllib3.HTTPConnectionPool
    if parts.scheme == "https":
        pool = urllib3.HTTPSConnectionPool(
            allowed[0],
            port,
            timeout=timeout,
            retries=False,
            assert_hostname=host,
            server_hostname=host,
        )
    else:
        pool = urllib3.HTTPConnectionPool(allowed[0], port, timeout=timeout, retries=False)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    with pool:
        try:
            return _answer(pool, target, body, headers | {"host": parts.netloc}, now_ms)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            return Answer(detail=f"{host} did not answer: {_reason(error)}")


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
    pool: urllib3.HTTPConnectionPool, target: str, body: bytes, headers: dict[str, str], now_ms: int
) -> Answer:
    response = pool.urlopen(
        "POST",
        target,
        body=body,
        headers=headers,
        redirect=False,
        preload_content=False,
        decode_content=False,
    )
    try:
        text = response.read(ANSWER_BYTES_MAX).decode("utf-8", "replace")
        retry_after = response.headers.get("retry-after", "")
    finally:
        response.close()
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
