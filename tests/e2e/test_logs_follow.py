"""`follow=true`: log lines as they are written, to several readers; readers that leave are gone."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from platform_process import PlatformProcess
from raw_http import connect, head

TALKER = """
import time
def main(payload):
    print(f"begin {payload['word']}")
    time.sleep(payload["seconds"])
    print(f"end {payload['word']}")
    return "done"
"""


class Follower:
    """Reads server-sent events in a thread of its own."""

    def __init__(self, platform: PlatformProcess, name: str, query: str = "") -> None:
        self._connection = connect(platform.url, 30)
        path = f"/v1/functions/{name}/logs?follow=true{query}".encode()
        self._connection.sendall(head(b"GET", path, key=platform.key))
        self.records: list[tuple[float, dict[str, Any]]] = []
        self.began = threading.Event()
        self.head = b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        assert self.began.wait(10)

    def _read(self) -> None:
        with self._connection.makefile("rb") as lines:
            for line in lines:
                if not self.began.is_set():
                    self.head += line
                if line.startswith(b": following"):
                    self.began.set()
                if line.startswith(b"data: "):
                    self.records.append((time.monotonic(), json.loads(line[6:])))

    def wait(self, text: str, limit_s: float = 10) -> float:
        """When the record with this text arrived."""
        limit = time.monotonic() + limit_s
        while True:
            for at, record in list(self.records):
                if record["text"] == text:
                    return at
            assert time.monotonic() < limit, (text, self.records)
            time.sleep(0.01)

    def leave(self) -> None:
        self._connection.shutdown(2)
        self._connection.close()
        self._thread.join(5)


@contextmanager
def following(platform: PlatformProcess, count: int, query: str = "") -> Iterator[list[Follower]]:
    followers = [Follower(platform, "talker", query) for _ in range(count)]
    try:
        yield followers
    finally:
        for follower in followers:
            follower.leave()


def test_a_line_is_seen_by_all_followers_while_its_call_still_runs(
    platform: PlatformProcess,
) -> None:
    platform.deploy("talker", TALKER)
    platform.invoke("talker", {"word": "warm", "seconds": 0})
    with following(platform, 5) as followers:
        assert b"text/event-stream" in followers[0].head
        ended: list[float] = []

        def call() -> None:
            answer = platform.invoke("talker", {"word": "live", "seconds": 2})
            assert answer.json() == "done"
            ended.append(time.monotonic())

        caller = threading.Thread(target=call)
        caller.start()
        seen = [follower.wait("begin live") for follower in followers]
        assert not ended, "the line came after the call"
        caller.join()
        assert max(seen) < ended[0] - 0.5
        for follower in followers:
            follower.wait("end live")
            texts = [record["text"] for _, record in follower.records]
            assert texts.count("begin live") == texts.count("end live") == 1


def test_followers_that_leave_make_room_for_others(platform: PlatformProcess) -> None:
    platform.deploy("talker", TALKER)
    for _ in range(4):
        with following(platform, 100):
            pass
    limit = time.monotonic() + 10
    with following(platform, 100) as followers:
        platform.invoke("talker", {"word": "again", "seconds": 0})
        for follower in followers:
            follower.wait("end again", limit - time.monotonic() + 10)


def test_a_follower_goes_on_where_it_stopped(platform: PlatformProcess) -> None:
    platform.deploy("talker", TALKER)
    platform.invoke("talker", {"word": "one", "seconds": 0})
    with following(platform, 1) as (first,):
        first.wait("end one")
        last = max(record["sequence"] for _, record in first.records)
    platform.invoke("talker", {"word": "two", "seconds": 0})
    with following(platform, 1, f"&after={last}") as (second,):
        second.wait("end two")
        texts = [record["text"] for _, record in second.records]
    assert texts == ["begin two", "end two"]
