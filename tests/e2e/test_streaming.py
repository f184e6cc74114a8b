"""Streams at their edges: failures midway, readers that are slow, readers that leave."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import pytest
import urllib3
from platform_process import PlatformProcess
from raw_http import connect, head
from test_overload import rss_mb

CHUNK_MB = 1
#: What the gateway may hold for one reader that does not read, and what else may grow meanwhile.
HELD_MB_MAX = 64
SLACK_MB = 64

BREAKS = """
import os, time
def main(payload):
    yield "first\\n"
    time.sleep(0.2)
    if payload == "raise":
        raise ValueError("midway")
    if payload == "exit":
        os._exit(3)
    if payload == "sleep":
        time.sleep(60)
    yield "last\\n"
"""
FLOOD = f"""
def main(payload):
    part = b"x" * {CHUNK_MB << 20}
    for _ in range(payload):
        yield part
"""
#: Writes the time of its last chunk to a file as long as it goes on.
TICKER = """
import os, time
def main(payload):
    while True:
        fd = os.open(os.environ["RECORD"], os.O_WRONLY | os.O_TRUNC)
        os.write(fd, str(time.time()).encode())
        os.close(fd)
        yield "tick\\n"
        time.sleep(0.05)
"""


def open_stream(platform: PlatformProcess, name: str, event: object) -> socket.socket:
    body = json.dumps(event).encode()
    lines = (b"content-type: application/json", b"content-length: %d" % len(body))
    connection = connect(platform.url, 30)
    path = f"/v1/functions/{name}/invocations".encode()
    connection.sendall(head(b"POST", path, *lines, key=platform.key) + body)
    return connection


@pytest.mark.parametrize("how", ["raise", "exit", "sleep"])
def test_a_stream_that_fails_midway_is_broken_off_and_never_looks_whole(
    platform: PlatformProcess, how: str
) -> None:
    platform.deploy("breaks", BREAKS, timeout_ms=2_000)
    response = platform.pool.request(
        "POST",
        f"{platform.url}/v1/functions/breaks/invocations",
        body=json.dumps(how).encode(),
        headers={"authorization": f"Bearer {platform.key}", "content-type": "application/json"},
        preload_content=False,
    )
    assert response.status == 200
    assert response.read1(6) == b"first\n"
    with pytest.raises(urllib3.exceptions.ProtocolError):
        response.read()

    request_id = response.headers["pratai-request-id"]
    why = _wait_for(platform, f"/v1/invocations/{request_id}")
    assert why["outcome"] == {"raise": "failed", "exit": "crashed", "sleep": "timed_out"}[how]
    whole = platform.invoke("breaks", "go on")
    assert whole.body == b"first\nlast\n"


def _wait_for(platform: PlatformProcess, path: str) -> dict[str, str]:
    limit = time.monotonic() + 10
    while (answer := platform.request("GET", path)).status != 200:
        assert time.monotonic() < limit, answer
        time.sleep(0.05)
    return answer.json()


def test_a_reader_that_does_not_read_costs_a_bounded_share_of_memory(
    own_platform: PlatformProcess,
) -> None:
    own_platform.start()
    own_platform.deploy("flood", FLOOD, timeout_ms=30_000)
    assert len(own_platform.invoke("flood", 20).body) == 20 * CHUNK_MB << 20
    assert own_platform.process is not None
    pid = own_platform.process.pid
    before_mb = most_mb = rss_mb(pid)
    with open_stream(own_platform, "flood", 1_000) as connection:
        assert connection.recv(4_096).startswith(b"HTTP/1.1 200 ")
        limit = time.monotonic() + 5
        while time.monotonic() < limit:
            most_mb = max(most_mb, rss_mb(pid))
            time.sleep(0.05)
    print(f"\nrss before={before_mb:.0f} MB most={most_mb:.0f} MB")
    assert most_mb - before_mb < 2 * HELD_MB_MAX + SLACK_MB
    assert own_platform.invoke("flood", 1).status == 200


def test_many_readers_that_do_not_read_are_bounded_together(own_platform: PlatformProcess) -> None:
    own_platform.settings = [f"gateway.waiting_bytes_max={64 << 20}"]
    own_platform.start()
    own_platform.deploy("flood", FLOOD, timeout_ms=30_000)
    own_platform.invoke("flood", 20)
    assert own_platform.process is not None
    pid = own_platform.process.pid
    before_mb = most_mb = rss_mb(pid)
    readers = [open_stream(own_platform, "flood", 60) for _ in range(12)]
    limit = time.monotonic() + 5
    while time.monotonic() < limit:
        most_mb = max(most_mb, rss_mb(pid))
        time.sleep(0.05)
    for reader in readers:
        reader.close()
    print(f"\nrss before={before_mb:.0f} MB most={most_mb:.0f} MB")
    assert most_mb - before_mb < 3 * HELD_MB_MAX + SLACK_MB
    assert own_platform.invoke("flood", 1).status == 200


def test_a_reader_that_leaves_ends_the_function_and_frees_its_place(
    platform: PlatformProcess,
) -> None:
    shared = Path(f"/var/tmp/pratai-stream-{os.getpid()}")
    shared.mkdir(mode=0o755, exist_ok=True)
    record = shared / "ticks.txt"
    record.write_text("")
    record.chmod(0o666)
    platform.deploy("ticker", TICKER, concurrency_max=1, environment={"RECORD": str(record)})
    for _ in range(3):
        with open_stream(platform, "ticker", None) as connection:
            seen = b""
            while b"tick" not in seen:
                more = connection.recv(4_096)
                assert more, seen
                seen += more
        left = time.time()
        limit = time.monotonic() + 10
        while True:
            time.sleep(0.3)
            last = float(record.read_text() or 0)
            if time.time() - last > 0.25:
                break
            assert time.monotonic() < limit, "the function goes on for nobody"
        assert last - left < 5


def test_a_reader_at_its_own_pace_gets_every_byte(platform: PlatformProcess) -> None:
    platform.deploy("flood", FLOOD, timeout_ms=30_000)
    with open_stream(platform, "flood", 24) as connection:
        data = b""
        while not data.endswith(b"0\r\n\r\n"):
            more = connection.recv(256 << 10)
            assert more, len(data)
            data += more
            time.sleep(0.002)
    assert data.partition(b"\r\n\r\n")[2].count(b"x") == 24 * CHUNK_MB << 20


def test_a_web_endpoint_joins_what_a_generator_yields(platform: PlatformProcess) -> None:
    platform.deploy(
        "parts",
        "import time\ndef main(payload):\n    for n in range(3):\n        yield f'{n}\\n'\n        time.sleep(0.1)\n",
        public=True,
    )
    answer = platform.pool.request("GET", f"{platform.url}/fn/parts/", timeout=20)
    assert answer.status == 200
    assert answer.data == b"0\n1\n2\n"


def test_a_web_caller_that_hangs_up_frees_its_place(platform: PlatformProcess) -> None:
    source = "import time\ndef main(payload):\n    time.sleep('slow' in str(payload) and 25)\n    return 'done'\n"
    platform.deploy("page", source, public=True, concurrency_max=1)
    assert platform.request("GET", "/fn/page/").status == 200
    with connect(platform.url) as connection:
        connection.sendall(head(b"GET", b"/fn/page/slow"))
        time.sleep(0.5)
    began = time.monotonic()
    assert platform.request("GET", "/fn/page/").status == 200
    assert time.monotonic() - began < 10
