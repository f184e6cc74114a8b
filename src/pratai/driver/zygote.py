"""The node's side of a zygote: its control socket and what it has forked.

Knows messages and descriptors; which zygote is used for what is a driver's decision. What comes
from a zygote may have been written by a function: what is not understood ends it.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
from collections import deque
from collections.abc import Callable
from typing import Any

import structlog

from pratai.errors import PlatformError

#: A start message is larger than this only by its environment, which then goes by a file.
_INLINE_BYTES_MAX = 60 * 1024
_MESSAGE_BYTES_MAX = 64 * 1024
_UNSENT_MAX = 1_024
#: {kind of message: {field: type}}: what a zygote says.
_FIELDS: dict[str, dict[str, type]] = {
    "hello": {},
    "ready": {},
    "begun": {"id": str, "pid": int},
    "ended": {"id": str, "status": int},
    "unfit": {"reason": str},
}

_log = structlog.get_logger("driver")

OnMessage = Callable[["Zygote", dict[str, Any], list[int]], None]
OnGone = Callable[["Zygote"], None]


class Zygote:
    """One zygote. `on_message(zygote, message, fds)` and `on_gone(zygote)` arrive on the loop."""

    def __init__(
        self, name: str, control: socket.socket, *, on_message: OnMessage, on_gone: OnGone
    ) -> None:
        self.name = name
        #: Set once it has said that it is ready to fork.
        self.ready = False
        self.gone = False
        self.process: subprocess.Popen[bytes] | None = None
        #: Messages that did not fit into the socket yet, with the descriptors to pass and close.
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        self._control = control
        self._on_message = on_message
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        control.setblocking(False)
        self._loop.add_reader(control.fileno(), self._receive)

    def ask(self, kind: str, spec: dict[str, Any], fds: list[int]) -> None:
        """Ask for a fork. Takes over `fds`: they are closed here once they are passed on.

        Raises:
            PlatformError: the zygote is gone or does not listen any more.

        """
        message = {"op": kind, "id": spec["instance_id"], "spec": spec}
        data = json.dumps(message).encode()
        if len(data) > _INLINE_BYTES_MAX:
            fds = [*fds, _spec_file(spec)]
            data = json.dumps({"op": kind, "id": spec["instance_id"], "spec_in_fd": True}).encode()
        self._queue(data, fds)

    def signal(self, child_id: str, number: int, *, tree: bool = False) -> None:
        """Have it signal what it forked (`tree`: with everything below). For drivers whose
        processes are out of this one's reach; a zygote that is gone has nothing left to signal.
        """
        if not self.gone:
            message = {"op": "signal", "id": child_id, "number": number, "tree": tree}
            self._queue(json.dumps(message).encode(), [])

    def _queue(self, data: bytes, fds: list[int]) -> None:
        if self.gone or len(self._unsent) >= _UNSENT_MAX:
            _close_all(fds)
            raise PlatformError(
                f"zygote {self.name} does not take orders",
                next_step="Try again; if it stays, restart this node.",
            )
        self._unsent.append((data, fds))
        if len(self._unsent) == 1:
            self._send()

    def close(self) -> None:
        """Close its control socket: it ends with everything it has forked."""
        if not self.gone:
            self._lose()

    def _send(self) -> None:
        while self._unsent:
            data, fds = self._unsent[0]
            try:
                socket.send_fds(self._control, [data], fds)
            except BlockingIOError:
                self._loop.add_writer(self._control.fileno(), self._send)
                return
            except OSError:
                self._lose()
                return
            self._unsent.popleft()
            _close_all(fds)
        self._loop.remove_writer(self._control.fileno())

    def _receive(self) -> None:
        while not self.gone:
            try:
                data, fds, _, _ = socket.recv_fds(self._control, _MESSAGE_BYTES_MAX, 4)
            except BlockingIOError:
                return
            except OSError:
                data, fds = b"", []
            if not data:
                self._lose()
                return
            message = _decode(data)
            if message is None:
                _log.error("zygote_not_understood", zygote=self.name, message=data[:200])
                _close_all(fds)
                self._lose()
                return
            self._on_message(self, message, fds)

    def _lose(self) -> None:
        self.gone = True
        self.ready = False
        self._loop.remove_reader(self._control.fileno())
        self._loop.remove_writer(self._control.fileno())
        self._control.close()
        while self._unsent:
            _close_all(self._unsent.popleft()[1])
        self._on_gone(self)


def control_pair() -> tuple[socket.socket, socket.socket]:
    """(ours, the zygote's): message boundaries are kept, descriptors can be passed."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _decode(data: bytes) -> dict[str, Any] | None:
    """A message with all that its kind has, or None."""
    try:
        message = json.loads(data)
        wanted = _FIELDS[message["op"]]
        fits = all(isinstance(message[name], kind) for name, kind in wanted.items())
    except (ValueError, LookupError, TypeError):
        return None
    return message if fits else None


def _spec_file(spec: dict[str, Any]) -> int:
    fd = os.memfd_create("spec", os.MFD_CLOEXEC)
    data = memoryview(json.dumps(spec).encode())
    while data:
        data = data[os.write(fd, data) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
