"""Zygotes: single-threaded processes that fork instances on request.

The base zygote has the runtime loaded and, as root, may close sandboxes. A function zygote is its
child for one version: sandboxed, under the function's own user, with the user's module imported.
Both obey the node over a control socket (one JSON object a message, descriptors beside it), reap
what they forked, kill whatever an ended instance left behind, and end with their control socket.
User code is never imported in the base zygote.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import random  # noqa: F401 - loaded here so that no instance pays for it
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from . import frames, sandbox
from .children import child_pids, descendants, remove_tree
from .frames import Channel, encode
from .handler import Entry, reseed
from .memory import MemoryWatch
from .records import Records, Stream, install
from .worker import Worker, import_handler

_MESSAGE_BYTES_MAX = 256 * 1024
_FDS_MAX = 4
_KILL_ROUNDS_MAX = 200
_KILL_WAIT_MS = 10

#: Libraries of arithmetic start a thread for each processor when they are imported, which makes a
#: module unfit for a zygote and calls beside each other slower. A function may set them otherwise.
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")

Spec = dict[str, Any]


class Zygote:
    """Forks on request until its control socket closes."""

    def __init__(
        self,
        control: socket.socket,
        *,
        start: Callable[[Spec, list[int]], None],
        makes_tmp: bool = False,
        memory: MemoryWatch | None = None,
    ) -> None:
        self._control = control
        #: Runs in the child; never returns to the loop.
        self._start = start
        #: {pid: id of the instance or zygote}: every child that was forked on request.
        self._children: dict[int, str] = {}
        #: {id: private directory}: made and removed here, where the node cannot reach.
        self._tmp_dirs: dict[str, str] = {}
        self._makes_tmp = makes_tmp
        self._memory = memory
        self._user_sigchld = signal.getsignal(signal.SIGCHLD)
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> None:
        """Serve; end with everything below this process once the node is gone."""
        self.serve()
        os._exit(0)

    def serve(self) -> None:
        """Obey until the node is gone; everything below this process is ended by then."""
        signal.signal(signal.SIGCHLD, lambda _signal, _frame: None)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if self._woken in ready:
                os.read(self._woken, 4096)
                self._reap()
            if self._control.fileno() in ready and not self._obey():
                break
        self._children.clear()
        self._kill_strays()
        signal.set_wakeup_fd(-1)
        for descriptor in (self._woken, self._wake):
            os.close(descriptor)
        self._control.close()

    def _obey(self) -> bool:
        try:
            data, fds, _, _ = socket.recv_fds(self._control, _MESSAGE_BYTES_MAX, _FDS_MAX)
        except ConnectionResetError:
            return False
        if not data:
            return False
        message = json.loads(data)
        if message["op"] == "signal":
            self._signal(message)
            return True
        if message.get("spec_in_fd"):
            message["spec"] = _read_spec(fds.pop())
        try:
            self._make_tmp(message["spec"], message["id"])
            pid = os.fork()
        except OSError as error:
            self._refuse(message["id"], fds, str(error))
            return True
        if pid == 0:
            self._become_child(message["spec"], fds)
        self._children[pid] = message["id"]
        pidfd = os.pidfd_open(pid)
        for fd in fds:
            os.close(fd)
        self._tell({"op": "begun", "id": message["id"], "pid": pid}, pidfd)
        os.close(pidfd)
        return True

    def _refuse(self, name: str, fds: list[int], problem: str) -> None:
        """This sandbox is full of processes or files: what was asked for never begins."""
        for fd in fds:
            os.close(fd)
        self._remove_tmp(name)
        problem = f"it could not be started: {problem}"
        self._tell({"op": "ended", "id": name, "status": 71 << 8, "problem": problem})

    def _become_child(self, spec: Spec, fds: list[int]) -> None:
        status = 70
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, self._user_sigchld or signal.SIG_DFL)
            os.close(self._woken)
            os.close(self._wake)
            self._control.close()
            self._start(spec, fds)
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)

    def _reap(self) -> None:
        ended: list[tuple[str, int]] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            name = self._children.pop(pid, None)
            if name:
                ended.append((name, status))
        if ended:
            self._kill_strays()
        for name, status in ended:
            message = {"op": "ended", "id": name, "status": status}
            if self._memory is not None and self._memory.killed(status):
                message["out_of_memory"] = True
            self._tell(message)
            self._remove_tmp(name)

    def _signal(self, message: dict[str, Any]) -> None:
        """Signal what was forked here, for a node that cannot: it is of another user or place."""
        pid = next((p for p, name in self._children.items() if name == message["id"]), 0)
        if not pid:
            return
        os.kill(pid, message["number"])
        if message["tree"]:
            for below in descendants(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(below, message["number"])

    def _make_tmp(self, spec: Spec, name: str) -> None:
        if self._makes_tmp:
            path = os.path.join(spec["box"]["instances_dir"], name)
            os.makedirs(path, mode=0o700)
            self._tmp_dirs[name] = path

    def _remove_tmp(self, name: str) -> None:
        """At once if it is empty, else in a child: a large one takes its time."""
        path = self._tmp_dirs.pop(name, "")
        if not path:
            return
        try:
            os.rmdir(path)
        except OSError:
            pid = os.fork()
            if pid == 0:
                remove_tree(path)
            self._children[pid] = ""

    def _kill_strays(self) -> None:
        """Kill every child that was not forked on request: an ended instance left it behind."""
        for _ in range(_KILL_ROUNDS_MAX):
            strays = child_pids() - self._children.keys()
            if not strays:
                return
            for pid in strays:
                os.kill(pid, signal.SIGKILL)
            deadline = time.monotonic() + _KILL_WAIT_MS / 1000
            while strays and time.monotonic() < deadline:
                strays = {pid for pid in strays if os.waitpid(pid, os.WNOHANG)[0] == 0}
                if strays:
                    time.sleep(0.0005)

    def _tell(self, message: dict[str, Any], *fds: int) -> None:
        try:
            socket.send_fds(self._control, [json.dumps(message).encode()], fds)
        except (BrokenPipeError, ConnectionResetError):
            return


def run_base(control_fd: int) -> None:
    """Be the base zygote. Never returns."""
    control = socket.socket(fileno=control_fd)
    os.set_inheritable(control_fd, False)
    sandbox.become_subreaper()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.dont_write_bytecode = True
    zygote = Zygote(control, start=start_from_base)
    gc.collect()
    gc.freeze()
    _send(control, {"op": "ready"})
    zygote.run()


def start_from_base(spec: Spec, fds: list[int]) -> None:
    """What a child of a base zygote becomes: a function zygote or an instance. Never returns."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.setsid()
    if spec["kind"] == "zygote":
        _be_function_zygote(spec, fds)
    else:
        _be_instance(spec, fds)


def _be_instance(spec: Spec, fds: list[int]) -> None:
    """A new instance from the base zygote: closes the whole sandbox, imports by itself."""
    parent = os.getppid()
    channel, outputs = _take_descriptors(spec, fds)
    try:
        _close_version(spec, "" if spec["box"]["mounts"] == "user" else spec["instance_id"])
        sandbox.close_instance(spec, spec["instance_id"])
    except Exception as error:
        failure = {"code": "sandbox_failed", "type": type(error).__name__, "message": str(error)}
        channel.send(encode(frames.INIT_ERROR, failure))
        raise
    _set_environment(spec)
    records = Records(spec["log_bytes_max"])
    streams = install(records)
    _work(spec, channel, parent=parent, records=records, streams=streams, outputs=outputs)


def _work(
    spec: Spec,
    channel: Channel,
    *,
    parent: int,
    records: Records,
    streams: tuple[Stream, Stream],
    outputs: tuple[int, int],
    entry: Entry | None = None,
) -> None:
    sandbox.become_subreaper()
    sandbox.die_with(parent)
    reseed()
    worker = Worker(spec, channel, records=records, streams=streams, outputs=outputs)
    worker.run(entry)
    if os.getpid() == channel.pid:
        _run_exit_functions(records)


def _run_exit_functions(records: Records) -> None:
    import atexit

    atexit._run_exitfuncs()
    records.flush()


def _be_function_zygote(spec: Spec, fds: list[int]) -> None:
    """Import the user's module once, in its sandbox; serve if a fork of this is then safe."""
    parent = os.getppid()
    control = socket.socket(fileno=_dup_high(fds, 0))
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    _close_version(spec, spec["instance_id"])
    _set_environment(spec)
    sandbox.become_subreaper()
    sandbox.die_with(parent)
    records = Records(spec["log_bytes_max"])
    streams = install(records)
    before = _open_fds()
    began_ns = time.monotonic_ns()
    loaded = import_handler(spec)
    reason = _unfit_reason(spec, loaded, before)
    if reason or isinstance(loaded, dict):
        _send(control, {"op": "unfit", "reason": reason})
        return
    entry = loaded

    def start(own: Spec, own_fds: list[int]) -> None:
        _be_forked_instance(
            {**spec, "instance_id": own["instance_id"]},
            own_fds,
            records=records,
            streams=streams,
            entry=entry,
        )

    contained = spec["box"]["contained"]
    zygote = Zygote(
        control, start=start, makes_tmp=contained, memory=MemoryWatch() if contained else None
    )
    gc.collect()
    gc.freeze()
    import_us = (time.monotonic_ns() - began_ns) // 1000
    _send(control, {"op": "ready", "import_us": import_us})
    zygote.run()


def _unfit_reason(spec: Spec, loaded: Entry | dict[str, Any], before: set[str]) -> str:
    """Why instances must not be forked from this process; "" if they may."""
    if isinstance(loaded, dict):
        return f"{loaded['code']}: {loaded['message']}"
    if len(os.listdir("/proc/self/task")) > 1:
        return "its module starts threads"
    if child_pids():
        return "its module starts processes"
    if _open_fds() - before:
        return "its module holds open files or sockets"
    if os.listdir(sandbox.tmp_dir(spec, spec["instance_id"])):
        return "its module writes to /tmp"
    return ""


def _be_forked_instance(
    spec: Spec,
    fds: list[int],
    *,
    records: Records,
    streams: tuple[Stream, Stream],
    entry: Entry,
) -> None:
    """A new instance from a function zygote: most of the sandbox is closed around it already."""
    parent = os.getppid()
    os.setsid()
    channel, outputs = _take_descriptors(spec, fds)
    sandbox.close_instance(spec, spec["instance_id"])
    os.environ["PRATAI_INSTANCE_ID"] = spec["instance_id"]
    if not spec["box"]["mounts"]:
        os.environ["TMPDIR"] = os.environ["HOME"] = sandbox.tmp_dir(spec, spec["instance_id"])
        if "tempfile" in sys.modules:
            vars(sys.modules["tempfile"])["tempdir"] = None
    _work(
        spec,
        channel,
        parent=parent,
        records=records,
        streams=streams,
        outputs=outputs,
        entry=entry,
    )


def _close_version(spec: Spec, tmp_name: str) -> None:
    sandbox.close_version(spec, tmp_name)
    os.chdir(spec["code_dir"])
    sys.path.insert(0, spec["code_dir"])
    if spec["layer_dir"]:
        sys.path.append(spec["layer_dir"])


def _set_environment(spec: Spec) -> None:
    """The function's own variables and ours; nothing of the platform's."""
    mark = os.environ["PRATAI_MARK"]
    home = sandbox.tmp_dir(spec, spec["instance_id"])
    os.environ.clear()
    os.environ.update(
        {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "HOME": home,
            "TMPDIR": home,
            "PRATAI_MARK": mark,
            "PRATAI_FUNCTION": spec["function"],
            "PRATAI_VERSION": spec["version"],
            "PRATAI_INSTANCE_ID": spec["instance_id"],
            "LAMBDA_TASK_ROOT": spec["code_dir"],
            "AWS_LAMBDA_FUNCTION_NAME": spec["function"],
            "AWS_LAMBDA_FUNCTION_VERSION": spec["version"],
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(spec["memory_mb"]),
            "AWS_EXECUTION_ENV": "Pratai_python",
            "_HANDLER": spec["handler"],
            **dict.fromkeys(_ONE_THREAD, "1"),
            **spec["environment"],
        }
    )


def _take_descriptors(spec: Spec, fds: list[int]) -> tuple[Channel, tuple[int, int]]:
    """Channel and outputs at high numbers, unseen by programs that user code starts; 0, 1, 2 set.
    Nothing else stays open.
    """
    top = spec["box"]["files_max"] - 8
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, top) for fd in fds]
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(high[1], 1)
    os.dup2(high[2], 2)
    os.closerange(3, high[0])
    return Channel(socket.socket(fileno=high[0])), (high[1], high[2])


def _dup_high(fds: list[int], index: int) -> int:
    high = fcntl.fcntl(fds[index], fcntl.F_DUPFD_CLOEXEC, 64)
    os.closerange(3, high)
    return high


def _read_spec(fd: int) -> Spec:
    with open(fd, "rb") as file:
        spec: Spec = json.loads(file.read())
    return spec


def _open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def _send(control: socket.socket, message: dict[str, Any]) -> None:
    control.send(json.dumps(message).encode())
