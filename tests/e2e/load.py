"""A small HTTP load client in a process of its own: open loop (so many a second, whatever comes
back) or closed loop (so many callers, one call each at a time). Writes its figures as JSON.

The time of an open-loop call begins when it was due, so a client that falls behind shows it.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import deque
from typing import Any

#: Connections of one client; a call due when all are busy waits for one, and its time runs.
CONNECTIONS_MAX = 1_000
#: After the last call was due, answers are awaited this long.
PATIENCE_S = 30.0


def flow(**plan: Any) -> subprocess.Popen[bytes]:
    """Start a client. `url`, `key`, `path`, `seconds`, and `rate` (a second) or `callers`."""
    return subprocess.Popen(
        [sys.executable, __file__, json.dumps(plan)], stdout=subprocess.PIPE, close_fds=True
    )


def figures(client: subprocess.Popen[bytes]) -> Figures:
    """Wait for a client to end and read what it saw."""
    out, _ = client.communicate(timeout=180)
    assert client.returncode == 0
    return Figures(json.loads(out))


class Figures:
    """What a client saw."""

    def __init__(self, told: dict[str, Any]) -> None:
        #: [when it was due, status, ms, Retry-After, content type, bytes of its body]
        self.calls: list[tuple[float, int, float, int, str, int]] = [
            tuple(c) for c in told["calls"]
        ]
        self.broken: int = told["broken"]
        self.seconds: float = told["seconds"]

    def count(self, status: int) -> int:
        return sum(call[1] == status for call in self.calls)

    def rate(self, status: int = 200) -> float:
        return self.count(status) / self.seconds

    def ms(self, quantile: float, status: int = 200) -> float:
        return _quantile([call[2] for call in self.calls if call[1] == status], quantile)

    def windows_ms(self, quantile: float, window_s: float) -> float:
        """The median over windows of a quantile in each: one bad moment does not decide."""
        windows: dict[int, list[float]] = {}
        for due, status, ms, *_ in self.calls:
            if status == 200:
                windows.setdefault(int(due / window_s), []).append(ms)
        return _quantile([_quantile(window, quantile) for window in windows.values()], 0.5)

    @property
    def statuses(self) -> dict[int, int]:
        return {status: self.count(status) for status in sorted({call[1] for call in self.calls})}


def _quantile(values: list[float], quantile: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * quantile))] if ordered else 0.0


class Connection(asyncio.Protocol):
    """One keep-alive connection with one call under way at most."""

    def __init__(self) -> None:
        self.buffer = b""
        self.answer: asyncio.Future[tuple[int, int, str, int]] | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def call(self, request: bytes) -> asyncio.Future[tuple[int, int, str, int]]:
        self.answer = asyncio.get_running_loop().create_future()
        assert self.transport is not None
        self.transport.write(request)
        return self.answer

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, end, body = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return
        lines = head.split(b"\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in lines[1:])
        size = int(headers[b"content-length"])
        if len(body) < size:
            return
        self.buffer = body[size:]
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(
                (
                    int(lines[0].split(b" ")[1]),
                    int(headers.get(b"retry-after", b"0")),
                    headers.get(b"content-type", b"").decode(),
                    size,
                )
            )

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(exc or ConnectionResetError("closed before the answer"))


class Client:
    """Runs one plan."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        host, port = plan["url"].removeprefix("http://").split(":")
        self.address = (host, int(port))
        body = json.dumps(plan.get("event")).encode()
        head = (
            f"POST {plan['path']} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {plan['key']}"
            f"\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        )
        if plan.get("prefer"):
            head += f"prefer: {plan['prefer']}\r\n"
        self.request = head.encode() + b"\r\n" + body
        self.free: deque[Connection] = deque()
        self.room = asyncio.Semaphore(plan.get("connections", CONNECTIONS_MAX))
        self.calls: list[tuple[float, int, float, int, str, int]] = []
        self.broken = 0
        self.began = 0.0

    async def run(self) -> dict[str, Any]:
        self.began = time.perf_counter()
        work = self._closed() if "callers" in self.plan else self._open()
        await work
        return {"calls": self.calls, "broken": self.broken, "seconds": self.plan["seconds"]}

    async def _open(self) -> None:
        rate, seconds = self.plan["rate"], self.plan["seconds"]
        tasks: set[asyncio.Task[None]] = set()
        sent = 0
        while (passed := time.perf_counter() - self.began) < seconds:
            for number in range(sent, int(passed * rate) + 1):
                task = asyncio.create_task(self._call(number / rate))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                sent += 1
            await asyncio.sleep(0.001)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=PATIENCE_S)
            self.broken += len(late)

    async def _closed(self) -> None:
        async def caller() -> None:
            while (passed := time.perf_counter() - self.began) < self.plan["seconds"]:
                await self._call(passed)

        await asyncio.gather(*(caller() for _ in range(self.plan["callers"])))

    async def _call(self, due: float) -> None:
        async with self.room:
            try:
                connection = self.free.pop() if self.free else await self._connect()
                status, retry_after, kind, size = await connection.call(self.request)
            except (OSError, AssertionError):
                self.broken += 1
                return
        ms = (time.perf_counter() - self.began - due) * 1_000
        self.calls.append((due, status, ms, retry_after, kind, size))
        if connection.transport is not None:
            self.free.append(connection)

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, *self.address)
        return connection


if __name__ == "__main__":
    json.dump(asyncio.run(Client(json.loads(sys.argv[1])).run()), sys.stdout)
