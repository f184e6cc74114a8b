"""Calls that need nothing awaited, answered from the protocol itself, without a task.

A warm call with a known key, of a known version, is decided at once and answered by one callback.
The task, the two messages of an answer and the checks around them cost as much as the whole way
through gateway, scheduler, node and back (`docs/decisions/0007-direct-answers.md`). So such a call
is begun when its request is whole and its answer written when it comes. uvicorn keeps its own
records of the connection: order, keep-alive, bounds and shutdown stay its affair. Whatever is out
of the ordinary (no cached key, an async call, a large body, anything wrong) goes the long way,
which is the ASGI application; no error is answered here but a call's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, cast

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from pratai.gateway.calls import Call
from pratai.gateway.protocol import HoldingProtocol

#: Larger bodies are received by the application, which reads them with back pressure.
BODY_BYTES_MAX = 64 * 1024


class DirectApp(Protocol):
    """What the protocol needs of the application."""

    def begin_at_once(
        self, scope: Any, event: bytes, listener: Callable[[Call], None]
    ) -> Call | None:
        """Begin a sync call if nothing must be awaited for it; None for the long way."""
        ...

    def answer_bytes(self, call: Call, *, keep_alive: bool) -> tuple[bytes, bytes]:
        """Head and body of the answer to a call that has its result."""
        ...

    def streamer(self, call: Call) -> Any:
        """An ASGI application that writes the answer of a call that streams."""
        ...

    def finish(self, call: Call) -> None:
        """Record an answered call."""
        ...

    def cancel(self, call: Call) -> None:
        """The caller has gone."""
        ...


class DirectProtocol(HoldingProtocol):
    """One HTTP connection that answers plain calls by itself."""

    #: A request whose body is still coming, which may go the short way.
    _promising: RequestResponseCycle | None = None
    #: The call under way, and the request that it answers.
    _call: Call | None = None
    _asked: RequestResponseCycle | None = None
    #: The application under the type that this protocol needs.
    _app: DirectApp

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection."""
        self._app = cast("DirectApp", self.app)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody waits any more for the call under way."""
        self._promising = None
        super().connection_lost(exc)
        call, self._call = self._call, None
        if call is not None and call.result is None:
            self._app.cancel(call)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """A request has begun: keep it until it is whole if it may go the short way."""
        if app is not self.app or cycle.scope["method"] != "POST":
            super()._start_asgi_task(cycle, app)
        elif cycle.more_body:
            self._promising = cycle
            if cycle.waiting_for_100_continue:
                self._take_long_way(cycle)
        elif not self._begin(cycle):
            super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        """A part of a body: a large one is the application's to read."""
        cycle = self._promising
        if cycle is not None and len(cycle.body) + len(body) > BODY_BYTES_MAX:
            self._take_long_way(cycle)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is whole."""
        super().on_message_complete()
        cycle = self._promising
        if cycle is not None and not cycle.more_body:
            self._promising = None
            if not self._begin(cycle):
                super()._start_asgi_task(cycle, self.app)

    def _judge(self, received: int) -> None:
        """Bytes were taken; a body that stays unfinished is awaited by the application."""
        cycle = self._promising
        if cycle is not None and cycle.body:
            self._take_long_way(cycle)
        super()._judge(received)

    def _take_long_way(self, cycle: RequestResponseCycle) -> None:
        self._promising = None
        super()._start_asgi_task(cycle, self.app)

    def _begin(self, cycle: RequestResponseCycle) -> bool:
        if self.flow.write_paused or cycle.disconnected:
            return False
        self._asked = cycle
        call = self._app.begin_at_once(cycle.scope, bytes(cycle.body), self._answer)
        if call is not None and call.result is None:
            self._call = call
        return call is not None

    def _answer(self, call: Call) -> None:
        """Write the answer, or let a task do it if it streams."""
        cycle, self._call = self._asked, None
        assert cycle is not None, "a call has a request"
        if call.result is None:
            super()._start_asgi_task(cycle, self._app.streamer(call))
            return
        if not cycle.disconnected and not self.transport.is_closing():
            # A server that leaves says so in the headers of every answer.
            keep_alive = cycle.keep_alive and not self.server_state.default_headers
            head, body = self._app.answer_bytes(call, keep_alive=keep_alive)
            self._holding.write_whole(head, body)
            cycle.response_started = cycle.response_complete = True
            if not keep_alive:
                self.transport.close()
            cycle.on_response()
        self._app.finish(call)
