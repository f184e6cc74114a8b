"""`pratai triggers create timer|event|folder`: a trigger from options."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

from pratai.cli.arguments import complete_functions, pair
from pratai.cli.client import JSON_BODY, decode, route
from pratai.cli.command import Group
from pratai.cli.event import JSON, read_event
from pratai.cli.output import when
from pratai.cli.session import Session
from pratai.cli.trigger_text import when_of
from pratai.errors import InvalidField, PrataiError
from pratai.model.api import TriggerList, TriggerView

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_SPAN = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(ms|s|m|h|d|w)")
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


def complete_triggers(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Names of triggers on the server, for the shell."""
    from pratai.cli.arguments import COMPLETION_PATIENCE_S

    session = context.find_object(Session) or Session()
    try:
        client = session.new_client(patience_s=COMPLETION_PATIENCE_S)
        found, _ = client.get(route("triggers"), TriggerList, {"limit": 200})
    except PrataiError:
        # A shell that completes must stay quiet; the command itself will tell what is wrong.
        return []
    return [item.name for item in found.items if item.name.startswith(incomplete)]


def trigger_argument(decorated: Decorated) -> Decorated:
    """The argument NAME: a trigger."""
    return click.argument("name", metavar="NAME", shell_complete=complete_triggers)(decorated)


def span_ms(text: str) -> int:
    """Milliseconds of a span like `90s`, `10m`, `2h`, `1.5d`."""
    found = _SPAN.fullmatch(text.strip())
    if found is None:
        raise click.BadParameter(f"{text!r} is no span. Write one like 500ms, 30s, 10m, 2h or 1d.")
    return round(float(found[1]) * _UNIT_MS[found[2]])


def _common_options(decorated: Decorated) -> Decorated:
    """The options that triggers of every kind have."""
    for option in reversed(
        (
            click.option(
                "--function",
                required=True,
                metavar="NAME",
                shell_complete=complete_functions,
                help="Function to run.",
            ),
            click.option("--qualifier", default="", help="Version or alias to run. [$LATEST]"),
            click.option("--description", default="", help="What it is for."),
            click.option(
                "--enabled/--disabled",
                "enabled",
                default=None,
                help="Whether it is switched on. [a new one is]",
            ),
        )
    ):
        decorated = option(decorated)
    return decorated


@click.group(cls=Group, example="pratai triggers create timer beat --function ping --every 30s")
def create() -> None:
    """Make a trigger, or change one of the same name whole."""


@create.command(
    example='pratai triggers create timer nightly --function report --cron "0 3 * * *" '
    "--timezone Europe/Berlin --missed latest\n"
    "pratai triggers create timer beat --function ping --every 30s"
)
@trigger_argument
@_common_options
@click.option("--cron", default="", help="When: five fields, or six with seconds first.")
@click.option("--every", type=span_ms, default=None, metavar="SPAN", help="Or how often: 30s, 2h.")
@click.option("--timezone", default="UTC", show_default=True, help="Whose time --cron tells.")
@click.option(
    "--missed",
    type=click.Choice(("skip", "latest", "all")),
    default="latest",
    show_default=True,
    help="What becomes of runs that were due while nothing could run.",
)
@click.option("--input", "event", metavar="EVENT", help="Event to give: JSON, @FILE or -.")
@click.pass_obj
def timer(
    session: Session,
    /,
    name: str,
    *,
    cron: str,
    every: int | None,
    timezone: str,
    missed: str,
    event: str | None,
    **common: Any,
) -> None:
    """Run a function at times."""
    if bool(cron) == (every is not None):
        raise click.UsageError("Give either --cron or --every.")
    source: dict[str, object] = {"missed": missed, "timezone": timezone}
    source |= {"cron": cron} if cron else {"every_ms": every}
    body: dict[str, object] = {**common, "timer": source}
    if event is not None:
        body["input"] = json_of(event, "input")
    _put(session, name, body)


@create.command(
    "event",
    example='pratai triggers create event orders --function bill --type "com.shop.order.*"\n'
    "pratai triggers create event eu --function bill --type com.shop.order.made "
    "--data customer.country=DE --data customer.country=FR",
)
@trigger_argument
@_common_options
@click.option("--type", "types", multiple=True, metavar="PATTERN", help="Type: TEXT, PRE*, *SUF.")
@click.option("--source", "sources", multiple=True, metavar="PATTERN", help="Where it came from.")
@click.option("--subject", "subjects", multiple=True, metavar="PATTERN", help="What it is about.")
@click.option(
    "--extension",
    "extensions",
    type=pair,
    multiple=True,
    metavar="NAME=PATTERN",
    help="An extension attribute.",
)
@click.option(
    "--data",
    "data",
    type=pair,
    multiple=True,
    metavar="PATH=VALUE",
    help="A value in the JSON data; a number, true, false, null, or text.",
)
@click.pass_obj
def event_(
    session: Session,
    /,
    name: str,
    *,
    types: tuple[str, ...],
    sources: tuple[str, ...],
    subjects: tuple[str, ...],
    extensions: tuple[tuple[str, str], ...],
    data: tuple[tuple[str, str], ...],
    **common: Any,
) -> None:
    """Run a function on the CloudEvents that match. What is given twice are alternatives."""
    source = {
        "type": types,
        "source": sources,
        "subject": subjects,
        "extensions": _grouped(extensions, str),
        "data": _grouped(data, _scalar),
    }
    _put(session, name, {**common, "event": source})


@create.command(example="pratai triggers create folder scans --function ocr --path /srv/scans")
@trigger_argument
@_common_options
@click.option("--path", required=True, help="Folder on the agent's machine.")
@click.option("--pattern", default="*", show_default=True, help="Which file names.")
@click.option(
    "--settle", type=span_ms, default="1s", show_default=True, help="Unchanged for so long: whole."
)
@click.option(
    "--after",
    type=click.Choice(("keep", "move", "delete")),
    default="keep",
    show_default=True,
    help="What becomes of a file once its event is accepted.",
)
@click.option("--move-to", default="", help="Where files go with --after move.")
@click.pass_obj
def folder(
    session: Session,
    /,
    name: str,
    *,
    path: str,
    pattern: str,
    settle: int,
    after: str,
    move_to: str,
    **common: Any,
) -> None:
    """Run a function on each file that appears in a folder. Needs an admin key."""
    source = {
        "path": path,
        "pattern": pattern,
        "settle_ms": settle,
        "after": after,
        "move_to": move_to,
    }
    _put(session, name, {**common, "folder": source})


def _put(session: Session, name: str, body: dict[str, object]) -> None:
    answer = session.client.request(
        "PUT", route("triggers", name), headers=JSON_BODY, body=msgspec.json.encode(body)
    )
    if session.output.as_json:
        session.output.write_json(answer.body)
        return
    view = decode(answer.body, TriggerView)
    verb = "Made" if answer.status == 201 else "Changed"
    session.output.say(f"{verb} {view.name}: {when_of(view)} -> {view.function}.")
    if view.state.next_run_at_ms:
        session.output.say(f"Next run: {when(view.state.next_run_at_ms)}.")


def json_of(argument: str, field: str) -> msgspec.Raw:
    """JSON from an argument, a file or stdin."""
    event = read_event(argument, None)
    if event.content_type != JSON:
        raise InvalidField(
            f"The {field} is not JSON.",
            next_step="Give JSON, or a file or stdin that holds it.",
            field=field,
        )
    return msgspec.Raw(event.body)


def _grouped(
    pairs: tuple[tuple[str, str], ...], convert: Callable[[str], object]
) -> dict[str, list[object]]:
    """{name: values}, in the order they were given."""
    grouped: dict[str, list[object]] = {}
    for name, text in pairs:
        grouped.setdefault(name, []).append(convert(text))
    return grouped


def _scalar(text: str) -> object:
    """A JSON number, true, false, null or string; anything else is text as it stands."""
    try:
        value: object = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
    return text if isinstance(value, list | dict) else value
