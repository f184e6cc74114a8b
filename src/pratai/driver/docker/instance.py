"""An instance in a container: reached through the zygote that forked it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from pratai.driver.base import InstanceSpec, Listener
from pratai.driver.instance import Instance
from pratai.driver.zygote import Zygote
from pratai.wire import frames

_ANSWERS = frozenset({frames.RESULT, frames.ERROR, frames.RETURNED})


class DockerInstance(Instance):
    """See `driver/instance.py`. `on_answer()` is called whenever it may have become idle."""

    def __init__(
        self,
        spec: InstanceSpec,
        *,
        listener: Listener,
        zygote: Zygote,
        on_gone: Callable[[Any], None],
        on_answer: Callable[[], None],
    ) -> None:
        super().__init__(spec, listener=listener, zygote=zygote, on_gone=on_gone)
        #: Events sent and not answered, and one for its start.
        self.unanswered = 1
        self._on_answer = on_answer

    def begun(self, pidfd: int) -> None:
        """Its zygote has forked it. Takes over the pidfd, which tells its id as seen from here."""
        self.pid = _pid_here(pidfd)
        os.close(pidfd)

    def send(self, frame: bytes) -> None:
        """Write a frame to it."""
        if frame[0] == frames.EVENT:
            self.unanswered += 1
        super().send(frame)

    def signal(self, number: int) -> None:
        """Signal its main process, if that still runs."""
        self.zygote.signal(self.instance_id, number)

    def signal_all(self, number: int) -> None:
        """Signal its main process and everything below it."""
        self.zygote.signal(self.instance_id, number, tree=True)

    def end_now(self) -> None:
        """Kill its main process; the zygote kills what that leaves behind."""
        self.signal(signal.SIGKILL)

    def release(self) -> None:
        """Nothing is held."""

    def _on_frame(self, kind: int, meta: bytes, payload: bytes) -> None:
        answered = kind in _ANSWERS or kind in (frames.READY, frames.INIT_ERROR)
        if answered:
            self.unanswered = max(0, self.unanswered - 1)
        super()._on_frame(kind, meta, payload)
        if answered and self.unanswered == 0:
            self._on_answer()


def _pid_here(pidfd: int) -> int:
    """0 when the process is not visible from here."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
        for line in file:
            if line.startswith("Pid:"):
                return max(0, int(line.split()[1]))
    return 0
