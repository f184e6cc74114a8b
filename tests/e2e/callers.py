"""Callers that go on calling, one request each at a time, while a test does something to a server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import urllib3

WAIT_S_MAX = 60.0


class Callers:
    """Threads that make requests until told to stop; `call(method, name)` answers the status."""

    def __init__(self, call: Callable[[str, str], int], *methods: str, count: int = 8) -> None:
        self._call = call
        self._stopped = threading.Event()
        #: {request: (method, status; 0 = the connection broke)}
        self.answers: dict[str, tuple[str, int]] = {}
        self._threads = [
            threading.Thread(
                target=self._run, args=(number, methods[number % len(methods)]), daemon=True
            )
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, caller: int, method: str) -> None:
        count = 0
        while not self._stopped.is_set():
            count += 1
            name = f"{caller}-{count}"
            try:
                self.answers[name] = (method, self._call(method, name))
            except urllib3.exceptions.HTTPError:
                self.answers[name] = (method, 0)

    def wait_for(self, more: int) -> None:
        """Let so many further requests be answered."""
        goal, limit = len(self.answers) + more, time.monotonic() + WAIT_S_MAX
        while len(self.answers) < goal:
            assert time.monotonic() < limit, f"{len(self.answers)} of {goal}"
            time.sleep(0.01)

    def stop(self) -> dict[str, tuple[str, int]]:
        """Stop; the requests that did not get a 200."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(WAIT_S_MAX)
        return {name: told for name, told in self.answers.items() if told[1] != 200}
