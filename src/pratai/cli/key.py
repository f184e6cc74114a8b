"""`pratai keys create|list|delete`: who may call; `pratai keys cluster`: who may join."""

from __future__ import annotations

import click
import msgspec

from pratai.cli.arguments import page_options, pages
from pratai.cli.client import JSON_BODY, decode, route
from pratai.cli.command import Group
from pratai.cli.output import Moment
from pratai.cli.session import Session
from pratai.model.api import KeyCreatedView, KeyList, KeyRequest, SigningSecretView


@click.group(cls=Group, example="pratai keys create --label ci\npratai keys list")
def keys() -> None:
    """Make, list and revoke keys. Needs an admin key."""


@keys.command(example="pratai keys create --label ci --namespace team-a")
@click.option("--label", default="", help="What the key is for.")
@click.option("--admin", is_flag=True, help="A key that may act in every namespace.")
@click.pass_obj
def create(session: Session, *, label: str, admin: bool) -> None:
    """Make a key for the namespace of --namespace. It is shown once and kept nowhere."""
    request = KeyRequest(label=label, admin=admin, namespace=session.namespace or "")
    answer = session.client.request(
        "POST", route("keys"), headers=JSON_BODY, body=msgspec.json.encode(request)
    )
    if session.output.as_json:
        session.output.write_json(answer.body)
        return
    made = decode(answer.body, KeyCreatedView)
    session.output.remark(
        f"Key {made.key_id} of namespace {made.namespace}; it is not shown again:", "dim"
    )
    session.output.say(made.key)


@keys.command(example="pratai keys cluster --file /etc/pratai/cluster.key")
@click.option(
    "--file",
    "path",
    type=click.Path(dir_okay=False),
    default="/etc/pratai/cluster.key",
    show_default=True,
    help="Where to write it; it must not be there yet.",
)
@click.pass_obj
def cluster(session: Session, *, path: str) -> None:
    """Make the key that all processes of a cluster share. Talks to no server.

    Copy the file to every machine of the cluster, for the user that runs Pratai alone, and set
    [queue] key_file to it.
    """
    from pratai.config.cluster_key import write_cluster_key

    write_cluster_key(path)
    if session.output.as_json:
        session.output.write_json({"file": path})
        return
    session.output.say(path)


@keys.command(example="pratai keys signing-secret")
@click.pass_obj
def signing_secret(session: Session) -> None:
    """Show by what outcomes are signed that are sent to URLs. Any key of the namespace will do."""
    view, body = session.client.get(route("signing-secret"), SigningSecretView)
    if session.output.as_json:
        session.output.write_json(body)
    else:
        session.output.say(view.secret)


@keys.command("list", example="pratai keys list")
@page_options
@click.pass_obj
def list_(session: Session, limit: int, cursor: str, everything: bool) -> None:
    """List the keys, not what they are."""
    query: dict[str, str | int | bool | None] = {"limit": limit, "cursor": cursor}
    found = pages(session, route("keys"), query, everything=everything)
    if session.output.as_json:
        session.output.write_pages(found)
        return
    rows = [
        (item.key_id, item.namespace, item.admin, item.label, Moment(item.created_at_ms))
        for page in found
        for item in decode(page, KeyList).items
    ]
    session.output.table(("key", "namespace", "admin", "label", "made"), rows, empty="No keys.")


@keys.command(example="pratai keys delete 0123456789abcdef")
@click.argument("key_id", metavar="ID")
@click.pass_obj
def delete(session: Session, key_id: str) -> None:
    """Make a key worthless."""
    session.client.request("DELETE", route("keys", key_id))
    if session.output.as_json:
        session.output.write_json({"deleted": key_id})
    else:
        session.output.say(f"Key {key_id} opens nothing any more.")
