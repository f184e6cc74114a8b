"""`pratai replay`: run an invocation again with the same event."""

from __future__ import annotations

import click

from pratai.cli.client import decode, route
from pratai.cli.command import Command
from pratai.cli.session import Session
from pratai.model.api import AcceptedView


@click.command(
    cls=Command,
    example="pratai replay 01933b7e-8f1a-7c3e-9d0a-5f2b8c6d4e1f\n"
    "pratai replay 01933b7e-8f1a-7c3e-9d0a-5f2b8c6d4e1f --wait",
)
@click.argument("request_id", metavar="ID")
@click.option("--wait", is_flag=True, help="Wait for the outcome and show the result.")
@click.option(
    "--wait-ms",
    type=click.IntRange(min=1),
    default=960_000,
    show_default=True,
    help="With --wait: at most so long.",
)
@click.pass_obj
def replay(session: Session, request_id: str, *, wait: bool, wait_ms: int) -> None:
    """Run the event of an invocation again, as a new invocation; prints its id."""
    answer = session.client.request("POST", route("invocations", request_id, "replay"))
    accepted = decode(answer.body, AcceptedView)
    if wait:
        _show_result(session, accepted.request_id, wait_ms)
    elif session.output.as_json:
        session.output.write_json(answer.body)
    else:
        session.output.say(accepted.request_id)


def _show_result(session: Session, request_id: str, wait_ms: int) -> None:
    from pratai.cli.invoke import write_result
    from pratai.cli.watch import problem_of_view, result_bytes, watch

    session.output.remark(f"Replayed as {request_id}.", "dim")
    view = watch(session.client, request_id, patience_ms=wait_ms)
    problem = problem_of_view(view)
    if problem is not None:
        raise problem
    write_result(session, result_bytes(session.client, view), view.result_content_type)
