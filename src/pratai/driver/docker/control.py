"""The socket at which a container's first process finds its node.

Its directory is shown to that container alone, and lies in one that only this node's user may
enter; so it may be open to any user id, and nobody's right to change owners is needed. Only the
first process may come, once: the socket is removed as soon as it has, and no function finds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct

_NAME = "control"
_PEER = struct.Struct("3i")


class Control:
    """Listens in `directory`; `connected()` waits for the container."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._listening: socket.socket | None = None

    def listen(self) -> None:
        """Make the directory, if need be, and the socket in it."""
        os.makedirs(os.path.dirname(self._directory), mode=0o700, exist_ok=True)
        os.makedirs(self._directory, exist_ok=True)
        os.chmod(self._directory, 0o755)  # noqa: S103 - see above
        self._remove()
        # Through a descriptor: the path of a socket may have few characters only.
        folder = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            path = f"/proc/self/fd/{folder}/{_NAME}"
            listening.bind(path)
            os.chmod(path, 0o666)  # noqa: S103 - see above
            listening.listen(1)
            listening.setblocking(False)
        except OSError:
            listening.close()
            raise
        finally:
            os.close(folder)
        self._listening = listening

    async def connected(self, pid: int) -> socket.socket:
        """The connection of the container's first process, which is `pid` as the engine sees it."""
        assert self._listening is not None
        loop = asyncio.get_running_loop()
        while True:
            await _readable(loop, self._listening)
            try:
                connection, _ = self._listening.accept()
            except BlockingIOError:
                continue
            peer = _peer(connection)
            # 0: from a process namespace that is not below this one, so its number says nothing.
            if pid and peer not in (0, pid):
                connection.close()
                continue
            self.close()
            return connection

    def close(self) -> None:
        """Listen no more."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        self._remove()

    def _remove(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._directory, _NAME))


async def _readable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    ready: asyncio.Future[None] = loop.create_future()
    descriptor = sock.fileno()

    def settle() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(descriptor, settle)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


def _peer(connection: socket.socket) -> int:
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    return int(_PEER.unpack(data)[0])
