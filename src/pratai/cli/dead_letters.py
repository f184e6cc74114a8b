"""`pratai dead-letters`: asynchronous events that were given up and wait for their owner."""

from __future__ import annotations

import click

from pratai.cli.arguments import complete_functions, confirm, page_options, pages
from pratai.cli.client import decode, route
from pratai.cli.command import Group
from pratai.cli.invocation import list_invocations, show_invocation
from pratai.cli.session import Session
from pratai.model.api import AcceptedView, PurgeView

_FUNCTION = click.option(
    "--function",
    "name",
    default="",
    metavar="NAME",
    shell_complete=complete_functions,
    help="Only those of this function.",
)


@click.group(cls=Group, example="pratai dead-letters list\npratai dead-letters replay --all")
def dead_letters() -> None:
    """Events whose every attempt failed: look at them, run them again, remove them."""


@dead_letters.command("list", example="pratai dead-letters list --function hello")
@_FUNCTION
@page_options
@click.pass_obj
def list_(session: Session, name: str, limit: int, cursor: str, everything: bool) -> None:
    """List the dead letters, newest first."""
    query: dict[str, str | int | bool | None] = {
        "function": name,
        "limit": limit,
        "cursor": cursor,
    }
    found = pages(session, route("dead-letters"), query, everything=everything)
    list_invocations(session, found, empty="No dead letters.")


@dead_letters.command(example="pratai dead-letters show 01933b7e-8f1a-7c3e-9d0a-5f2b8c6d4e1f")
@click.argument("request_id", metavar="ID")
@click.pass_obj
def show(session: Session, request_id: str) -> None:
    """Show a dead letter with its event and failure."""
    show_invocation(session, route("dead-letters", request_id))


@dead_letters.command(
    example="pratai dead-letters replay 01933b7e-8f1a-7c3e-9d0a-5f2b8c6d4e1f\n"
    "pratai dead-letters replay --all --function hello"
)
@click.argument("request_id", metavar="[ID]", required=False)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@_FUNCTION
@click.pass_obj
def replay(session: Session, request_id: str | None, *, everything: bool, name: str) -> None:
    """Run a dead letter again, or all of them; what is run again is one no more."""
    _one_or_all(request_id, everything=everything)
    if request_id:
        body = session.client.request("POST", route("dead-letters", request_id, "replay")).body
        if session.output.as_json:
            session.output.write_json(body)
        else:
            session.output.say(decode(body, AcceptedView).request_id)
        return
    answer = session.client.request(
        "POST", route("dead-letters", "replay"), query={"function": name}
    )
    _say_count(session, answer.body, "Replayed")


@dead_letters.command(
    example="pratai dead-letters purge 01933b7e-8f1a-7c3e-9d0a-5f2b8c6d4e1f\n"
    "pratai dead-letters purge --all --yes"
)
@click.argument("request_id", metavar="[ID]", required=False)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_FUNCTION
@click.pass_obj
def purge(
    session: Session, request_id: str | None, *, everything: bool, yes: bool, name: str
) -> None:
    """Remove a dead letter for good, or all of them."""
    _one_or_all(request_id, everything=everything)
    if request_id:
        answer = session.client.request("DELETE", route("dead-letters", request_id))
    else:
        whose = f" of {name}" if name else ""
        confirm(f"Remove all dead letters{whose} for good?", yes=yes)
        answer = session.client.request("DELETE", route("dead-letters"), query={"function": name})
    _say_count(session, answer.body, "Removed")


def _one_or_all(request_id: str | None, *, everything: bool) -> None:
    if bool(request_id) == everything:
        raise click.UsageError("Name one dead letter by its ID, or all of them with --all.")


def _say_count(session: Session, body: bytes, verb: str) -> None:
    count = decode(body, PurgeView).count if body else 1
    if session.output.as_json:
        session.output.write_json(body or {"count": count})
    else:
        session.output.say(f"{verb} {count} dead {'letter' if count == 1 else 'letters'}.")
