"""One container: its zygotes, the instances forked in it, and its one way to end.

Starting, pausing and limits are asked of the engine one at a time, under `_lock`. Instances are
reached past the engine: by the control socket of the container's first process, and by a socket
of their own each.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import structlog

from pratai.driver import box
from pratai.driver.base import InstanceSpec, Listener
from pratai.driver.docker.control import Control
from pratai.driver.docker.engine import Engine
from pratai.driver.docker.instance import DockerInstance
from pratai.driver.docker.leftovers import write_plan
from pratai.driver.docker.plan import Plan
from pratai.driver.zygote import Zygote, control_pair
from pratai.errors import PlatformError

_log = structlog.get_logger("driver")

#: A container's first process is at its socket within this.
_CONNECT_WAIT_S = 15.0
#: A killed instance that its zygote does not report within this: the container is stuck.
_REPORT_WAIT_S = 3.0
_BASE = "base"


class Container:
    """`on_exit(instance id)` is called for each instance that is gone, `on_gone(self)` last."""

    def __init__(
        self,
        plan: Plan,
        *,
        engine: Engine,
        listener: Listener,
        pause_idle_ms: int,
        on_exit: Callable[[str], None],
        on_gone: Callable[[Container], None],
    ) -> None:
        self.plan = plan
        self.id = ""
        self.instances: dict[str, DockerInstance] = {}
        #: Starts no further instance; removed with its last one.
        self.retired = False
        self.paused = False
        #: Loop time of the last use.
        self.used_at = 0.0
        #: Starts under way: it may not be removed meanwhile.
        self.held = 0
        self._engine = engine
        self._listener = listener
        self._pause_idle_s = pause_idle_ms / 1000
        self._on_exit = on_exit
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()
        self._control = Control(plan.control_dir)
        self._base: Zygote | None = None
        self._ready: asyncio.Future[bool] = self._loop.create_future()
        #: The zygote that has the version's module imported; None = there is none.
        self._function: Zygote | None = None
        self._function_ready: asyncio.Future[bool] | None = None
        self._signature = ""
        #: Signatures whose module may not be forked, with the reason; only the latest ones.
        self._unfit: dict[str, str] = {}
        #: Zygotes made so far, for their names.
        self._count = 0
        #: Instances that its limits have room for.
        self._room = 1
        self._idle_timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._gone = False
        self._closing = False
        #: Resolved when nothing of it is left.
        self.gone: asyncio.Future[None] = self._loop.create_future()

    def __repr__(self) -> str:
        state = "gone" if self._gone else "paused" if self.paused else "running"
        return f"<Container {self.plan.name} {state} [instances: {len(self.instances)}]>"

    # its life

    async def start(self) -> None:
        """Have the engine make it, and wait for its first process.

        Raises:
            PlatformError: it did not come up; nothing of it is left.

        """
        self._control.listen()
        write_plan(self.plan)
        try:
            self.id = await self._engine.create(self.plan.name, self.plan.create())
            await self._engine.start(self.id)
            await self._connect()
        except BaseException:
            await asyncio.shield(self._discard())
            raise

    async def adopt(self, container_id: str, *, paused: bool) -> None:
        """Take over one that an earlier process of this node left running.

        Raises:
            PlatformError: it does not answer; nothing of it is left.

        """
        self.id = container_id
        self._control.listen()
        try:
            if paused:
                await self._engine.unpause(self.id)
            await self._connect()
            await self._engine.update(self.id, self.plan.limits(self._room))
        except BaseException:
            await asyncio.shield(self._discard())
            raise

    async def close(self, problem: str) -> None:
        """End every instance, then the container."""
        self._closing = True
        with contextlib.suppress(PlatformError):
            await self.awake()
        for instance in list(self.instances.values()):
            instance.kill(problem)
        waiting = [instance.gone for instance in self.instances.values()]
        if waiting and self._base is not None and not self._base.gone:
            await asyncio.wait(waiting, timeout=_REPORT_WAIT_S)
        await self._end(out_of_memory=False, problem=problem)

    def retire(self) -> None:
        """Start no further instance; end with the last one."""
        self.retired = True
        if not (self.instances or self.held or self._closing or self._gone):
            self._closing = True
            self._spawn(self.close("its version is not used any more"))

    def reuse(self) -> bool:
        """Start instances again, unless it is ending already; whether it does."""
        if self._closing or self._gone or self._base is None or self._base.gone:
            return False
        self.retired = False
        return True

    async def _connect(self) -> None:
        pid = int((await self._engine.inspect(self.id))["State"]["Pid"])
        try:
            async with asyncio.timeout(_CONNECT_WAIT_S):
                connection = await self._control.connected(pid)
                self._base = Zygote(
                    _BASE, connection, on_message=self._on_message, on_gone=self._on_zygote_gone
                )
                if not await self._ready:
                    raise PlatformError(
                        "its container ended at once", next_step="Look at the engine's log."
                    )
        except TimeoutError as error:
            said = await self._engine.output(self.id)
            raise PlatformError(
                f"the container of {self.plan.version_id} did not start: {said[-500:]}",
                next_step="Build the runtime's image again: pratai runtimes build.",
            ) from error
        self.touch()

    async def _end(self, *, out_of_memory: bool, problem: str) -> None:
        """The one way to end: instances are told gone, then nothing of the container is left."""
        if self._gone:
            return
        self._gone = True
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        for instance in list(self.instances.values()):
            instance.ended(None, out_of_memory=out_of_memory, problem=problem)
        if self.instances:
            await asyncio.wait([i.gone for i in self.instances.values()], timeout=_REPORT_WAIT_S)
        await self._discard()
        self._on_gone(self)
        self.gone.set_result(None)

    async def _discard(self) -> None:
        self._gone = True
        self._control.close()
        for zygote in (self._function, self._base):
            if zygote is not None:
                zygote.close()
        try:
            # By name where the engine was not heard to the end: the container may exist.
            await self._engine.remove(self.id or self.plan.name)
        except PlatformError as error:
            # Collected by its label when the engine is back.
            _log.warning("container_not_removed", container=self.plan.name, error=error.detail)
        await asyncio.to_thread(shutil.rmtree, self.plan.directory, ignore_errors=True)

    # instances

    async def prepare(self, spec: InstanceSpec) -> None:
        """Import the version's module in a zygote, from which instances are then forked."""
        signature = box.signature(spec)
        if signature in self._unfit or self._gone:
            return
        with self._hold():
            await self.awake()
            if self._signature != signature or self._function is None:
                self._start_function_zygote(spec, signature)
            assert self._function_ready is not None
            try:
                async with asyncio.timeout(spec.init_timeout_ms / 1000):
                    await asyncio.shield(self._function_ready)
            except TimeoutError:
                self._give_up(signature, "its import takes too long")
                self._drop_function_zygote()

    async def begin(self, spec: InstanceSpec) -> None:
        """Fork an instance from the zygote that fits best.

        Raises:
            PlatformError: the container has ended, or has no room and gets none.

        """
        with self._hold():
            await self.awake()
            await self._make_room()
            ours, instance = self._fork(spec)
            await instance.connect(ours)

    @contextlib.contextmanager
    def _hold(self) -> Iterator[None]:
        self.held += 1
        try:
            yield
        finally:
            self.held -= 1
            self.touch()
            if self.retired:
                self.retire()

    def _fork(self, spec: InstanceSpec) -> tuple[socket.socket, DockerInstance]:
        zygote, told = self._base, self.plan.runtime_spec(spec, kind="instance")
        prepared = self._function
        if prepared is not None and prepared.ready and self._signature == box.signature(spec):
            zygote, told = prepared, {"instance_id": spec.instance_id, "box": told["box"]}
        if zygote is None or zygote.gone or self._gone:
            raise PlatformError(
                f"the container of {self.plan.version_id} has ended", next_step="Try again."
            )
        instance = DockerInstance(
            spec,
            listener=self._listener,
            zygote=zygote,
            on_gone=self._on_instance_gone,
            on_answer=self._watch_idle,
        )
        ours, fds = instance.open_ends()
        self.instances[spec.instance_id] = instance
        zygote.ask("instance", told, fds)
        return ours, instance

    async def stop(self, instance: DockerInstance, frame: bytes, grace_ms: int) -> None:
        """Ask an instance to end, wait, then kill it and all it started."""
        await self.awake()
        if grace_ms > 0:
            instance.send(frame)
            await asyncio.wait([instance.gone], timeout=grace_ms / 1000)
        if instance.gone.done():
            return
        instance.kill("stopped")
        await asyncio.wait([instance.gone], timeout=_REPORT_WAIT_S)
        if not instance.gone.done() and instance.zygote is self._function:
            _log.warning("zygote_stuck", container=self.plan.name)
            self._drop_function_zygote()
            await asyncio.wait([instance.gone], timeout=_REPORT_WAIT_S)
        if not instance.gone.done():
            _log.warning("container_stuck", container=self.plan.name)
            await self.close("its container did not answer")

    def _start_function_zygote(self, spec: InstanceSpec, signature: str) -> None:
        self._drop_function_zygote()
        if self._base is None or self._base.gone:
            raise PlatformError(
                f"the container of {self.plan.version_id} has ended", next_step="Try again."
            )
        self._count += 1
        name = f"zygote-{self._count}"
        ours, theirs = control_pair()
        zygote = Zygote(name, ours, on_message=self._on_message, on_gone=self._on_zygote_gone)
        told = {**self.plan.runtime_spec(spec, kind="zygote"), "instance_id": name}
        self._function, self._signature = zygote, signature
        self._function_ready = self._loop.create_future()
        self._base.ask("zygote", told, [theirs.detach()])

    def _drop_function_zygote(self) -> None:
        zygote, self._function = self._function, None
        if zygote is not None and not zygote.gone:
            if self._base is not None and not self._base.gone:
                self._base.signal(zygote.name, signal.SIGKILL)
            zygote.close()

    def _give_up(self, signature: str, reason: str) -> None:
        _log.info("function_zygote_unfit", version_id=self.plan.version_id, reason=reason)
        self._unfit = {signature: reason}

    async def _make_room(self) -> None:
        """Limits for one more instance: they grow by doubling, and fall once few are left."""
        wanted = 1 << (len(self.instances) + self.held - 1).bit_length()
        if wanted <= self._room <= 2 * wanted:
            return
        async with self._lock:
            if wanted <= self._room <= 2 * wanted:
                return
            try:
                await self._engine.update(self.id, self.plan.limits(wanted))
                self._room = wanted
            except PlatformError as error:
                if wanted > self._room:
                    raise
                # Memory in use is not taken away; asked again at the next start.
                _log.info("limits_kept", container=self.plan.name, error=error.detail)

    # idleness

    def touch(self) -> None:
        """It is used now: if it is paused, or is about to be, it goes on."""
        self.used_at = self._loop.time()
        if self.paused or self._lock.locked():
            self._spawn(self._wake())
        else:
            self._watch_idle()

    async def awake(self) -> None:
        """Return once it has processor time."""
        async with self._lock:
            if self.paused and not self._gone:
                await self._engine.unpause(self.id)
                self.paused = False
        self._watch_idle()

    async def _wake(self) -> None:
        try:
            await self.awake()
        except PlatformError as error:
            _log.error("unpause_failed", container=self.plan.name, error=error.detail)
            await self._end(out_of_memory=False, problem=f"its container stays paused: {error}")

    def _is_idle(self) -> bool:
        importing = self._function_ready is not None and not self._function_ready.done()
        unanswered = any(instance.unanswered for instance in self.instances.values())
        return not (importing or unanswered or self.held or self._closing or self._gone)

    def _watch_idle(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if self._pause_idle_s and not self.paused and self._is_idle():
            self._idle_timer = self._loop.call_later(self._pause_idle_s, self._idle)

    def _idle(self) -> None:
        self._idle_timer = None
        if self._is_idle():
            self._spawn(self._pause())

    async def _pause(self) -> None:
        async with self._lock:
            if not self._is_idle() or self.paused:
                return
            try:
                await self._engine.pause(self.id)
            except PlatformError as error:
                _log.warning("pause_failed", container=self.plan.name, error=error.detail)
                return
            self.paused = True
        if not self._is_idle():
            await self._wake()

    # what its zygotes say

    def _on_message(self, zygote: Zygote, message: dict[str, Any], fds: list[int]) -> None:
        op, name = message["op"], message.get("id", "")
        instance = self.instances.get(name)
        if op == "begun" and instance is not None and fds:
            instance.begun(fds.pop())
        elif op == "ended" and instance is not None:
            instance.ended(
                message["status"],
                out_of_memory=bool(message.get("out_of_memory")),
                problem=str(message.get("problem", "")),
            )
        elif op == "ready":
            zygote.ready = True
            self._settle(zygote, ready=True)
        elif op == "unfit" and zygote is self._function:
            self._give_up(self._signature, message["reason"])
        for fd in fds:
            os.close(fd)

    def _settle(self, zygote: Zygote, *, ready: bool) -> None:
        future = self._ready if zygote.name == _BASE else None
        if zygote is self._function:
            future = self._function_ready
        if future is not None and not future.done():
            future.set_result(ready)
            self._watch_idle()

    def _on_zygote_gone(self, zygote: Zygote) -> None:
        self._settle(zygote, ready=False)
        if zygote.name == _BASE:
            if self.id and not self._closing and not self._gone and self._ready.result():
                self._spawn(self._bury())
            return
        if zygote is self._function:
            self._function = None
        for instance in list(self.instances.values()):
            if instance.zygote is zygote:
                instance.kill("the process that forked it ended")
                instance.ended(None)

    async def _bury(self) -> None:
        """Its first process is gone, and with it everything in the container."""
        out_of_memory, problem = False, "its container ended"
        try:
            state = (await self._engine.inspect(self.id))["State"]
            out_of_memory = bool(state.get("OOMKilled"))
            problem = f"its container ended with status {state.get('ExitCode')}"
        except PlatformError as error:
            problem = f"its container ended: {error.detail}"
        _log.error("container_gone", container=self.plan.name, problem=problem)
        await self._end(out_of_memory=out_of_memory, problem=problem)

    def _on_instance_gone(self, instance: DockerInstance) -> None:
        self.instances.pop(instance.instance_id, None)
        self._on_exit(instance.instance_id)
        if self.retired:
            self.retire()
        self._watch_idle()

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
