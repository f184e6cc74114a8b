"""How a process of Pratai lives: listens, serves HTTP until it is told to stop, drains, ends.

What is served is handed in; `supervisor.py` and `cluster/` compose it. A first signal drains, a
second one ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import uvicorn

from pratai.clock import now_ms
from pratai.errors import CallerError, PlatformError

#: Connections the kernel holds while the loop is busy.
BACKLOG = 2_048
#: How often a server that leaves looks whether connections are open.
LEAVE_LOOK_S = 0.02
CLOSE = (b"connection", b"close")


class Lived(Protocol):
    """A process, as its life needs it."""

    async def start(self, url: str) -> Any:
        """Start everything but the HTTP server; the ASGI application to be served."""
        ...

    async def serving(self) -> asyncio.Task[None] | None:
        """HTTP is served: what comes after that. A task that it returns is one that the process
        does not outlive.
        """
        ...

    async def drain(self, stop_now: asyncio.Event) -> None:
        """Let what runs end, within the limits; take nothing new."""
        ...

    async def stop(self) -> None:
        """End everything, latest started first."""
        ...


class Server(uvicorn.Server):
    """uvicorn without its own signal handling: draining is decided here."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `live`."""
        yield


async def live(
    make: Callable[[], Lived],
    listener: socket.socket,
    *,
    http: Any = "httptools",
    leave_ms: int = 0,
    **options: Any,
) -> None:
    """Run a process until it is told to stop. `options` are further ones of uvicorn's.

    `leave_ms`: how long it goes on answering what comes on open connections, once told to stop.
    """
    loop = asyncio.get_running_loop()
    stopping, stop_now = _stopped_by_signals(loop)
    process = make()
    stop = loop.create_task(stopping.wait())
    starting = loop.create_task(process.start(url_of(listener)))
    await asyncio.wait({starting, stop}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():  # told to stop while it waits for what it needs
        starting.cancel()
        await asyncio.wait({starting})
        return
    server = _server(starting.result(), http, options)
    serving = loop.create_task(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.001)
    settle_garbage()
    vital = await process.serving()
    notify("READY=1")
    ends = {stop, serving} if vital is None else {stop, serving, vital}
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    notify("STOPPING=1")
    if leave_ms:
        await leave(server, listener, leave_ms, stop_now)
    await process.drain(stop_now)
    server.should_exit = True
    await serving
    await process.stop()
    if vital is not None and vital.done() and not vital.cancelled():
        vital.result()


def _stopped_by_signals(
    loop: asyncio.AbstractEventLoop,
) -> tuple[asyncio.Event, asyncio.Event]:
    """Events of a first and of a second signal."""
    stopping, stop_now = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        if stopping.is_set():
            stop_now.set()
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    return stopping, stop_now


def _server(app: Any, http: Any, options: dict[str, Any]) -> Server:
    return Server(
        uvicorn.Config(
            app,
            http=http,
            loop="none",
            lifespan="off",
            ws="none",
            access_log=False,
            log_config=None,
            server_header=False,
            date_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=2,
            backlog=BACKLOG,
            **{"proxy_headers": False, **options},
        )
    )


async def leave(
    server: Server, listener: socket.socket, leave_ms: int, stop_now: asyncio.Event
) -> None:
    """Take no new connections, and part from those that are open without failing a request.

    A proxy that is refused goes elsewhere, for nothing was sent. Closing an open connection would
    be another matter: a request may be on its way, and a proxy may not send it twice. So each
    answer from now on says that it is the connection's last, and idle connections are left for
    the proxy to close.
    """
    # First a backlog of one, then close: connections that wait in it would be reset.
    listener.listen(0)
    await asyncio.sleep(LEAVE_LOOK_S)
    for one in server.servers:
        one.close()
    listener.close()
    server.config.encoded_headers.append(CLOSE)
    server.server_state.default_headers = [*server.server_state.default_headers, CLOSE]
    limit_ms = now_ms() + leave_ms
    while server.server_state.connections and not stop_now.is_set() and now_ms() < limit_ms:
        await asyncio.sleep(LEAVE_LOOK_S)


def url_of(listener: socket.socket) -> str:
    """Where a listening socket is reached over HTTP, by this machine."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def settle_garbage() -> None:
    """Look for cycles seldom, and never again among what lives as long as the process.

    What a call makes is freed by its reference counts; the collector took 5 % of a warm call.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    sys.setswitchinterval(0.0005)


def notify(state: str) -> None:
    """Tell the service manager, if there is one (sd_notify(3))."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
        sender.connect("\0" + path[1:] if path.startswith("@") else path)
        sender.sendall(state.encode())


@contextlib.contextmanager
def listening(host: str, port: int, *, or_any: bool = False) -> Iterator[socket.socket]:
    """A socket that listens; with `or_any` on any free port when this one is taken.

    Raises:
        CallerError: the host is not one of this machine's.
        PlatformError: the port is taken.

    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            _bind(listener, host, port, or_any=or_any)
        except OSError as error:
            if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                raise CallerError(
                    f"{host} is not an address of this machine: {error.strerror}",
                    code="address_unknown",
                    field="--host",
                    value=host,
                    next_step="Choose one with --host: 127.0.0.1, or 0.0.0.0 for all.",
                ) from None
            raise PlatformError(
                f"cannot listen on {host}:{port}: {error.strerror}",
                code="address_in_use",
                next_step="Stop what listens there, or choose another with --port (0 = any).",
            ) from None
        listener.setblocking(False)
        yield listener


def _bind(listener: socket.socket, host: str, port: int, *, or_any: bool) -> None:
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        if not or_any or error.errno != errno.EADDRINUSE:
            raise
        listener.bind((host, 0))
        listener.listen(BACKLOG)
