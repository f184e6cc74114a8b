"""`pratai triggers`: what makes functions run by themselves. Making one is `trigger_create.py`."""

from __future__ import annotations

import click
import msgspec

from pratai.cli.arguments import complete_functions, confirm, more, page_options, pages
from pratai.cli.client import JSON_BODY, decode, route
from pratai.cli.command import Group
from pratai.cli.session import Session
from pratai.cli.trigger_create import create, json_of, trigger_argument
from pratai.cli.trigger_text import COLUMNS, row_of, write_trigger
from pratai.model.api import AcceptedView, TriggerList


@click.group(
    cls=Group,
    example='pratai triggers create timer nightly --function report --cron "0 3 * * *"\n'
    "pratai triggers list\npratai triggers fire nightly",
)
def triggers() -> None:
    """Let functions run by themselves: at times, on events, when files appear."""


@triggers.command("list", example="pratai triggers list --function report")
@click.option(
    "--function",
    "function",
    default="",
    metavar="NAME",
    shell_complete=complete_functions,
    help="Only those of this function.",
)
@page_options
@click.pass_obj
def list_(session: Session, function: str, limit: int, cursor: str, everything: bool) -> None:
    """List the triggers."""
    query: dict[str, str | int | bool | None] = {
        "function": function,
        "limit": limit,
        "cursor": cursor,
    }
    found = pages(session, route("triggers"), query, everything=everything)
    if session.output.as_json:
        session.output.write_pages(found)
        return
    rows: list[tuple[object, ...]] = []
    following = ""
    for page in found:
        listing = decode(page, TriggerList)
        following = listing.next_cursor
        rows.extend(row_of(item) for item in listing.items)
    session.output.table(
        COLUMNS, rows, empty="No triggers yet. Make one with `pratai triggers create`."
    )
    more(session, following)


@triggers.command(example="pratai triggers show nightly")
@trigger_argument
@click.pass_obj
def show(session: Session, name: str) -> None:
    """Show a trigger: what it was told, and what it did."""
    write_trigger(session, session.client.request("GET", route("triggers", name)).body)


triggers.add_command(create)


@triggers.command(example="pratai triggers enable nightly")
@trigger_argument
@click.pass_obj
def enable(session: Session, name: str) -> None:
    """Switch a trigger on; what happened while it was off is not made up for."""
    _switch(session, name, "enable")


@triggers.command(example="pratai triggers disable nightly")
@trigger_argument
@click.pass_obj
def disable(session: Session, name: str) -> None:
    """Switch a trigger off."""
    _switch(session, name, "disable")


@triggers.command(example="pratai triggers pause nightly")
@trigger_argument
@click.pass_obj
def pause(session: Session, name: str) -> None:
    """Hold a trigger for now; a timer makes up for runs meanwhile as its --missed says."""
    _switch(session, name, "pause")


@triggers.command(example="pratai triggers resume nightly")
@trigger_argument
@click.pass_obj
def resume(session: Session, name: str) -> None:
    """Hold a trigger no longer."""
    _switch(session, name, "resume")


@triggers.command(example="pratai triggers fire nightly\npratai triggers fire orders @order.json")
@trigger_argument
@click.argument("event", metavar="[EVENT|@FILE|-]", required=False)
@click.pass_obj
def fire(session: Session, name: str, event: str | None) -> None:
    """Run a trigger's function once, now; its EVENT is what a timer would give, if none is told."""
    body = b"" if event is None else msgspec.json.encode({"event": json_of(event, "event")})
    answer = session.client.request(
        "POST", route("triggers", name, "fire"), headers=JSON_BODY, body=body
    )
    if session.output.as_json:
        session.output.write_json(answer.body)
    else:
        session.output.say(decode(answer.body, AcceptedView).request_id)


@triggers.command(example="pratai triggers delete nightly --yes")
@trigger_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def delete(session: Session, name: str, *, yes: bool) -> None:
    """Delete a trigger; what it accepted runs as it would have."""
    confirm(f"Delete the trigger {name}?", yes=yes)
    session.client.request("DELETE", route("triggers", name))
    if session.output.as_json:
        session.output.write_json({"deleted": name})
    else:
        session.output.say(f"Deleted {name}.")


def _switch(session: Session, name: str, move: str) -> None:
    write_trigger(session, session.client.request("POST", route("triggers", name, move)).body)
