"""`pratai why`: what happened to an invocation, why, and what to do, in words."""

from __future__ import annotations

import click

from pratai.cli.client import route
from pratai.cli.command import Command
from pratai.cli.output import OUTCOME_STYLES
from pratai.cli.session import Session
from pratai.cli.timeline import draw, steps_of_story
from pratai.model.api import ExplanationView


@click.command(cls=Command, example="pratai why 01933b7e-8f1a-7c3e-9d0a-5f2b8c6d4e1f")
@click.argument("request_id", metavar="ID")
@click.pass_obj
def why(session: Session, request_id: str) -> None:
    """Tell the story of an invocation: what happened, why, and what to do next."""
    view, body = session.client.get(route("invocations", request_id, "why"), ExplanationView)
    output = session.output
    if output.as_json:
        output.write_json(body)
        return
    output.say(view.summary, OUTCOME_STYLES.get(view.outcome, "bold"))
    if view.cause:
        output.say(f"Cause: {view.cause}")
    if view.fault:
        output.say(f"Whose fault: {_WHOSE.get(view.fault, view.fault)}")
    if view.next:
        output.say(f"next: {view.next}")
    output.say("")
    for line in draw(steps_of_story(view.steps), output.stdout.width):
        output.say(line)
    if view.stack:
        output.say("")
        for line in view.stack:
            output.say(line.rstrip("\n"), "red")


_WHOSE = {
    "caller": "the caller's",
    "function": "the function's code",
    "platform": "the platform's",
}
