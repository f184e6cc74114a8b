"""What a connection may ask of the server before its request is whole: bytes and time.

uvicorn bounds neither, so that a head without an end would fill the memory, and silence would hold
a connection for ever. What is refused here gets a problem document like everything else. Only HTTP
itself is judged; what a request says is the application's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from pratai import ids
from pratai.errors import CallerError
from pratai.gateway.problems import problem_bytes

#: Request line and headers together.
HEAD_BYTES_MAX = 64 * 1024
#: From the first byte of a head to its last; also the silence allowed within a body.
PATIENCE_S = 30.0
#: After a refusal what still comes is read and dropped for this long, so that the answer arrives.
LINGER_S = 1.0


class BoundedProtocol(HttpToolsProtocol):
    """One HTTP connection that cannot ask for more than its share."""

    #: Bytes and end of patience of a head that is not whole yet.
    _head_bytes = 0
    _head_due_s = 0.0
    _refused = False
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection; one that says nothing is closed."""
        super().connection_made(transport)
        self._await_more(PATIENCE_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer with the connection."""
        self._forget_patience()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes of a request; begin to count when they leave it unfinished."""
        if self._refused:
            return
        if self._patience is not None:
            self._forget_patience()
        super().data_received(data)
        cycle = self.cycle
        if self._head_bytes or cycle is None or cycle.more_body or "method" not in self.scope:
            self._judge(len(data))

    def _judge(self, received: int) -> None:
        """Look at what the bytes left unfinished: nothing, a head or a body."""
        if self._refused or self.transport.is_closing():
            return
        if "method" not in (self._scope or ()):
            self._in_head(received)
        elif self._head_bytes:
            self._head_bytes = 0
        cycle = self._answering
        if cycle is not None and cycle.more_body:
            self._await_more(PATIENCE_S)

    @property
    def _scope(self) -> Mapping[str, object] | None:
        """The newest request; None before the first."""
        return cast("Mapping[str, object] | None", self.scope)

    @property
    def _answering(self) -> RequestResponseCycle | None:
        """The newest request's answer while it is not written whole."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return None if cycle is None or cycle.response_complete else cycle

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's own words
        """Answer what is not HTTP."""
        self.refuse(
            CallerError(
                "the request is not correct HTTP/1.1",
                next_step="Let an HTTP client write it; check its path and header lines.",
            )
        )

    def refuse(self, error: CallerError) -> None:
        """Answer a request that will not be read to its end, then close."""
        self._refused = True
        self._forget_patience()
        cycle = self._answering
        if cycle is not None:
            if not cycle.more_body or cycle.response_started or self.pipeline:
                self.transport.abort()  # another answer is on its way
                return
            cycle.disconnected = True  # its body will not come: the application need not answer
            cycle.message_event.set()
        request_id = ids.request_id()
        status, headers, body = problem_bytes(error, request_id)
        lines = [
            b"HTTP/1.1 %d %b" % (status, HTTPStatus(status).phrase.encode()),
            *(b"%b: %b" % header for header in headers),
            b"content-length: %d" % len(body),
            b"pratai-request-id: %b" % request_id.encode(),
            b"connection: close",
        ]
        self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n")
        self.transport.write(body)
        self.transport.write_eof()
        self._patience = self.loop.call_later(LINGER_S, self.transport.abort)

    def _in_head(self, received: int) -> None:
        """A head is not whole yet."""
        if not self._head_bytes:
            self._head_due_s = self.loop.time() + PATIENCE_S
        self._head_bytes += received
        if self._head_bytes > HEAD_BYTES_MAX:
            self.refuse(
                CallerError(
                    f"request line and headers have more than {HEAD_BYTES_MAX} bytes",
                    code="head_too_large",
                    status=HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                    allowed=f"at most {HEAD_BYTES_MAX} bytes",
                    next_step="Send fewer or shorter headers; put data into the body.",
                )
            )
        else:
            self._await_more(max(0.0, self._head_due_s - self.loop.time()))

    def _await_more(self, seconds: float) -> None:
        self._forget_patience()
        self._patience = self.loop.call_later(seconds, self._out_of_patience)

    def _forget_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _out_of_patience(self) -> None:
        self._patience = None
        cycle = self._answering
        if cycle is not None:
            if self.flow.read_paused:  # it is us who do not read
                self._await_more(PATIENCE_S)
                return
            if not cycle.more_body:
                return
        elif self._scope is None and not self._head_bytes:
            self.transport.close()
            return
        self.refuse(
            CallerError(
                f"the request was not whole within {PATIENCE_S:.0f} s",
                code="request_timeout",
                status=HTTPStatus.REQUEST_TIMEOUT,
                next_step="Send it again, faster.",
            )
        )
