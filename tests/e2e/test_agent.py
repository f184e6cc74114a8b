"""The agent of a real platform: timers over `kill -9`, files, outcomes delivered to URLs."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from platform_process import PlatformProcess

EVERY_MS = 250
KILLS = 3
ECHO = "def main(payload):\n    return payload\n"
BROKEN = "def main(payload):\n    raise ValueError('broken')\n"


def put(platform: PlatformProcess, name: str, **trigger: Any) -> Any:
    answer = platform.request(
        "PUT",
        f"/v1/triggers/{name}",
        body=json.dumps(trigger).encode(),
        headers={"content-type": "application/json"},
    )
    assert answer.status in (200, 201), answer
    return answer.json()


def state(platform: PlatformProcess, name: str) -> Any:
    return platform.request("GET", f"/v1/triggers/{name}").json()["state"]


def invocations(platform: PlatformProcess, function: str) -> list[Any]:
    found: list[Any] = []
    cursor = ""
    while True:
        path = f"/v1/invocations?function={function}&limit=100"
        page = platform.request("GET", path + (f"&cursor={cursor}" if cursor else "")).json()
        found += page["items"]
        cursor = page.get("next_cursor", "")
        if not cursor:
            return found


def wait_until(fact: Callable[[], bool], limit_s: float = 30.0) -> None:
    limit = time.monotonic() + limit_s
    while not fact():
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_a_timer_runs_at_each_of_its_times_once_whatever_is_killed(
    own_platform: PlatformProcess,
) -> None:
    chance = random.Random(7)
    own_platform.start()
    own_platform.deploy("tick", ECHO)
    put(
        own_platform,
        "beat",
        function="tick",
        timer={"every_ms": EVERY_MS, "missed": "all"},
    )
    for _ in range(KILLS):
        time.sleep(chance.uniform(1.0, 2.0))
        own_platform.kill_tree()
        time.sleep(chance.uniform(0.0, 1.0))
        own_platform.start()
    time.sleep(1.0)
    own_platform.request("POST", "/v1/triggers/beat/pause")

    def settled() -> bool:
        runs = invocations(own_platform, "tick")
        known = state(own_platform, "beat")["runs"]
        return len(runs) == known and all(run["state"] == "done" for run in runs)

    wait_until(settled)
    runs = [own_platform.invocation(run["request_id"]) for run in invocations(own_platform, "tick")]
    due = sorted(run["event"]["due_at_ms"] for run in runs)
    assert due == list(range(due[0], due[-1] + 1, EVERY_MS)), "each time once, none left out"
    assert len(due) > 10
    assert {run["trigger"] for run in runs} == {"timer:beat"}
    assert state(own_platform, "beat")["failures"] == 0


def test_a_file_runs_a_function_and_is_moved(own_platform: PlatformProcess, tmp_path: Path) -> None:
    inbox, done = tmp_path / "in", tmp_path / "done"
    inbox.mkdir()
    own_platform.settings.append(f"agent.folders={tmp_path}")
    own_platform.start()
    own_platform.deploy("scan", ECHO)
    folder = {"path": str(inbox), "settle_ms": 100, "after": "move", "move_to": str(done)}
    put(own_platform, "scans", function="scan", folder=folder)

    for number in range(5):
        (inbox / f"{number}.txt").write_text(f"text {number}")
    wait_until(lambda: done.exists() and len(list(done.iterdir())) == 5)
    wait_until(lambda: len(invocations(own_platform, "scan")) == 5)

    assert list(inbox.iterdir()) == []
    assert state(own_platform, "scans")["runs"] == 5


def test_a_folder_that_nobody_opened_is_told_as_a_failure(
    own_platform: PlatformProcess, tmp_path: Path
) -> None:
    own_platform.start()
    own_platform.deploy("scan", ECHO)
    put(own_platform, "scans", function="scan", folder={"path": str(tmp_path)})

    wait_until(lambda: state(own_platform, "scans")["failures"] == 1)

    assert "[agent] folders" in state(own_platform, "scans")["last_failure"]


def test_an_outcome_reaches_a_url_that_was_down(own_platform: PlatformProcess) -> None:
    received: list[tuple[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append((self.headers["webhook-id"], json.loads(body)))
            self.send_response(500 if len(received) == 1 else 204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        own_platform.settings.append("agent.deliver_private=yes")
        own_platform.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/failed"
        own_platform.deploy("broken", BROKEN, on_failure=url, retries=0)
        request_id = own_platform.invoke_async("broken", {"a": 1})
        wait_until(lambda: len(received) == 2)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

    assert received[0] == received[1], "the same delivery, under the same id"
    document = received[1][1]
    assert document["request_id"] == request_id
    assert (document["function"], document["outcome"]) == ("broken", "failed")
    assert document["event"] == {"a": 1}
