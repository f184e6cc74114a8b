"""HTTP/1.1 keep-alive connections over plain sockets, as lean as a client in Python can be.

`Connection` asks and waits; `OpenLoop` keeps to a schedule whatever the server does. Latency of
the latter counts from when a call was due, so that a slow server cannot hide its queue.
"""

from __future__ import annotations

import random
import selectors
import socket
import time
from collections import deque
from collections.abc import Iterator
from urllib.parse import urlsplit

from bench.wrk import BadAnswers, Target

CALL_S_MAX = 60.0
#: How long after the last due call answers are still waited for.
TAIL_S_MAX = 10.0


def request_bytes(target: Target) -> bytes:
    """The same request each time, as it goes over the wire."""
    parts = urlsplit(target.url)
    body = target.body.encode()
    headers = {
        "Host": parts.netloc,
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **target.headers,
    }
    lines = [f"POST {parts.path or '/'} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Answer:
    """Reads one answer out of the chunks in which it arrives."""

    def __init__(self) -> None:
        self.status = 0
        self.head = b""
        self.body = b""
        self._data = b""
        self._length = -1

    def feed(self, data: bytes) -> bool:
        """Add what arrived; True once the answer is whole."""
        self._data += data
        if self._length < 0:
            head, end, rest = self._data.partition(b"\r\n\r\n")
            if not end:
                return False
            self.head = head
            self.status = int(head[9:12])
            self._length = int(self.header("content-length") or "0")
            self._data = rest
        if len(self._data) < self._length:
            return False
        self.body = self._data
        return True

    def header(self, name: str) -> str:
        """A header's value; "" when there is none."""
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.decode().lower() == name:
                return value.strip().decode()
        return ""


def connect(target: Target) -> socket.socket:
    """A connection to the target's server."""
    parts = urlsplit(target.url)
    assert parts.hostname
    assert parts.port
    opened = socket.create_connection((parts.hostname, parts.port), timeout=CALL_S_MAX)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return opened


class Connection:
    """One connection that asks and waits. Answers other than 2xx raise `BadAnswers`."""

    def __init__(self, target: Target) -> None:
        self._socket = connect(target)

    def call(self, target: Target) -> tuple[float, Answer]:
        """One call: milliseconds from the first byte sent to the last received, and the answer."""
        request = request_bytes(target)
        answer = Answer()
        start = time.perf_counter()
        self._socket.sendall(request)
        while True:
            data = self._socket.recv(65_536)
            if not data:
                raise BadAnswers(f"{target.url}: the connection was closed")
            if answer.feed(data):
                break
        took_ms = (time.perf_counter() - start) * 1e3
        if not 200 <= answer.status < 300:
            raise BadAnswers(f"{target.url}: {answer.status} {answer.body!r}")
        return took_ms, answer

    def close(self) -> None:
        """Close it."""
        self._socket.close()


class OpenLoop:
    """Calls that become due at given times, sent over whichever connection is free.

    A call for which no connection is free waits, and its wait counts.
    """

    def __init__(self, target: Target, connections: int) -> None:
        self._request = request_bytes(target)
        self._expect = target.expect.encode()
        self._url = target.url
        self._selector = selectors.SelectSelector()
        self._idle: deque[socket.socket] = deque()
        #: {connection: (when its call was due, its answer so far)}.
        self._busy: dict[socket.socket, tuple[float, Answer]] = {}
        for _ in range(connections):
            opened = connect(target)
            opened.setblocking(False)
            self._selector.register(opened, selectors.EVENT_READ)
            self._idle.append(opened)
        self.answers: list[Answer] = []
        self.latencies_ms: list[float] = []

    def run(self, due: Iterator[float], *, keep_answers: bool = False) -> None:
        """Make a call at each due time, in seconds from now; return when all are answered."""
        begin = time.perf_counter()
        following = next(due, None)
        while following is not None or self._busy:
            now = time.perf_counter() - begin
            while self._idle and following is not None and following <= now:
                self._send(self._idle.popleft(), following)
                following = next(due, None)
            sleeping = bool(self._idle) and following is not None
            pause = max(0.0, (following or 0.0) - now) if sleeping else TAIL_S_MAX
            ready = self._selector.select(pause)
            if not ready and not sleeping:
                raise BadAnswers(f"{self._url}: no answer for {TAIL_S_MAX:.0f} s")
            for key, _ in ready:
                assert isinstance(key.fileobj, socket.socket)
                self._receive(key.fileobj, begin, keep_answers=keep_answers)

    def close(self) -> None:
        """Close every connection."""
        for opened in [*self._idle, *self._busy]:
            self._selector.unregister(opened)
            opened.close()
        self._selector.close()

    def _send(self, connection: socket.socket, due: float) -> None:
        self._busy[connection] = (due, Answer())
        connection.send(self._request)

    def _receive(self, connection: socket.socket, begin: float, *, keep_answers: bool) -> None:
        data = connection.recv(65_536)
        if not data:
            raise BadAnswers(f"{self._url}: the connection was closed")
        due, answer = self._busy[connection]
        if not answer.feed(data):
            return
        self.latencies_ms.append((time.perf_counter() - begin - due) * 1e3)
        if not 200 <= answer.status < 300 or (self._expect and answer.body != self._expect):
            raise BadAnswers(f"{self._url}: {answer.status} {answer.body!r}")
        if keep_answers:
            self.answers.append(answer)
        del self._busy[connection]
        self._idle.append(connection)


def at_once(count: int) -> Iterator[float]:
    """So many calls, each due now: a closed loop of as many as there are connections."""
    return iter([0.0] * count)


def until(seconds: float) -> Iterator[float]:
    """Calls that are always due, for so long: a closed loop measured by time."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        yield 0.0


def poisson(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Independent arrivals at a mean rate, the same ones for the same seed."""
    chance = random.Random(seed)
    due = chance.expovariate(rate)
    while due < seconds:
        yield due
        due += chance.expovariate(rate)
