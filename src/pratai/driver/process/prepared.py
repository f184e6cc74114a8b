"""Function zygotes: one for each prepared version, bounded, least recently used dropped.

Decides only which exist and whether one fits a spec; the driver asks them to fork.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import structlog

from pratai.driver.base import InstanceSpec
from pratai.driver.box import signature
from pratai.driver.zygote import Zygote

_log = structlog.get_logger("driver")
#: Versions remembered as not fit for a zygote.
_UNFIT_MAX = 4_096


class Prepared:
    """The zygote of one version, from the moment it was asked for."""

    def __init__(self, spec: InstanceSpec, zygote: Zygote, tmp_dir: str) -> None:
        self.spec = spec
        self.version_id = spec.version.version_id
        self.signature = signature(spec)
        self.zygote = zygote
        self.tmp_dir = tmp_dir
        #: Live instances that it forked: it may not end before them.
        self.instances = 0
        #: Forks no more; ends with its last instance.
        self.retired = False
        self._pidfd = -1
        #: True: ready. False: unfit or gone.
        self.settled: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def settle(self, ready: bool) -> None:
        """Say how it went, once."""
        if not self.settled.done():
            self.settled.set_result(ready)

    def retire(self) -> None:
        """Fork no more, and end once nothing lives that it forked."""
        self.retired = True
        if self.instances == 0:
            self.kill()

    def instance_gone(self) -> None:
        """One of its instances has ended."""
        self.instances -= 1
        if self.retired and self.instances == 0:
            self.kill()

    def begun(self, pidfd: int) -> None:
        """The base zygote has forked it."""
        self._pidfd = pidfd

    def kill(self) -> None:
        """End it and all it forked, even if it does not listen."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.close(self._pidfd)
            self._pidfd = -1
        self.zygote.close()
        self.settle(False)


class PreparedZygotes:
    """All function zygotes of a driver."""

    def __init__(self, zygotes_max: int) -> None:
        self._max = zygotes_max
        #: {version_id: prepared}, least recently used first.
        self._by_version: dict[str, Prepared] = {}
        #: {signature: why}, oldest first.
        self.unfit: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._by_version)

    def fitting(self, spec: InstanceSpec) -> Prepared | None:
        """The prepared zygote with exactly this code and environment, ready or not yet."""
        version_id = spec.version.version_id
        prepared = self._by_version.get(version_id)
        if prepared is None or prepared.signature != signature(spec):
            return None
        self._by_version[version_id] = self._by_version.pop(version_id)
        return prepared

    def add(self, prepared: Prepared) -> None:
        """Keep one more; it takes the place of an older one of its version."""
        self.drop(prepared.version_id)
        while len(self._by_version) >= self._max:
            self.drop(next(iter(self._by_version)))
        self._by_version[prepared.version_id] = prepared

    def is_unfit(self, spec: InstanceSpec) -> bool:
        """Whether it was tried and found that instances of it may not be forked."""
        return signature(spec) in self.unfit

    def mark_unfit(self, prepared: Prepared, reason: str) -> None:
        """Remember not to try again."""
        _log.info("function_zygote_unfit", version_id=prepared.version_id, reason=reason)
        self.unfit[prepared.signature] = reason
        if len(self.unfit) > _UNFIT_MAX:
            del self.unfit[next(iter(self.unfit))]

    def drop(self, version_id: str) -> None:
        """Use the zygote of this version no more."""
        prepared = self._by_version.pop(version_id, None)
        if prepared is not None:
            prepared.retire()

    def remove(self, prepared: Prepared) -> None:
        """It has ended by itself."""
        if self._by_version.get(prepared.version_id) is prepared:
            del self._by_version[prepared.version_id]

    def drop_all(self) -> None:
        """Use none of them any more."""
        for version_id in list(self._by_version):
            self.drop(version_id)
