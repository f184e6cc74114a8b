"""Restarts under load, clean and by SIGKILL: no event is lost, no answer is wrong or made up.

`PRATAI_RESTARTS` sets how many of each (2 by default).
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import Counter
from pathlib import Path

import urllib3
from platform_process import PlatformProcess

RESTARTS = int(os.environ.get("PRATAI_RESTARTS", "2"))
CLIENTS = 4
#: A client gives one event up after this long of 503 and closed doors.
PATIENCE_S = 60.0

#: Notes each run in a file before it answers, so that what ran can be counted.
RECORDER = """
import os, uuid
def handler(event, context):
    run = uuid.uuid4().hex
    fd = os.open(os.environ["RECORD"], os.O_WRONLY | os.O_APPEND)
    os.write(fd, f"{event} {run}\\n".encode())
    os.close(fd)
    return [event, run]
"""


class Callers:
    """Clients that send one event after the other and try each again until it is answered."""

    def __init__(self, platform: PlatformProcess, *, prefix: str, keyed: bool = False) -> None:
        self._platform = platform
        self._prefix = prefix
        self._keyed = keyed
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._send, args=(n,)) for n in range(CLIENTS)]
        self._count = 0
        #: {event: its answer} of sync calls, {event: request id} of async ones.
        self.answered: dict[str, list[str]] = {}
        self.accepted: dict[str, str] = {}
        #: What came that was neither an answer nor a reason to try again.
        self.wrong: list[str] = []
        self.retried: Counter[str] = Counter()

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _send(self, number: int) -> None:
        pool = urllib3.PoolManager(retries=False, timeout=PATIENCE_S)
        while not self._stopping.is_set():
            with self._lock:
                self._count += 1
                event = f"{self._prefix}{self._count}"
            self._send_until_answered(pool, event, is_async=not self._keyed and number % 2 == 0)

    def _send_until_answered(
        self, pool: urllib3.PoolManager, event: str, *, is_async: bool
    ) -> None:
        headers = {
            "authorization": f"Bearer {self._platform.key}",
            "content-type": "application/json",
        }
        if is_async or self._keyed:
            headers["idempotency-key"] = event
        if is_async:
            headers["prefer"] = "respond-async"
        url = f"{self._platform.url}/v1/functions/recorder/invocations"
        limit = time.monotonic() + PATIENCE_S
        while time.monotonic() < limit:
            try:
                answer = pool.request("POST", url, body=json.dumps(event), headers=headers)
            except urllib3.exceptions.HTTPError as error:
                self.retried[type(error).__name__] += 1
                time.sleep(0.05)
                continue
            if answer.status == 503:
                self.retried["503"] += 1
                assert int(answer.headers["retry-after"]) >= 1
                time.sleep(0.05)
            elif answer.status == 200 and not is_async:
                self.answered[event] = json.loads(answer.data)
                return
            elif answer.status == 202 and is_async:
                self.accepted[event] = json.loads(answer.data)["request_id"]
                return
            else:
                self.wrong.append(f"{event}: {answer.status} {answer.data[:500]!r}")
                return
        self.wrong.append(f"{event}: no answer in {PATIENCE_S} s")


def test_a_clean_restart_under_load_loses_nothing(own_platform: PlatformProcess) -> None:
    record = _deploy_recorder(own_platform)
    callers = Callers(own_platform, prefix="c")
    callers.start()
    codes = []
    for _ in range(RESTARTS):
        time.sleep(0.5)
        codes.append(own_platform.stop())
        own_platform.start()
    time.sleep(0.5)
    callers.stop()

    assert codes == [0] * RESTARTS
    runs = _check(own_platform, callers, record)
    twice = {event: found for event, found in runs.items() if len(found) > 1}
    assert not any(event in callers.accepted for event in twice), "a clean stop ran events twice"


def test_kill_9_under_load_with_keys_answers_each_key_once(own_platform: PlatformProcess) -> None:
    chance = random.Random(1)
    record = _deploy_recorder(own_platform)
    callers = Callers(own_platform, prefix="k", keyed=True)
    callers.start()
    for _ in range(RESTARTS):
        time.sleep(chance.uniform(0.3, 0.8))
        own_platform.kill_tree()
        own_platform.start()
    time.sleep(0.5)
    callers.stop()

    _check(own_platform, callers, record)
    for event in list(callers.answered)[-50:]:
        again = own_platform.invoke("recorder", event, idempotency_key=event)
        assert again.json() == callers.answered[event]


def _check(platform: PlatformProcess, callers: Callers, record: Path) -> dict[str, list[str]]:
    """Every event ran, and every answer is of a run of its own event."""
    done = {event: platform.wait_done(name, 60.0) for event, name in callers.accepted.items()}
    runs: dict[str, list[str]] = {}
    for line in record.read_text().splitlines():
        event, run = line.split()
        runs.setdefault(event, []).append(run)
    print(
        f"restarts={RESTARTS} answered={len(callers.answered)} accepted={len(callers.accepted)} "
        f"runs={sum(map(len, runs.values()))} retried={dict(callers.retried)} "
        f"wrong={len(callers.wrong)}"
    )
    assert callers.wrong == []
    assert len(callers.answered) + len(callers.accepted) > 20 * RESTARTS
    for event, (name, run) in callers.answered.items():
        assert name == event
        assert run in runs.get(event, []), f"{event} was answered and never ran"
    for event, found in done.items():
        assert found["outcome"] == "succeeded", found
        assert found["result"][0] == event, json.dumps(found)
        assert found["result"][1] in runs[event]
    return runs


def _deploy_recorder(platform: PlatformProcess) -> Path:
    shared = Path(f"/var/tmp/pratai-restart-{os.getpid()}")
    shared.mkdir(mode=0o755, exist_ok=True)
    record = shared / f"{platform.directory.name}.txt"
    record.write_text("")
    record.chmod(0o666)
    platform.start()
    platform.deploy("recorder", RECORDER, environment={"RECORD": str(record)})
    platform.invoke("recorder", "warm")
    return record
