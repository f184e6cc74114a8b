"""A programmable driver without processes, for tests and the simulator.

Behaves as `Script` says: how long starts take, which starts fail, when instances crash, what the
handler answers. Everything arrives through the given `call_later`, or before the call returns
where that is None; so a fake clock can drive it.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

import msgspec

from pratai.driver.base import (
    Fingerprint,
    InstanceExit,
    InstanceSpec,
    InstanceStats,
    Listener,
)
from pratai.errors import PlatformError
from pratai.wire import frames

#: (seconds, callback): arranges for the callback to be called.
CallLater = Callable[[float, Callable[[], None]], object]
Handler = Callable[[bytes], bytes]


class HandlerFailed(Exception):
    """Raised by a scripted handler to answer with an ERROR frame of this code."""

    def __init__(self, message: str, *, code: str = "function_error", kind: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.kind = kind or type(self).__name__


class Script(msgspec.Struct, kw_only=True):
    """What the fake driver does. Change it while it runs."""

    #: Time from `start` to READY.
    start_ms: float = 0
    #: Time from an event to its answer.
    run_ms: float = 0
    #: Share of starts that end without READY, drawn from `seed`.
    fail_ratio: float = 0.0
    #: An instance crashes in place of answering its n-th event; 0 = never.
    crash_after: int = 0
    #: `start` raises PlatformError.
    refuse: bool = False
    seed: int = 0


def echo(event: bytes) -> bytes:
    """The handler unless told otherwise: the event is the result."""
    return event


class _Instance:
    """One pretended instance."""

    def __init__(self, spec: InstanceSpec) -> None:
        self.spec = spec
        self.reader = frames.FrameReader(1 << 30)
        #: Events handed over and not begun.
        self.waiting: deque[tuple[frames.EventMeta, bytes]] = deque()
        self.busy = False
        self.frozen = False
        self.ready = False
        self.events = 0


class FakeDriver:
    """See `driver/base.py` for the contract. `log` tells what was asked, for tests to look at."""

    name = "fake"

    def __init__(
        self,
        script: Script | None = None,
        *,
        handler: Handler = echo,
        call_later: CallLater | None = None,
    ) -> None:
        self.script = script or Script()
        self.handler = handler
        #: (what, instance or version id), in order; the last `log.maxlen` of them.
        self.log: deque[tuple[str, str]] = deque(maxlen=100_000)
        self._call_later = call_later
        self._random = random.Random(self.script.seed)  # noqa: S311 - a script, not a secret
        self._listener: Listener | None = None
        self._instances: dict[str, _Instance] = {}

    @property
    def instances(self) -> list[str]:
        """Ids of instances that live."""
        return list(self._instances)

    async def open(self, listener: Listener) -> None:
        """Remember the listener."""
        self._listener = listener

    async def close(self) -> None:
        """End all instances; later starts are refused."""
        for instance_id in list(self._instances):
            self._exit(instance_id, InstanceExit(signal=9, detail="the node closes"))
        self._listener = None

    async def fingerprint(self) -> Fingerprint:
        """Always healthy."""
        return Fingerprint(driver=self.name, healthy=True, runtimes=["python3.11"])

    async def prepare(self, spec: InstanceSpec) -> None:
        """Only noted."""
        self.log.append(("prepare", spec.version.version_id))

    async def start(self, spec: InstanceSpec) -> None:
        """Pretend to start; READY or exit follow after `start_ms`."""
        self.log.append(("start", spec.instance_id))
        if self._listener is None:
            raise PlatformError("the driver is not open", next_step="Open it first.")
        if self.script.refuse:
            raise PlatformError("the fake driver refuses", next_step="Change its script.")
        self._instances[spec.instance_id] = _Instance(spec)
        fails = self._random.random() < self.script.fail_ratio
        self._later(self.script.start_ms, lambda: self._started(spec.instance_id, fails=fails))

    def send(self, instance_id: str, frame: bytes) -> None:
        """Take frames; run events one after the other."""
        instance = self._instances.get(instance_id)
        if instance is None:
            return
        for kind, meta, payload in instance.reader.feed(frame):
            if kind == frames.SHUTDOWN:
                self._exit(instance_id, InstanceExit(code=0, detail="exited with status 0"))
                return
            event = msgspec.json.decode(meta, type=frames.EventMeta)
            instance.waiting.append((event, payload))
        self._run_next(instance_id)

    async def freeze(self, instance_id: str) -> None:
        """No further event is begun."""
        self.log.append(("freeze", instance_id))
        if instance := self._instances.get(instance_id):
            instance.frozen = True

    async def thaw(self, instance_id: str) -> None:
        """Go on."""
        self.log.append(("thaw", instance_id))
        if instance := self._instances.get(instance_id):
            instance.frozen = False
            self._run_next(instance_id)

    async def stop(self, instance_id: str, grace_ms: int) -> None:
        """End it."""
        self.log.append(("stop", instance_id))
        how = InstanceExit(code=0) if grace_ms else InstanceExit(signal=9, detail="stopped")
        self._exit(instance_id, how)

    async def forget(self, version_id: str) -> None:
        """Only noted."""
        self.log.append(("forget", version_id))

    async def recover(self) -> list[str]:
        """Nothing is ever left over."""
        return []

    def recall(self, instance_id: str) -> None:
        """Hand back every event that waits, if one runs now."""
        instance = self._instances.get(instance_id)
        if instance is None or not instance.busy:
            return
        while instance.waiting:
            event, _ = instance.waiting.popleft()
            self._say(
                instance_id, frames.RETURNED, frames.ReturnedMeta(request_id=event.request_id)
            )

    def stats(self, instance_id: str) -> InstanceStats | None:
        """A made-up cost."""
        if instance_id not in self._instances:
            return None
        return InstanceStats(memory_bytes=1024 * 1024, cpu_us=0, processes=1)

    def crash(self, instance_id: str, how: InstanceExit | None = None) -> None:
        """End an instance as if its process had died."""
        detail = "killed by SIGSEGV (segmentation fault)"
        self._exit(instance_id, how or InstanceExit(signal=11, detail=detail))

    def _started(self, instance_id: str, *, fails: bool) -> None:
        instance = self._instances.get(instance_id)
        if instance is None:
            return
        if fails:
            self._exit(instance_id, InstanceExit(code=1, detail="exited with status 1"))
            return
        instance.ready = True
        self._say(instance_id, frames.READY, frames.ReadyMeta())
        self._run_next(instance_id)

    def _run_next(self, instance_id: str) -> None:
        instance = self._instances.get(instance_id)
        if instance is None or instance.busy or instance.frozen or not instance.ready:
            return
        if not instance.waiting:
            return
        event, payload = instance.waiting.popleft()
        instance.busy = True
        instance.events += 1
        self._later(self.script.run_ms, lambda: self._answer(instance_id, payload))
        self.log.append(("run", event.request_id))

    def _answer(self, instance_id: str, payload: bytes) -> None:
        instance = self._instances.get(instance_id)
        if instance is None:
            return
        if self.script.crash_after and instance.events >= self.script.crash_after:
            self.crash(instance_id)
            return
        run_us = int(self.script.run_ms * 1000)
        instance.busy = False
        try:
            result = self.handler(payload)
        except HandlerFailed as failed:
            meta = frames.ErrorMeta(
                code=failed.code, type=failed.kind, message=str(failed), run_us=run_us
            )
            self._say(instance_id, frames.ERROR, meta)
        else:
            self._say(instance_id, frames.RESULT, frames.ResultMeta(run_us=run_us), result)
        self._run_next(instance_id)

    def _say(self, instance_id: str, kind: int, meta: msgspec.Struct, payload: bytes = b"") -> None:
        assert self._listener is not None
        self._listener.on_frame(instance_id, kind, msgspec.json.encode(meta), payload)

    def _exit(self, instance_id: str, how: InstanceExit) -> None:
        if self._instances.pop(instance_id, None) is not None:
            assert self._listener is not None
            self._listener.on_exit(instance_id, how)

    def _later(self, delay_ms: float, callback: Callable[[], None]) -> None:
        if self._call_later is None:
            callback()
        else:
            self._call_later(delay_ms / 1000, callback)
