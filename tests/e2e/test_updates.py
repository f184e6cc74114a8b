"""Updates under load: no call fails, and each answer is of a version current during that call.

`PRATAI_UPDATES` sets how many updates (25 by default).
"""

from __future__ import annotations

import os
import threading
import time
from typing import Self

from platform_process import Answer, PlatformProcess

UPDATES = int(os.environ.get("PRATAI_UPDATES", "25"))
CLIENTS = 6


class Callers:
    """Call one function all the time; remember when each call began and ended, and its answer."""

    def __init__(self, platform: PlatformProcess, name: str) -> None:
        self._platform = platform
        self._name = name
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(CLIENTS)]
        self.calls: list[tuple[float, float, Answer]] = []
        self.errors: list[Exception] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                answer = self._platform.invoke(self._name, 0)
            except Exception as error:
                self.errors.append(error)
                return
            self.calls.append((began, time.monotonic(), answer))


def test_updates_under_load_fail_no_call_and_never_answer_an_old_version(
    own_platform: PlatformProcess,
) -> None:
    own_platform.start()
    sent, answered = {}, {}

    def deploy(number: int) -> None:
        sent[number] = time.monotonic()
        own_platform.deploy("evolving", f"def main(payload):\n    return {number}\n")
        answered[number] = time.monotonic()

    deploy(0)
    assert own_platform.invoke("evolving", 0).json() == 0
    with Callers(own_platform, "evolving") as callers:
        for number in range(1, UPDATES + 1):
            deploy(number)
            seen = len(callers.calls)
            limit = time.monotonic() + 10
            while len(callers.calls) < seen + CLIENTS and time.monotonic() < limit:
                time.sleep(0.005)

    assert callers.errors == []
    failed = [answer for _, _, answer in callers.calls if answer.status != 200]
    print(f"updates={UPDATES} calls={len(callers.calls)} failed={len(failed)}")
    assert failed == []
    for began, ended, answer in callers.calls:
        number = answer.json()
        assert sent[number] <= ended, f"version {number} answered before it was sent"
        replaced = answered.get(number + 1, float("inf"))
        assert began <= replaced, f"version {number} answered a call begun after it was replaced"
    assert {answer.json() for _, _, answer in callers.calls} >= set(range(1, UPDATES + 1))
