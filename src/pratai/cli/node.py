"""`pratai nodes` and `pratai node [show|drain|undrain]`."""

from __future__ import annotations

import click
import msgspec

from pratai.cli.client import decode, route
from pratai.cli.command import Command, Group
from pratai.cli.config import source_options
from pratai.cli.output import Moment, when
from pratai.cli.process import data_dir_option, ready_file_option, run
from pratai.cli.session import Session
from pratai.errors import NotFound
from pratai.model.api import NodeList, NodeView


@click.command(cls=Command, example="pratai nodes")
@click.pass_obj
def nodes(session: Session) -> None:
    """List the nodes of the cluster."""
    found, body = session.client.get(route("nodes"), NodeList)
    if session.output.as_json:
        session.output.write_json(body)
        return
    columns = (
        "node",
        "state",
        "driver",
        ">busy",
        "?>memory",
        ">instances",
        "?runtimes",
        "heard of",
    )
    rows = [
        (
            item.node_id,
            item.state,
            item.driver,
            f"{item.slots_busy}/{item.slots}",
            f"{item.memory_mb:,} MB",
            item.instances,
            item.runtimes,
            Moment(item.heard_at_ms),
        )
        for item in found.items
    ]
    session.output.table(columns, rows, empty="No node has joined.")


@click.group(
    cls=Group,
    example="pratai node --set queue.host=10.0.0.5\npratai node drain node-3f9c2a1b",
    invoke_without_command=True,
)
@data_dir_option
@ready_file_option
@source_options
@click.pass_context
def node(
    context: click.Context,
    *,
    data_dir: str | None,
    ready_file: str | None,
    files: tuple[str, ...],
    settings: tuple[tuple[str, str], ...],
) -> int | None:
    """Run this machine as a node of a cluster; or look at one, take it out of service and back."""
    if context.invoked_subcommand is not None:
        return None
    return run("node", data_dir=data_dir, ready_file=ready_file, files=files, settings=settings)


@node.command(example="pratai node show node-3f9c2a1b")
@click.argument("node_id", metavar="ID")
@click.pass_obj
def show(session: Session, node_id: str) -> None:
    """Show a node."""
    found, body = session.client.get(route("nodes"), NodeList)
    raw = decode(body, _RawNodes)
    for view, item in zip(found.items, raw.items, strict=True):
        if view.node_id == node_id:
            _write(session, view, bytes(item))
            return
    raise NotFound(
        f"There is no node {node_id}.",
        next_step="`pratai nodes` lists them.",
        field="node_id",
        value=node_id,
    )


@node.command(example="pratai node drain node-3f9c2a1b")
@click.argument("node_id", metavar="ID")
@click.pass_obj
def drain(session: Session, node_id: str) -> None:
    """Give a node no new calls; those that run may end."""
    _move(session, node_id, "drain")


@node.command(example="pratai node undrain node-3f9c2a1b")
@click.argument("node_id", metavar="ID")
@click.pass_obj
def undrain(session: Session, node_id: str) -> None:
    """Give a drained node calls again."""
    _move(session, node_id, "undrain")


class _RawNodes(msgspec.Struct):
    items: list[msgspec.Raw]


def _move(session: Session, node_id: str, move: str) -> None:
    body = session.client.request("POST", route("nodes", node_id, move)).body
    _write(session, decode(body, NodeView), body)


def _write(session: Session, view: NodeView, body: bytes) -> None:
    if session.output.as_json:
        session.output.write_json(body)
        return
    session.output.fields(
        {
            "node": view.node_id,
            "state": view.state,
            "driver": view.driver,
            "busy": f"{view.slots_busy} of {view.slots} slots",
            "memory": f"{view.memory_mb:,} MB",
            "instances": str(view.instances),
            "runtimes": view.runtimes,
            "architecture": view.architecture,
            "degraded": view.degraded,
            "joined": when(view.joined_at_ms),
            "heard of": when(view.heard_at_ms),
        }
    )
