"""Arguments and options that several commands share, with what the shell completes for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, TypeVar

import click

from pratai.cli.session import Session
from pratai.errors import PrataiError

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

#: How long the shell may be held up by a completion.
COMPLETION_PATIENCE_S = 0.5
PAGES_MAX = 100_000
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_AGE_DIGITS_MAX = 6
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")


def complete_functions(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Names of functions on the server, for the shell."""
    from pratai.cli.client import route
    from pratai.model.api import FunctionList

    session = context.find_object(Session) or Session()
    try:
        client = session.new_client(patience_s=COMPLETION_PATIENCE_S)
        found, _ = client.get(route("functions"), FunctionList, {"limit": 200})
    except PrataiError:
        # A shell that completes must stay quiet; the command itself will tell what is wrong.
        return []
    return [item.name for item in found.items if item.name.startswith(incomplete)]


def function_argument(decorated: Decorated) -> Decorated:
    """The argument NAME: a function."""
    return click.argument("name", metavar="NAME", shell_complete=complete_functions)(decorated)


def page_options(decorated: Decorated) -> Decorated:
    """`--limit`, `--cursor` and `--all` of a listing."""
    for option in reversed(
        (
            click.option(
                "--limit",
                type=click.IntRange(1, 500),
                default=50,
                show_default=True,
                help="Items on a page.",
            ),
            click.option("--cursor", default="", help="Go on after this `next_cursor`."),
            click.option("--all", "everything", is_flag=True, help="All pages."),
        )
    ):
        decorated = option(decorated)
    return decorated


def pages(
    session: Session, path: str, query: dict[str, str | int | bool | None], *, everything: bool
) -> Iterator[bytes]:
    """One page of a list, or all of them, as they come."""
    import msgspec

    class Next(msgspec.Struct):
        next_cursor: str = ""

    from pratai.cli.client import decode

    for _ in range(PAGES_MAX):
        body = session.client.request("GET", path, query=query).body
        yield body
        cursor = decode(body, Next).next_cursor
        if not everything or not cursor:
            return
        query = {**query, "cursor": cursor}


def moment(text: str) -> str:
    """A point in time as the server takes it: an age like `10m`, or epoch milliseconds.

    An age stays one, so that it counts by the server's clock and not by this machine's.
    """
    text = text.strip()
    if found := _SPAN.fullmatch(text):
        return _age(found[1], found[2])
    if text.isascii() and text.isdecimal():
        return text
    try:
        return str(int(datetime.fromisoformat(text).astimezone().timestamp() * 1000))
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is no time. Write an age like 90s, 10m, 2h or 7d, "
            "or a time like 2026-01-31T09:30."
        ) from None


def _age(number: str, unit: str) -> str:
    """An age in whole numbers of at most six digits, which is all that the server reads."""
    if number.isdecimal() and len(number) <= _AGE_DIGITS_MAX:
        return number + unit
    seconds = float(number) * _UNIT_MS[unit] / 1000
    for name, length_s in (("s", 1), ("m", 60), ("h", 3_600)):
        if seconds / length_s < 10**_AGE_DIGITS_MAX:
            return f"{round(seconds / length_s)}{name}"
    raise click.BadParameter(f"{number}{unit} is longer ago than anything is kept.")


def pair(text: str) -> tuple[str, str]:
    """`NAME=VALUE`, split at the first equals sign."""
    name, equals, content = text.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"{text!r} is not of the form NAME=VALUE.")
    return name, content


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something that cannot be undone; where nobody can answer, `--yes` is needed."""
    import sys

    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Nobody can answer here: add --yes to do it.")
    click.confirm(question, abort=True, err=True)


def more(session: Session, cursor: str) -> None:
    """Say how to see the next page."""
    if cursor:
        session.output.remark(f"There are more: add --cursor {cursor} or --all.", "dim")
