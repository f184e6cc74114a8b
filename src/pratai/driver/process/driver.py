"""The process driver: which zygote forks which instance, and nothing left behind.

One base zygote for the runtime, function zygotes for versions that were prepared (bounded, least
recently used dropped). An instance is forked from its version's zygote if there is a fitting one,
else from the base. The parts: `instance.py`, `sandbox.py`, and those shared
by drivers beside this folder (`zygote.py`, `channel.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import structlog

from pratai.config.schema import Driver as DriverConfig
from pratai.driver import box, processes
from pratai.driver.base import Fingerprint, InstanceSpec, InstanceStats, Listener
from pratai.driver.process import sandbox
from pratai.driver.process.base_zygote import base_executable, spawn_base
from pratai.driver.process.instance import ProcessInstance
from pratai.driver.process.prepared import Prepared, PreparedZygotes
from pratai.driver.process.reachable import Reachable
from pratai.driver.users import Users
from pratai.driver.zygote import Zygote, control_pair
from pratai.errors import PlatformError
from pratai.runtimes import catalog
from pratai.wire import frames

_BASE_WAIT_S = 10.0
_CLOSE_WAIT_S = 5.0
#: An ended process that its zygote does not report within this: the zygote is stuck.
_REPORT_WAIT_S = 3.0
#: The base zygote is started again at most this often in a minute.
_BASE_STARTS_MAX = 10
_BASE_WINDOW_S = 60.0

#: The runtimes listen for it; `runtimes/python/worker.py` has its own line of this.
_RECALL_SIGNAL = signal.SIGRTMIN + 7

_log = structlog.get_logger("driver")


class ProcessDriver:
    """See `driver/base.py` for the contract."""

    name = "process"

    def __init__(
        self, config: DriverConfig, *, state_dir: str, bootstrap: str, zygotes_max: int = 64
    ) -> None:
        self._config = config
        self._state_dir = os.path.realpath(state_dir)
        self._instances_dir = os.path.join(self._state_dir, "instances")
        self._bootstrap = bootstrap
        #: Carried by every process of this driver, so that leftovers of an earlier one are found.
        self._mark = hashlib.sha256(self._state_dir.encode()).hexdigest()[:24]
        self._executable = base_executable()
        #: Where functions read what only root could walk to; None = mounts show it to them.
        self._reachable: Reachable | None = None
        self._walls = sandbox.Walls(own_user=False, mounts="", blocked_parent="", prefix="")
        self._users = Users(config.uid_first, config.uid_count, seed=int(self._mark[:8], 16))
        self._listener: Listener | None = None
        self._base: Zygote | None = None
        self._base_ready: asyncio.Future[bool] | None = None
        #: Loop times of the latest starts of the base zygote.
        self._base_starts: list[float] = []
        self._instances: dict[str, ProcessInstance] = {}
        #: {zygote name: prepared}: every function zygote that has not ended.
        self._zygotes: dict[str, Prepared] = {}
        self._prepared = PreparedZygotes(zygotes_max)
        self._zygote_count = 0
        self._reach_lock = threading.Lock()
        self._closing = False

    async def open(self, listener: Listener) -> None:
        """Remove what an earlier process left, probe the machine, start the base zygote."""
        self._listener = listener
        self._closing = False
        os.makedirs(self._instances_dir, mode=0o711, exist_ok=True)
        os.chmod(self._instances_dir, 0o711)  # noqa: S103 - walked through, never listed
        await self.recover()
        _raise_open_files()
        self._walls = sandbox.probe()
        if self._walls.own_user and not self._walls.mounts:
            await asyncio.to_thread(self._make_reachable)
        self._ensure_base()
        assert self._base_ready is not None
        async with _within(_BASE_WAIT_S, "the base zygote did not start"):
            if not await self._base_ready:
                raise PlatformError(
                    "the base zygote ended while it started",
                    next_step=f"Run `python -I -S {self._bootstrap} 0` to see why.",
                )

    async def close(self) -> None:
        """Kill all instances and zygotes; `on_exit` is said for each instance first."""
        self._closing = True
        instances = list(self._instances.values())
        for instance in instances:
            instance.kill("the node closes")
        if instances:
            await asyncio.wait([i.gone for i in instances], timeout=_CLOSE_WAIT_S)
        for prepared in list(self._zygotes.values()):
            prepared.kill()
        process = self._base.process if self._base is not None else None
        if self._base is not None:
            self._base.close()
        for instance in list(self._instances.values()):
            instance.ended(None)
        if process is not None:
            await asyncio.to_thread(_await_end, process)
        await asyncio.to_thread(self._clean)
        self._base = None

    async def recover(self) -> list[str]:
        """Kill what an earlier process of this data directory left; nothing is adopted."""
        if self._base is None or self._base.gone:
            await asyncio.to_thread(self._clean)
        return []

    async def fingerprint(self) -> Fingerprint:
        """What this machine permits."""
        return Fingerprint(
            driver=self.name,
            healthy=self._base is not None and not self._base.gone,
            runtimes=[runtime.name for runtime in catalog.runtimes()],
            degraded=self._walls.degraded,
        )

    async def prepare(self, spec: InstanceSpec) -> None:
        """Import the version's module in a zygote of its own, if its instances may be forked.

        Raises:
            PlatformError: it needs packages of the system, which are this machine's own here.

        """
        if spec.version.config.apt:
            raise PlatformError(
                f"{spec.version.name} needs packages of the system, which are not installed here",
                code="apt_unsupported",
                next_step="Run it on a node with [driver] name = docker, or remove `apt`.",
            )
        spec = await self._reach(spec)
        if self._walls.mounts == "root" or self._prepared.is_unfit(spec):
            return
        prepared = self._prepared.fitting(spec)
        if prepared is None:
            prepared = self._start_prepared(spec)
        try:
            wait_s = spec.init_timeout_ms / 1000
            await asyncio.wait_for(asyncio.shield(prepared.settled), wait_s)
        except TimeoutError:
            self._prepared.mark_unfit(prepared, "its import takes too long")
            self._prepared.remove(prepared)
            prepared.kill()

    async def start(self, spec: InstanceSpec) -> None:
        """Fork an instance from the zygote that fits best."""
        if self._listener is None or self._closing:
            raise PlatformError("the driver is not open", next_step="Open it first.")
        spec = await self._reach(spec)
        prepared = self._prepared.fitting(spec)
        if prepared is not None and not prepared.zygote.ready:
            prepared = None
        zygote = prepared.zygote if prepared is not None else self._ensure_base()
        uid = self._uid(spec)
        instance = ProcessInstance(
            spec,
            listener=self._listener,
            tmp_dir=self._make_tmp(spec.instance_id, uid),
            zygote=zygote,
            on_gone=self._on_instance_gone,
        )
        ours, fds = instance.open_ends()
        self._instances[spec.instance_id] = instance
        if prepared is not None:
            prepared.instances += 1
            zygote.ask("instance", {"instance_id": spec.instance_id}, fds)
        else:
            zygote.ask("instance", self._runtime_spec(spec, uid, kind="instance"), fds)
        await instance.connect(ours)

    def send(self, instance_id: str, frame: bytes) -> None:
        """Write a frame to an instance."""
        instance = self._instances.get(instance_id)
        if instance is not None:
            instance.send(frame)

    async def freeze(self, instance_id: str) -> None:
        """Stop it and all it started."""
        if instance := self._instances.get(instance_id):
            instance.signal_all(signal.SIGSTOP)

    async def thaw(self, instance_id: str) -> None:
        """Let it and all it started go on."""
        if instance := self._instances.get(instance_id):
            instance.signal_all(signal.SIGCONT)

    async def stop(self, instance_id: str, grace_ms: int) -> None:
        """Ask it to end, wait, then kill it and all it started. Returns when it is gone."""
        instance = self._instances.get(instance_id)
        if instance is None:
            return
        if grace_ms > 0:
            instance.send(frames.encode(frames.SHUTDOWN))
            await asyncio.wait([instance.gone], timeout=grace_ms / 1000)
        if not instance.gone.done():
            instance.kill("stopped")
            await self._await_gone(instance)

    async def forget(self, version_id: str) -> None:
        """Use its zygote no more; the zygote ends with its last instance."""
        self._prepared.drop(version_id)

    def recall(self, instance_id: str) -> None:
        """Ask it by a signal to hand back events that it has not begun."""
        if instance := self._instances.get(instance_id):
            instance.signal(_RECALL_SIGNAL)

    def stats(self, instance_id: str) -> InstanceStats | None:
        """Memory, processor time and processes of an instance's tree."""
        instance = self._instances.get(instance_id)
        if instance is None or not instance.pid:
            return None
        tree = [instance.pid, *processes.descendants(instance.pid)]
        return InstanceStats(
            memory_bytes=sum(map(processes.memory_bytes, tree)),
            cpu_us=sum(map(processes.cpu_us, tree)),
            processes=len(tree),
        )

    async def _await_gone(self, instance: ProcessInstance) -> None:
        await asyncio.wait([instance.gone], timeout=_REPORT_WAIT_S)
        if not instance.gone.done():
            _log.warning("zygote_stuck", zygote=instance.zygote.name)
            self._kill_zygote(instance.zygote)

    def _kill_zygote(self, zygote: Zygote) -> None:
        prepared = self._zygotes.get(zygote.name)
        if prepared is not None:
            prepared.kill()
        elif zygote.process is not None:
            zygote.process.kill()
            zygote.close()

    def _make_reachable(self) -> None:
        reachable = Reachable(os.path.join(tempfile.gettempdir(), f"pratai-{self._mark}"))
        reachable.open()
        self._instances_dir = os.path.join(reachable.root, "instances")
        os.mkdir(self._instances_dir, mode=0o711)
        if self._walls.blocked_parent:
            self._executable = reachable.interpreter(self._walls.prefix, base_executable())
        self._reachable = reachable

    async def _reach(self, spec: InstanceSpec) -> InstanceSpec:
        """The spec with directories that the function's user can walk to."""
        if self._reachable is None:
            return spec
        code_dir, layer_dir = await asyncio.to_thread(self._reach_now, spec)
        return msgspec.structs.replace(spec, code_dir=code_dir, layer_dir=layer_dir)

    def _reach_now(self, spec: InstanceSpec) -> tuple[str, str]:
        assert self._reachable is not None
        with self._reach_lock:
            code_dir = self._reachable.path(spec.code_dir, self._dirs_in_use)
            return code_dir, self._reachable.path(spec.layer_dir, self._dirs_in_use)

    def _dirs_in_use(self) -> list[str]:
        specs = [i.spec for i in list(self._instances.values())]
        specs += [p.spec for p in list(self._zygotes.values())]
        return [d for s in specs for d in (s.code_dir, s.layer_dir)]

    def _ensure_base(self) -> Zygote:
        if self._base is not None and not self._base.gone:
            return self._base
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._base_starts = [at for at in self._base_starts if at > now - _BASE_WINDOW_S]
        if len(self._base_starts) >= _BASE_STARTS_MAX:
            raise PlatformError(
                f"the base zygote ended {_BASE_STARTS_MAX} times within a minute",
                next_step="Read this node's log for what it wrote, and restart the node.",
            )
        self._base_starts.append(now)
        ours, theirs = control_pair()
        self._base_ready = loop.create_future()
        with theirs:
            process = spawn_base(self._executable, self._bootstrap, theirs, self._mark)
        self._base = Zygote("base", ours, on_message=self._on_message, on_gone=self._on_zygote_gone)
        self._base.process = process
        return self._base

    def _start_prepared(self, spec: InstanceSpec) -> Prepared:
        base = self._ensure_base()
        self._zygote_count += 1
        name = f"zygote-{self._zygote_count}"
        uid = self._uid(spec)
        ours, theirs = control_pair()
        zygote = Zygote(name, ours, on_message=self._on_message, on_gone=self._on_zygote_gone)
        prepared = Prepared(spec, zygote, self._make_tmp(name, uid))
        self._zygotes[name] = prepared
        self._prepared.add(prepared)
        runtime_spec = self._runtime_spec(spec, uid, kind="zygote")
        base.ask("zygote", {**runtime_spec, "instance_id": name}, [theirs.detach()])
        return prepared

    def _on_message(self, zygote: Zygote, message: dict[str, Any], fds: list[int]) -> None:
        op, name = message["op"], message.get("id", "")
        if op == "begun":
            self._on_begun(name, message["pid"], fds[0])
        elif op == "ended":
            if instance := self._instances.get(name):
                instance.ended(message["status"], problem=message.get("problem", ""))
        elif op == "ready":
            zygote.ready = True
            if zygote is self._base and self._base_ready is not None:
                self._base_ready.set_result(True)
            elif prepared := self._zygotes.get(zygote.name):
                prepared.settle(ready=True)
        elif op == "unfit" and (prepared := self._zygotes.get(zygote.name)):
            self._prepared.mark_unfit(prepared, message["reason"])

    def _on_begun(self, name: str, pid: int, pidfd: int) -> None:
        if instance := self._instances.get(name):
            instance.begun(pid, pidfd)
        elif prepared := self._zygotes.get(name):
            prepared.begun(pidfd)
        else:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)

    def _on_zygote_gone(self, zygote: Zygote) -> None:
        prepared = self._zygotes.pop(zygote.name, None)
        if prepared is not None:
            self._prepared.remove(prepared)
            prepared.kill()
            self._remove_tmp(prepared.tmp_dir)
        elif self._base_ready is not None and not self._base_ready.done():
            self._base_ready.set_result(False)
        if prepared is None and not self._closing:
            self._bury_base(zygote)
        for instance in list(self._instances.values()):
            if instance.zygote is zygote:
                instance.kill("the process that forked it ended")
                instance.ended(None)

    def _bury_base(self, zygote: Zygote) -> None:
        """All that it forked dies with it by the kernel; daemons of functions have to be found."""
        if zygote.process is not None:
            zygote.process.kill()
            zygote.process.wait()
        found = processes.kill_marked(self._mark, self._users.given())
        _log.error("base_zygote_gone", instances=len(self._instances), killed=found)

    def _on_instance_gone(self, instance: ProcessInstance) -> None:
        self._instances.pop(instance.instance_id, None)
        if prepared := self._zygotes.get(instance.zygote.name):
            prepared.instance_gone()
        self._remove_tmp(instance.tmp_dir)

    def _uid(self, spec: InstanceSpec) -> int:
        if not self._walls.own_user:
            return 0
        return self._users.uid(spec.version.version_id, self._is_in_use)

    def _is_in_use(self, version_id: str) -> bool:
        return any(
            i.spec.version.version_id == version_id for i in self._instances.values()
        ) or any(p.version_id == version_id for p in self._zygotes.values())

    def _runtime_spec(self, spec: InstanceSpec, uid: int, *, kind: str) -> dict[str, Any]:
        walls = sandbox.describe(
            self._walls, spec, self._config, uid=uid, instances_dir=self._instances_dir
        )
        return box.runtime_spec(spec, walls, kind=kind)

    def _make_tmp(self, name: str, uid: int) -> str:
        path = os.path.join(self._instances_dir, name)
        os.mkdir(path, mode=0o700)
        if uid:
            os.chown(path, uid, uid)
        return path

    def _remove_tmp(self, path: str) -> None:
        """Empty directories, the usual case, at once; others away from the loop."""
        try:
            os.rmdir(path)
        except FileNotFoundError:
            return
        except OSError:
            asyncio.get_running_loop().run_in_executor(None, _remove_tree, path)

    def _clean(self) -> None:
        """Kill marked processes and remove private directories. Only while nothing runs."""
        killed = processes.kill_marked(self._mark, self._users.given())
        if killed:
            _log.warning("leftovers_killed", processes=killed)
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self._instances_dir):
                _remove_tree(entry.path)
        if self._reachable is not None:
            self._reachable.remove()


def _remove_tree(path: str) -> None:
    shutil.rmtree(path, onerror=_log_not_removed)


def _log_not_removed(_function: object, path: str, info: tuple[Any, BaseException, Any]) -> None:
    if not isinstance(info[1], FileNotFoundError):
        _log.warning("not_removed", path=path, error=str(info[1]))


def _await_end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_CLOSE_WAIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _raise_open_files() -> None:
    """An instance needs four descriptors here."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextlib.asynccontextmanager
async def _within(wait_s: float, problem: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(wait_s):
            yield
    except TimeoutError as error:
        raise PlatformError(
            f"{problem} within {wait_s:.0f} s", next_step="Look at this machine's load."
        ) from error
