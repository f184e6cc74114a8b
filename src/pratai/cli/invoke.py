"""`pratai invoke`: one call. The result goes to stdout alone; all else goes to stderr."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
import msgspec

from pratai.cli.arguments import function_argument
from pratai.cli.client import (
    CALL_TIMEOUT_S,
    ServerProblem,
    ServerUnreachable,
    Stream,
    decode,
    route,
)
from pratai.cli.command import Command
from pratai.cli.event import Event, read_event
from pratai.cli.output import pretty, write_bytes
from pratai.cli.session import Session

if TYPE_CHECKING:
    from pratai.cli.records import InvocationRecord

#: How long past a call's own timeout its answer is waited for.
_GRACE_S = 30.0


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be called and how."""

    name: str
    event: Event
    qualifier: str = ""
    idempotency_key: str = ""
    timeout_ms: int | None = None
    tail: bool = False

    def headers(self) -> dict[str, str]:
        """The request's headers."""
        headers = {"Content-Type": self.event.content_type}
        if self.idempotency_key:
            headers["Idempotency-Key"] = self.idempotency_key
        if self.timeout_ms is not None:
            headers["Pratai-Timeout-Ms"] = str(self.timeout_ms)
        return headers

    @property
    def path(self) -> str:
        """Where the call goes."""
        return route("functions", self.name, "invocations")


@click.command(
    cls=Command,
    example='pratai invoke hello \'{"name": "Ada"}\'\n'
    "pratai invoke thumbnail @photo.png > small.png\n"
    "cat orders.csv | pratai invoke import - --content-type text/csv\n"
    "pratai invoke report --async",
)
@function_argument
@click.argument("event", metavar="[EVENT|@FILE|-]", required=False)
@click.option("--async", "later", is_flag=True, help="Answer once the event is kept durably.")
@click.option("--tail", is_flag=True, help="Logs and timeline on stderr.")
@click.option("--qualifier", default="", metavar="Q", help="Version or alias to call.")
@click.option(
    "--idempotency-key", default="", metavar="KEY", help="Calls with the same key run once."
)
@click.option("--timeout-ms", type=click.IntRange(min=1), help="Deadline of this call.")
@click.option(
    "--content-type", metavar="TYPE", help="What the event is. [JSON; of a file: guessed]"
)
@click.pass_obj
def invoke(
    session: Session,
    name: str,
    event: str | None,
    *,
    later: bool,
    tail: bool,
    qualifier: str,
    idempotency_key: str,
    timeout_ms: int | None,
    content_type: str | None,
) -> None:
    """Call function NAME with EVENT ({} where none is given) and write its result to stdout."""
    call = Call(
        name=name,
        event=read_event(event, content_type),
        qualifier=qualifier,
        idempotency_key=idempotency_key,
        timeout_ms=timeout_ms,
        tail=tail,
    )
    if later:
        _invoke_later(session, call)
    else:
        _invoke_now(session, call)


def write_result(session: Session, body: bytes, content_type: str) -> None:
    """A whole result to stdout: unchanged when piped, readable in a terminal."""
    if session.output.as_json or not body:
        write_bytes(body)
        return
    readable = pretty(body) if content_type.startswith("application/json") else None
    if readable is not None:
        write_bytes(readable.encode() + b"\n")
    else:
        write_bytes(body if body.endswith(b"\n") else body + b"\n")


def _invoke_now(session: Session, call: Call) -> None:
    timeout_s = call.timeout_ms / 1000 + _GRACE_S if call.timeout_ms else CALL_TIMEOUT_S
    try:
        with session.client.open(
            "POST",
            call.path,
            query={"qualifier": call.qualifier},
            headers=call.headers(),
            body=call.event.body,
            timeout_s=timeout_s,
        ) as stream:
            _copy(session, stream)
            request_id = stream.headers.get("pratai-request-id", "")
            timing = _timing(stream.headers)
    except ServerProblem as problem:
        if call.tail and problem.request_id:
            _tail(session, problem.request_id, "")
        raise
    if call.tail and request_id:
        _tail(session, request_id, timing)


def _copy(session: Session, stream: Stream) -> None:
    """The result to stdout: as it arrives, or readable in a terminal when it is whole anyway."""
    content_type = stream.headers.get("content-type", "")
    if not session.output.as_json and "content-length" in stream.headers:
        write_result(session, b"".join(stream.chunks()), content_type)
        return
    try:
        last = b""
        for chunk in stream.chunks():
            write_bytes(chunk)
            last = chunk
    except ServerUnreachable:
        _explain_break(session, stream.headers.get("pratai-request-id", ""))
        raise
    if not session.output.as_json and last and not last.endswith(b"\n"):
        write_bytes(b"\n")


def _explain_break(session: Session, request_id: str) -> None:
    """A stream that broke: raise the function's own failure if that is why."""
    from pratai.cli.watch import problem_of_view, recorded

    view = recorded(session.client, request_id) if request_id else None
    problem = problem_of_view(view) if view is not None else None
    if problem is not None:
        raise problem


def _invoke_later(session: Session, call: Call) -> None:
    from pratai.model.api import AcceptedView

    answer = session.client.request(
        "POST",
        call.path,
        query={"qualifier": call.qualifier},
        headers={**call.headers(), "Prefer": "respond-async"},
        body=call.event.body,
    )
    accepted = decode(answer.body, AcceptedView)
    if session.output.as_json:
        session.output.write_json(answer.body)
    else:
        session.output.say(accepted.request_id)
    if not call.tail:
        return
    from pratai.cli.logs import LogPrinter
    from pratai.cli.watch import problem_of_view, watch

    printer = LogPrinter(session.output, to_stderr=True)
    view = watch(
        session.client,
        accepted.request_id,
        patience_ms=int(CALL_TIMEOUT_S * 1000),
        on_log=printer,
    )
    _write_timeline(session, view)
    problem = problem_of_view(view)
    if problem is not None:
        raise problem


def _tail(session: Session, request_id: str, timing: str) -> None:
    """Logs, then the timeline, on stderr."""
    from pratai.cli.logs import LogPrinter
    from pratai.cli.watch import last_logs, recorded

    printer = LogPrinter(session.output, to_stderr=True)
    view = recorded(session.client, request_id)
    if view is None:
        session.output.remark(f"{request_id} {timing}".rstrip(), "dim")
        return
    last_logs(session.client, request_id, printer)
    _write_timeline(session, view)


def _write_timeline(session: Session, view: InvocationRecord) -> None:
    from pratai.cli.timeline import draw, steps_of_marks

    kind = f", {view.start_kind} start" if view.start_kind else ""
    session.output.remark(f"{view.request_id}: {view.outcome}{kind}", "bold")
    width = session.output.stderr.width if sys.stderr.isatty() else 80
    for line in draw(steps_of_marks(view.timeline, view.duration_ms), width):
        session.output.remark(line)


def _timing(headers: dict[str, str]) -> str:
    """The answer's own figures, for calls of which no record is kept."""
    parts = [headers.get("pratai-outcome", ""), headers.get("pratai-start-kind", "")]
    for entry in headers.get("server-timing", "").split(","):
        name, _, rest = entry.strip().partition(";")
        if rest.startswith("dur="):
            parts.append(f"{name} {rest[4:]} ms")
    return " ".join(part for part in parts if part)
