"""`pratai events send`: a CloudEvent to every trigger that it matches."""

from __future__ import annotations

import base64

import click
import msgspec

from pratai import ids
from pratai.cli.arguments import pair
from pratai.cli.client import decode, route
from pratai.cli.command import Group
from pratai.cli.event import JSON, read_event
from pratai.cli.session import Session
from pratai.model.api import EventsView

_STRUCTURED = {"Content-Type": "application/cloudevents+json"}


@click.group(
    cls=Group,
    example="pratai events send --type com.shop.order.made --source /shop --data '{\"sum\": 7}'",
)
def events() -> None:
    """Tell triggers what happened (CloudEvents)."""


@events.command(
    example="pratai events send --type com.shop.order.made --source /shop --data '{\"sum\": 7}'\n"
    "pratai events send --type com.scan.done --source /scanner --data @page.png"
)
@click.option("--type", "type_", required=True, metavar="TYPE", help="What kind of event it is.")
@click.option("--source", required=True, metavar="URI", help="Where it happened.")
@click.option("--id", "id_", default="", metavar="ID", help="Its own, within its source. [a new]")
@click.option("--subject", default="", help="What it is about.")
@click.option("--time", "time_", default="", metavar="TIME", help="When, as RFC 3339.")
@click.option(
    "--extension",
    "extensions",
    type=pair,
    multiple=True,
    metavar="NAME=VALUE",
    help="A further attribute.",
)
@click.option("--data", metavar="DATA", help="Its data: JSON, @FILE or -.")
@click.option("--content-type", default=None, help="What the data is. [as it looks]")
@click.pass_obj
def send(
    session: Session,
    *,
    type_: str,
    source: str,
    id_: str,
    subject: str,
    time_: str,
    extensions: tuple[tuple[str, str], ...],
    data: str | None,
    content_type: str | None,
) -> None:
    """Send an event to every trigger that it matches; done when it is kept durably.

    The same event, by --id and --source, runs nothing a second time.
    """
    event: dict[str, object] = {
        **dict(extensions),
        "specversion": "1.0",
        "id": id_ or ids.request_id(),
        "source": source,
        "type": type_,
        "subject": subject or None,
        "time": time_ or None,
    }
    if data is not None:
        event |= _data(data, content_type)
    answer = session.client.request(
        "POST", route("events"), headers=_STRUCTURED, body=msgspec.json.encode(event)
    )
    if session.output.as_json:
        session.output.write_json(answer.body)
        return
    for one in decode(answer.body, EventsView).events:
        rows = [
            (match.trigger, match.function, match.request_id, _what(match.failure, match.repeated))
            for match in one.matched
        ]
        rows += [(name, "", "", "paused: not given it") for name in one.paused]
        session.output.table(
            ("trigger", "function", "invocation", ""),
            rows,
            empty=f"The event {one.id} matches no trigger.",
        )


def _what(failure: str, repeated: bool) -> str:
    return failure or ("was accepted before" if repeated else "")


def _data(argument: str, content_type: str | None) -> dict[str, object]:
    """`data` and its content type: JSON and text as they are, other bytes as base64."""
    given = read_event(argument, content_type)
    kind = given.content_type
    told: dict[str, object] = {"datacontenttype": kind}
    essence = kind.partition(";")[0].strip()
    if essence == JSON or essence.endswith("+json"):
        return {**told, "data": msgspec.Raw(given.body)}
    if essence.startswith("text/"):
        try:
            return {**told, "data": given.body.decode()}
        except UnicodeDecodeError:
            pass  # no UTF-8, so it travels as the bytes it is
    return {**told, "data_base64": base64.b64encode(given.body).decode()}
