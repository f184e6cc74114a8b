"""Whether the kernel killed for memory, as a container's own count of it says."""

from __future__ import annotations

import os
import signal


class MemoryWatch:
    """Tells whether the kernel killed for memory in this container: its own count has grown."""

    _FILES = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")

    def __init__(self) -> None:
        self._seen = self._count()

    def killed(self, status: int) -> bool:
        """Whether this end, a wait status, is one of those."""
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            return False
        count = self._count()
        grown, self._seen = count > self._seen, count
        return grown

    def _count(self) -> int:
        for path in self._FILES:
            try:
                with open(path, encoding="ascii") as file:
                    lines = file.read().splitlines()
            except OSError:
                continue
            return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
        return 0
