"""`pratai alias set|list|delete`: movable names of versions."""

from __future__ import annotations

import click
import msgspec

from pratai.cli.arguments import function_argument
from pratai.cli.client import JSON_BODY, decode, route
from pratai.cli.command import Group
from pratai.cli.session import Session
from pratai.model.api import AliasList, AliasRequest, AliasView


def _weight(text: str) -> tuple[str, float]:
    """`VERSION=SHARE`, the share from 0 to 1."""
    version, _, share = text.partition("=")
    try:
        number = float(share)
    except ValueError:
        number = -1.0
    if not version or not 0 <= number <= 1:
        raise click.BadParameter(f"{text!r} is not of the form VERSION=SHARE, e.g. 4=0.1.")
    return version, number


@click.group(cls=Group, example="pratai alias set hello live 3 --weight 4=0.1")
def alias() -> None:
    """Give a version a name that can be moved, and share calls between two versions."""


@alias.command(
    "set", example="pratai alias set hello live 3\npratai alias set hello live 3 --weight 4=0.1"
)
@function_argument
@click.argument("alias_name", metavar="ALIAS")
@click.argument("version", metavar="VERSION")
@click.option(
    "--weight",
    "weights",
    type=_weight,
    multiple=True,
    metavar="VERSION=SHARE",
    help="Send this share of calls (0 to 1) to another version.",
)
@click.pass_obj
def set_(
    session: Session,
    name: str,
    alias_name: str,
    version: str,
    weights: tuple[tuple[str, float], ...],
) -> None:
    """Create or move ALIAS of function NAME so that it means VERSION."""
    request = AliasRequest(version=version, weights=dict(weights))
    answer = session.client.request(
        "PUT",
        route("functions", name, "aliases", alias_name),
        headers=JSON_BODY,
        body=msgspec.json.encode(request),
    )
    if session.output.as_json:
        session.output.write_json(answer.body)
        return
    view = decode(answer.body, AliasView)
    session.output.say(f"{name}:{view.name} means version {view.version}{_shares(view)}.")


@alias.command("list", example="pratai alias list hello")
@function_argument
@click.pass_obj
def list_(session: Session, name: str) -> None:
    """List the aliases of a function."""
    found, body = session.client.get(route("functions", name, "aliases"), AliasList)
    if session.output.as_json:
        session.output.write_json(body)
        return
    rows = [(item.name, item.version, item.weights) for item in found.items]
    session.output.table(
        ("alias", ">version", "shares of other versions"), rows, empty=f"{name} has no aliases."
    )


@alias.command(example="pratai alias delete hello live")
@function_argument
@click.argument("alias_name", metavar="ALIAS")
@click.pass_obj
def delete(session: Session, name: str, alias_name: str) -> None:
    """Delete ALIAS; the version it means stays."""
    session.client.request("DELETE", route("functions", name, "aliases", alias_name))
    if session.output.as_json:
        session.output.write_json({"deleted": alias_name})
    else:
        session.output.say(f"Deleted the alias {alias_name} of {name}.")


def _shares(view: AliasView) -> str:
    return "".join(
        f", and {share:.0%} of calls go to version {version}"
        for version, share in view.weights.items()
    )
