"""`kill -9` of the whole tree at random moments: what was answered 202 runs, and the file is sound.

`PRATAI_KILLS` sets how many rounds (3 by default, any number on demand); `PRATAI_SEED` the seed.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from pathlib import Path

import urllib3
from platform_process import PlatformProcess

ROUNDS = int(os.environ.get("PRATAI_KILLS", "3"))
SEED = int(os.environ.get("PRATAI_SEED", "1"))
CLIENTS = 4
ATTEMPTS_MAX = 3

RECORDER = """
import os, fcntl
def handler(event, context):
    line = f"{event} {context.attempt}\\n".encode()
    fd = os.open(os.environ["RECORD"], os.O_WRONLY | os.O_APPEND)
    os.write(fd, line)
    os.close(fd)
    return event
"""


class Clients:
    """Send async events until told to stop; remember what was answered 202."""

    def __init__(self, platform: PlatformProcess) -> None:
        self._platform = platform
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self.accepted: dict[str, str] = {}
        self.sent = 0

    def start(self) -> None:
        self._stopping.clear()
        self._threads = [threading.Thread(target=self._send) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        pool = urllib3.PoolManager(retries=False, timeout=5)
        headers = {
            "authorization": f"Bearer {self._platform.key}",
            "content-type": "application/json",
            "prefer": "respond-async",
        }
        url = f"{self._platform.url}/v1/functions/recorder/invocations"
        while not self._stopping.is_set():
            with self._lock:
                self.sent += 1
                event = f"e{self.sent}"
            try:
                answer = pool.request("POST", url, body=json.dumps(event), headers=headers)
            except urllib3.exceptions.HTTPError:
                return
            if answer.status == 202:
                with self._lock:
                    self.accepted[event] = json.loads(answer.data)["request_id"]


def test_no_accepted_event_is_lost_to_kill_9(own_platform: PlatformProcess) -> None:
    chance = random.Random(SEED)
    record = _record_file(own_platform.directory)
    own_platform.start()
    own_platform.deploy("recorder", RECORDER, environment={"RECORD": str(record)})
    own_platform.invoke("recorder", "warm")
    clients = Clients(own_platform)
    for _ in range(ROUNDS):
        clients.start()
        time.sleep(chance.uniform(0.05, 0.6))
        own_platform.kill_tree()
        clients.stop()
        assert own_platform.store_problem() == ""
        own_platform.start()
    _wait_until_idle(own_platform)

    runs: dict[str, int] = {}
    for line in record.read_text().splitlines():
        event = line.split()[0]
        runs[event] = runs.get(event, 0) + 1
    lost = [event for event in clients.accepted if event not in runs]
    twice = sum(count - 1 for event, count in runs.items() if event in clients.accepted)
    print(
        f"kills={ROUNDS} accepted={len(clients.accepted)} lost={len(lost)} duplicates={twice} "
        f"most_runs={max(runs.values())}"
    )
    assert len(clients.accepted) > 10 * ROUNDS
    assert lost == []
    assert max(count for event, count in runs.items() if event != "warm") <= ATTEMPTS_MAX + ROUNDS
    for request_id in list(clients.accepted.values())[:: max(1, len(clients.accepted) // 200)]:
        assert own_platform.invocation(request_id)["outcome"] == "succeeded"


def _record_file(directory: Path) -> Path:
    """A file that instances of any user may append to."""
    shared = Path(f"/var/tmp/pratai-record-{os.getpid()}")
    shared.mkdir(mode=0o755, exist_ok=True)
    record = shared / f"{directory.name}.txt"
    record.write_text("")
    record.chmod(0o666)
    return record


def _wait_until_idle(platform: PlatformProcess) -> None:
    limit = time.monotonic() + 120
    while True:
        queued = platform.request("GET", "/v1/invocations?state=queued&limit=1")
        leased = platform.request("GET", "/v1/invocations?state=leased&limit=1")
        if (
            queued.status == leased.status == 200
            and not queued.json()["items"]
            and not leased.json()["items"]
        ):
            return
        assert time.monotonic() < limit, queued
        time.sleep(0.1)
