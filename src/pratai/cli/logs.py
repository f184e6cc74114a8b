"""`pratai logs`: what a function wrote, now or as it comes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import click

from pratai.cli.arguments import complete_functions, moment
from pratai.cli.client import Client, ServerUnreachable, decode, route
from pratai.cli.command import Command
from pratai.cli.output import LEVEL_STYLES, LEVELS, Output, clock_time
from pratai.cli.session import Session
from pratai.cli.watch import logs_of, watch
from pratai.model.api import LogView

#: A stream that is silent for this long is asked for again from where it stopped.
_SILENCE_MAX_S = 120.0
_RECONNECTS_MAX = 10
_RECONNECT_LAST_S = 5.0
_FOLLOW_MS = 24 * 3_600_000


class LogPrinter:
    """Writes log records: a coloured line each in a terminal, a JSON line each otherwise."""

    def __init__(self, output: Output, *, level: str = "", to_stderr: bool = False) -> None:
        self._output = output
        self._least = LEVELS[level.upper()] if level else 0
        self._to_stderr = to_stderr

    def __call__(self, record: LogView) -> None:
        """Write one record unless its level is below the least asked for."""
        if LEVELS.get(record.level.upper(), 20) < self._least:
            return
        if self._to_stderr and not sys.stderr.isatty():
            self._output.remark(_plain(record))
        elif not self._to_stderr and self._output.as_json:
            self._output.write_line(record)
        else:
            self._draw(record)

    def _draw(self, record: LogView) -> None:
        from rich.text import Text

        style = LEVEL_STYLES.get(record.level.upper(), "")
        text = Text()
        text.append(f"{clock_time(record.at_ms)} ", style="dim")
        text.append(f"{record.level:<8} ", style=style)
        text.append(record.text.rstrip("\n"), style=style if style not in ("cyan", "dim") else "")
        if not self._to_stderr:
            text.append(f"  {record.request_id[-12:]}", style="dim")
        console = self._output.stderr if self._to_stderr else self._output.stdout
        console.print(text, soft_wrap=True)


@click.command(
    cls=Command,
    example="pratai logs hello --since 10m --grep timeout\n"
    "pratai logs hello -f\n"
    "pratai logs --request-id 01933b7e-8f1a-7c3e-9d0a-5f2b8c6d4e1f",
)
@click.argument("name", metavar="NAME", required=False, shell_complete=complete_functions)
@click.option("-f", "--follow", is_flag=True, help="Go on with new records until Ctrl-C.")
@click.option("--since", type=moment, metavar="TIME", help="Not older: 10m, 2h, 7d or an ISO time.")
@click.option("--grep", default="", metavar="TEXT", help="Only records with these words.")
@click.option("--request-id", default="", metavar="ID", help="Only those of one invocation.")
@click.option(
    "--level",
    type=click.Choice(("debug", "info", "warning", "error", "critical"), case_sensitive=False),
    default=None,
    help="Only this level and above.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=500,
    show_default=True,
    help="The newest records, at most so many.",
)
@click.pass_obj
def logs(
    session: Session,
    name: str | None,
    *,
    follow: bool,
    since: str | None,
    grep: str,
    request_id: str,
    level: str | None,
    limit: int,
) -> None:
    """Show what function NAME wrote, or what one invocation did."""
    printer = LogPrinter(session.output, level=level or "")
    if request_id:
        _of_invocation(session, request_id, printer, follow=follow)
        return
    if not name:
        raise click.UsageError("Missing argument NAME: name a function, or give --request-id.")
    query: dict[str, str | int | bool | None] = {"since": since, "grep": grep, "limit": limit}
    if follow:
        try:
            for record in follow_logs(session.client, name, query):
                printer(record)
        except KeyboardInterrupt:
            return
        return
    body = session.client.request("GET", route("functions", name, "logs"), query=query).body
    records = [decode(line, LogView) for line in body.splitlines() if line.strip()]
    for record in records:
        printer(record)
    if not records and not session.output.as_json:
        session.output.remark("No log records match.", "dim")


def follow_logs(
    client: Client,
    name: str,
    query: dict[str, str | int | bool | None],
    *,
    stop: threading.Event | None = None,
) -> Iterator[LogView]:
    """Records as they are written, over lost connections, until `stop` is set."""
    stop = stop or threading.Event()
    newest = 0
    failures = 0
    while not stop.is_set():
        headers = {"Accept": "text/event-stream"}
        if newest:
            headers["Last-Event-ID"] = str(newest)
        try:
            with client.open(
                "GET",
                route("functions", name, "logs"),
                query={**query, "follow": True},
                headers=headers,
                timeout_s=_SILENCE_MAX_S,
            ) as stream:
                for data in sse_data(stream.lines()):
                    record = decode(data, LogView)
                    failures = 0
                    if record.sequence > newest:
                        newest = record.sequence
                        yield record
        except ServerUnreachable as error:
            if error.code == "server_timeout":
                continue
            failures += 1
            if failures > _RECONNECTS_MAX:
                raise
        stop.wait(min(0.2 * 2**failures, _RECONNECT_LAST_S))


def sse_data(lines: Iterator[bytes]) -> Iterator[bytes]:
    """The data of each server-sent event; comments and other fields are passed over."""
    data: list[bytes] = []
    for raw in lines:
        line = raw.rstrip(b"\r")
        if not line:
            if data:
                yield b"\n".join(data)
            data = []
        elif line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))


def _of_invocation(session: Session, request_id: str, printer: LogPrinter, *, follow: bool) -> None:
    if follow:
        try:
            watch(session.client, request_id, patience_ms=_FOLLOW_MS, on_log=printer)
        except KeyboardInterrupt:
            return
        return
    records = list(logs_of(session.client, request_id))
    for record in records:
        printer(record)
    if not records and not session.output.as_json:
        session.output.remark("This invocation wrote nothing.", "dim")


def _plain(record: LogView) -> str:
    text = record.text.rstrip("\n")
    return f"{clock_time(record.at_ms)} {record.level:<8} {text}"
