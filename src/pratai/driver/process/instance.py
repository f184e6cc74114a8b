"""An instance of the process driver: reached through its pidfd and `/proc`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from pratai.driver import processes
from pratai.driver.base import InstanceSpec, Listener
from pratai.driver.instance import Instance
from pratai.driver.zygote import Zygote


class ProcessInstance(Instance):
    """See `driver/instance.py`."""

    def __init__(
        self,
        spec: InstanceSpec,
        *,
        listener: Listener,
        tmp_dir: str,
        zygote: Zygote,
        on_gone: Callable[[Any], None],
    ) -> None:
        super().__init__(spec, listener=listener, zygote=zygote, on_gone=on_gone)
        self.tmp_dir = tmp_dir
        self._pidfd = -1

    def begun(self, pid: int, pidfd: int) -> None:
        """Its zygote has forked it."""
        if self.gone.done():
            os.close(pidfd)
            return
        self.pid, self._pidfd = pid, pidfd
        if self.killed:
            self.kill("")

    def signal(self, number: int) -> None:
        """Signal its main process, if that still runs."""
        if self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                return

    def signal_all(self, number: int) -> None:
        """Signal its main process and everything below it."""
        self.signal(number)
        if self.pid:
            for pid in processes.descendants(self.pid):
                processes.send_signal(pid, number)

    def end_now(self) -> None:
        """Stop it first, so that it starts no more; then kill the tree."""
        if self._pidfd >= 0:
            self.signal(signal.SIGSTOP)
            processes.kill_below(self.pid)
            self.signal(signal.SIGKILL)

    def release(self) -> None:
        """Close the pidfd."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
