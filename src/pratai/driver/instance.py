"""One instance as the node sees it: its channel, its outputs, and the one way in which it ends.

An instance has ended when its zygote has said so and its channel and outputs are read to the end;
then, and only then, `on_exit` is said. How its process is reached by signals is the drivers'.
"""

from __future__ import annotations

import abc
import asyncio
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

from pratai.driver.base import InstanceExit, InstanceSpec, Listener
from pratai.driver.channel import Channel, Output
from pratai.driver.zygote import Zygote
from pratai.wire import frames

#: After the process has ended, its channel and outputs are read for no longer than this.
_DRAIN_S = 1.0
#: A process that closed its channel is given this long to end by itself.
_UNHEARD_S = 0.2
_FRAME_SLACK_BYTES = 64 * 1024

_SIGNALS = {
    signal.SIGSEGV: "segmentation fault",
    signal.SIGABRT: "aborted",
    signal.SIGBUS: "bus error",
    signal.SIGFPE: "arithmetic error",
    signal.SIGILL: "illegal instruction",
    signal.SIGKILL: "killed from outside the function, for example for memory",
    signal.SIGTERM: "terminated",
    signal.SIGXCPU: "processor time limit",
}


class Instance(abc.ABC):
    """`on_gone(instance)` is called once, right before the listener's `on_exit`."""

    def __init__(
        self,
        spec: InstanceSpec,
        *,
        listener: Listener,
        zygote: Zygote,
        on_gone: Callable[[Any], None],
    ) -> None:
        self.spec = spec
        self.instance_id = spec.instance_id
        self.zygote = zygote
        #: As this process sees it; 0 = not begun, or out of sight.
        self.pid = 0
        self.killed = False
        #: Resolved when `on_exit` has been said.
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._listener = listener
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        self._how: InstanceExit | None = None
        self._problem = ""
        #: Whether it was killed only because it closed its channel.
        self._unheard = False
        #: Which of channel, stdout and stderr are still being read.
        self._open = {"channel", "stdout", "stderr"}
        size = max(spec.result_bytes_max, spec.log_bytes_max) + _FRAME_SLACK_BYTES
        self._channel = Channel(size, on_frame=self._on_frame, on_end=self._on_channel_end)
        self._outputs: list[Output] = []
        self._init_timer: asyncio.TimerHandle | None = None

    @abc.abstractmethod
    def signal(self, number: int) -> None:
        """Signal its main process, if that still runs."""

    @abc.abstractmethod
    def signal_all(self, number: int) -> None:
        """Signal its main process and everything below it."""

    @abc.abstractmethod
    def end_now(self) -> None:
        """End its processes by force. What escapes falls to its zygote, which kills it."""

    @abc.abstractmethod
    def release(self) -> None:
        """Give back what reaching its process took. Called once, when it is gone."""

    def open_ends(self) -> tuple[socket.socket, list[int]]:
        """Make socket and pipes: (our end of the channel, descriptors for the instance)."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        fds = [theirs.detach()]
        for stream in ("stdout", "stderr"):
            readable, writable = os.pipe2(os.O_CLOEXEC)
            self._outputs.append(self._output(stream, readable))
            fds.append(writable)
        return ours, fds

    def _output(self, stream: str, descriptor: int) -> Output:
        return Output(
            descriptor,
            on_text=lambda text: self._listener.on_output(self.instance_id, stream, text),
            on_end=lambda: self._close_part(stream),
        )

    async def connect(self, ours: socket.socket) -> None:
        """Begin to read and write the channel."""
        ours.setblocking(False)
        wait_s = self.spec.init_timeout_ms / 1000
        self._init_timer = self._loop.call_later(wait_s, self._on_init_timeout)
        await self._loop.create_unix_connection(lambda: self._channel, sock=ours)

    def send(self, frame: bytes) -> None:
        """Write a frame to it."""
        self._channel.send(frame)

    def kill(self, problem: str) -> None:
        """End it and all it started, now."""
        self.killed = True
        self._problem = self._problem or problem
        if self._how is None:
            self.end_now()

    def ended(self, status: int | None, *, out_of_memory: bool = False, problem: str = "") -> None:
        """Its process is reaped with this wait status; None = unknown, its zygote is gone too."""
        if self._how is not None:
            return
        self._problem = self._problem or problem
        # A large process is long in dying: its channel may have closed well before this is heard.
        by_itself = self._unheard or not self.killed
        self._how = self._tell(status, out_of_memory=out_of_memory and by_itself)
        if self._open:
            self._loop.call_later(_DRAIN_S, self._stop_reading)
        self._finish()

    def _tell(self, status: int | None, *, out_of_memory: bool) -> InstanceExit:
        if out_of_memory:
            limit = self.spec.version.config.memory_mb
            detail = f"killed for memory: it used more than its {limit} MB"
            return InstanceExit(signal=signal.SIGKILL, detail=detail, out_of_memory=True)
        if status is None:
            detail = self._problem or "the process that started it ended"
            return InstanceExit(signal=signal.SIGKILL, detail=detail)
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            return InstanceExit(code=code, detail=self._problem or f"exited with status {code}")
        number = -code
        name = signal.Signals(number).name if number in list(signal.Signals) else f"signal {number}"
        if self.killed:
            detail = self._problem or "stopped"
        else:
            meaning = _SIGNALS.get(signal.Signals(number), "") if name[:3] == "SIG" else ""
            detail = f"killed by {name}" + (f" ({meaning})" if meaning else "")
        return InstanceExit(signal=number, detail=detail)

    def _on_frame(self, kind: int, meta: bytes, payload: bytes) -> None:
        if self._init_timer is not None and kind in (frames.READY, frames.INIT_ERROR):
            self._init_timer.cancel()
            self._init_timer = None
        self._listener.on_frame(self.instance_id, kind, meta, payload)

    def _on_init_timeout(self) -> None:
        self._init_timer = None
        self.kill(f"its import took longer than {self.spec.init_timeout_ms} ms")

    def _on_channel_end(self, problem: str) -> None:
        if problem:
            self.kill(problem)
        elif self._how is None:
            self._loop.call_later(_UNHEARD_S, self._kill_unheard)
        self._close_part("channel")

    def _kill_unheard(self) -> None:
        if self._how is None:
            self._unheard = not self.killed
            self.kill("it closed its channel to the node")

    def _stop_reading(self) -> None:
        self._channel.close()
        for output in self._outputs:
            output.close()

    def _close_part(self, part: str) -> None:
        self._open.discard(part)
        self._finish()

    def _finish(self) -> None:
        if self._how is None or self._open or self.gone.done():
            return
        self.gone.set_result(None)
        if self._init_timer is not None:
            self._init_timer.cancel()
        self.release()
        self._on_gone(self)
        self._listener.on_exit(self.instance_id, self._how)
