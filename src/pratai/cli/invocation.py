"""`pratai invocations` and `pratai invocation show`: the history of calls."""

from __future__ import annotations

from collections.abc import Iterator

import click
import msgspec

from pratai.cli.arguments import complete_functions, moment, more, page_options, pages
from pratai.cli.client import decode, route
from pratai.cli.command import Command, Group
from pratai.cli.output import Moment, Output, ms, pretty, when
from pratai.cli.records import InvocationPage, InvocationRecord
from pratai.cli.session import Session
from pratai.cli.timeline import draw, steps_of_marks

_OUTCOMES = ("succeeded", "failed", "timed_out", "crashed", "throttled", "discarded")
COLUMNS = ("request", "function", "outcome", "?>attempt", ">duration", "?start", "accepted")


@click.command(
    cls=Command,
    example="pratai invocations --function hello --outcome failed --since 1h\n"
    'pratai invocations --search "order 4711"',
)
@click.option(
    "--function", "name", default="", metavar="NAME", shell_complete=complete_functions,
    help="Only calls of this function.",
)  # fmt: skip
@click.option("--outcome", type=click.Choice(_OUTCOMES), help="Only those that ended so.")
@click.option(
    "--state", type=click.Choice(("queued", "leased", "done")), help="Only in this state."
)
@click.option(
    "--since", type=moment, metavar="TIME", help="Accepted since: 10m, 2h, 7d or an ISO time."
)
@click.option("--until", type=moment, metavar="TIME", help="Accepted before.")
@click.option("--search", default="", metavar="TEXT", help="Words in event, result or failure.")
@page_options
@click.pass_obj
def invocations(
    session: Session,
    name: str,
    *,
    outcome: str | None,
    state: str | None,
    since: str | None,
    until: str | None,
    search: str,
    limit: int,
    cursor: str,
    everything: bool,
) -> None:
    """List invocations, newest first."""
    query: dict[str, str | int | bool | None] = {
        "function": name,
        "outcome": outcome,
        "state": state,
        "since": since,
        "until": until,
        "search": search,
        "limit": limit,
        "cursor": cursor,
    }
    found = pages(session, route("invocations"), query, everything=everything)
    list_invocations(session, found, empty="No invocation matches.")


@click.group(cls=Group, example="pratai invocation show 01933b7e-8f1a-7c3e-9d0a-5f2b8c6d4e1f")
def invocation() -> None:
    """Look at one invocation."""


@invocation.command(example="pratai invocation show 01933b7e-8f1a-7c3e-9d0a-5f2b8c6d4e1f")
@click.argument("request_id", metavar="ID")
@click.pass_obj
def show(session: Session, request_id: str) -> None:
    """Show an invocation: event, result or failure, and where its time went."""
    show_invocation(session, route("invocations", request_id))


def show_invocation(session: Session, path: str) -> None:
    """The invocation at `path`, for people or programs."""
    view, body = session.client.get(path, InvocationRecord)
    output = session.output
    if output.as_json:
        output.write_json(body)
        return
    output.fields(
        {
            "request": view.request_id,
            "function": f"{view.function} version {view.version}",
            "qualifier": view.qualifier,
            "mode": f"{view.mode}, by {view.trigger}",
            "state": view.state,
            "outcome": view.outcome,
            "attempt": f"{view.attempt} of {view.attempts_max}",
            "accepted": when(view.accepted_at_ms),
            "finished": when(view.finished_at_ms),
            "duration": ms(view.duration_ms) if view.state == "done" else "",
            "start": " ".join(part for part in (view.start_kind, view.cold_reason) if part),
            "node": view.node_id,
            "instance": view.instance_id,
            "idempotency key": view.idempotency_key,
            "trace": view.trace,
            "replay of": view.replay_of,
            "dead letter": "yes" if view.dead else "",
        }
    )
    _show_payload(output, "event", view.event, view.event_encoding, view.content_type)
    _show_payload(output, "result", view.result, view.result_encoding, view.result_content_type)
    _show_failure(output, view)
    output.say("")
    for line in draw(steps_of_marks(view.timeline, view.duration_ms), output.stdout.width):
        output.say(line)


def list_invocations(session: Session, found: Iterator[bytes], *, empty: str) -> None:
    """Pages of invocations, for people or programs."""
    if session.output.as_json:
        session.output.write_pages(found)
        return
    rows: list[tuple[object, ...]] = []
    following = ""
    for page in found:
        listing = decode(page, InvocationPage)
        following = listing.next_cursor
        rows.extend(_row(item) for item in listing.items)
    session.output.table(COLUMNS, rows, empty=empty)
    more(session, following)


def _row(item: InvocationRecord) -> tuple[object, ...]:
    return (
        item.request_id,
        f"{item.function}:{item.version}",
        item.outcome or item.state,
        f"{item.attempt}/{item.attempts_max}",
        ms(item.duration_ms) if item.state == "done" else "",
        item.start_kind,
        Moment(item.accepted_at_ms),
    )


def _show_payload(
    output: Output, title: str, payload: msgspec.Raw | None, encoding: str, content_type: str
) -> None:
    """An event or result below its title; base64 is named, not shown."""
    if payload is None or bytes(payload) in (b"", b"null"):
        return
    output.say(f"\n{title} ({content_type})", "bold")
    value = msgspec.json.decode(bytes(payload))
    if encoding == "base64" and isinstance(value, str):
        output.say(f"{len(value.rstrip('=')) * 3 // 4:,} bytes that are not text")
        return
    if encoding == "text" and isinstance(value, str):
        output.say(value)
    else:
        output.say(pretty(bytes(payload)) or "")


def _show_failure(output: Output, view: InvocationRecord) -> None:
    failure = view.failure
    if failure is None:
        return
    output.say("\nfailure", "bold")
    for line in failure.stack:
        output.say(line.rstrip("\n"))
    kind = failure.error_type or failure.code
    output.say(f"{kind}: {failure.error_message}".rstrip(": "), "red")
    if failure.next:
        output.say(f"next: {failure.next}")
