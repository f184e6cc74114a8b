"""`pratai functions` and `pratai function ...`: list, show, delete, versions, publish, rollback."""

from __future__ import annotations

import click
import msgspec

from pratai.cli.arguments import function_argument, more, page_options, pages
from pratai.cli.client import JSON_BODY, decode, route
from pratai.cli.command import Command, Group
from pratai.cli.config import load, source_options
from pratai.cli.output import Moment, ms, size, when
from pratai.cli.session import Session
from pratai.model.api import (
    FunctionList,
    FunctionView,
    PublishRequest,
    RollbackRequest,
    VersionList,
    VersionView,
)

_COLUMNS = ("name", ">version", "runtime", "state", "?>memory", "?>timeout", "changed", "?url")


@click.command(cls=Command, example="pratai functions\npratai functions --json | jq .items[].name")
@page_options
@click.pass_obj
def functions(session: Session, limit: int, cursor: str, everything: bool) -> None:
    """List the functions."""
    _list_functions(session, limit, cursor, everything=everything)


@click.group(cls=Group, example="pratai function show hello\npratai function rollback hello")
def function() -> None:
    """Look at one function, change what runs, remove it."""


@function.command("list", example="pratai function list --all")
@page_options
@click.pass_obj
def list_(session: Session, limit: int, cursor: str, everything: bool) -> None:
    """List the functions; the same as `pratai functions`."""
    _list_functions(session, limit, cursor, everything=everything)


@function.command(example="pratai function show hello")
@function_argument
@click.pass_obj
def show(session: Session, name: str) -> None:
    """Show a function with its whole configuration."""
    view, body = session.client.get(route("functions", name), FunctionView)
    if session.output.as_json:
        session.output.write_json(body)
    else:
        show_function(session, view)


@function.command(example="pratai function delete hello\npratai function delete hello --force")
@function_argument
@click.option("--force", is_flag=True, help="Though triggers run it: they are disabled.")
@click.pass_obj
def delete(session: Session, name: str, *, force: bool) -> None:
    """Delete a function with all its versions and aliases."""
    session.client.request("DELETE", route("functions", name), query={"force": force})
    if session.output.as_json:
        session.output.write_json({"deleted": name})
    else:
        session.output.say(f"Deleted {name}.")


@function.command(example="pratai function versions hello")
@function_argument
@page_options
@click.pass_obj
def versions(session: Session, name: str, limit: int, cursor: str, everything: bool) -> None:
    """List the versions of a function, newest first; `*` marks what `$LATEST` means."""
    path = route("functions", name, "versions")
    found = pages(session, path, {"limit": limit, "cursor": cursor}, everything=everything)
    if session.output.as_json:
        session.output.write_pages(found)
        return
    rows: list[tuple[object, ...]] = []
    for page in found:
        for item in decode(page, VersionList).items:
            mark = "*" if item.latest else ""
            note = item.description
            rows.append(
                (
                    f"{mark}{item.version}",
                    Moment(item.created_at_ms),
                    item.digest[:12],
                    size(item.package_bytes),
                    item.handler,
                    item.aliases,
                    note,
                )
            )
    columns = (">version", "created", "digest", "?>package", "?handler", "aliases", "description")
    session.output.table(columns, rows, empty=f"{name} has no versions.")


@function.command(example='pratai function publish hello --description "before the move"')
@function_argument
@click.option("--description", default="", help="What this version is.")
@click.pass_obj
def publish(session: Session, name: str, description: str) -> None:
    """Publish what `$LATEST` means as a numbered version that is kept."""
    body = msgspec.json.encode(PublishRequest(description=description))
    answer = session.client.request(
        "POST", route("functions", name, "versions"), headers=JSON_BODY, body=body
    )
    if session.output.as_json:
        session.output.write_json(answer.body)
    else:
        view = decode(answer.body, VersionView)
        session.output.say(f"Published {name} version {view.version} ({view.digest[:12]}).")


@function.command(example="pratai function rollback hello\npratai function rollback hello 3")
@function_argument
@click.argument("version", required=False, default="")
@click.pass_obj
def rollback(session: Session, name: str, version: str) -> None:
    """Let `$LATEST` mean an earlier VERSION again: the one before it where none is given."""
    body = msgspec.json.encode(RollbackRequest(version=version))
    answer = session.client.request(
        "POST", route("functions", name, "rollback"), headers=JSON_BODY, body=body
    )
    if session.output.as_json:
        session.output.write_json(answer.body)
    else:
        view = decode(answer.body, FunctionView)
        session.output.say(f"{name} runs version {view.version} again ({view.digest[:12]}).")


@function.command(
    example="pratai function image hello\npratai function image hello --tag shop/hello:7"
)
@function_argument
@click.option("--tag", default="", metavar="T", help="Name of the image. [pratai/NAME:VERSION]")
@source_options
@click.pass_obj
def image(
    session: Session,
    name: str,
    *,
    tag: str,
    files: tuple[str, ...],
    settings: tuple[tuple[str, str], ...],
) -> None:
    """Build an image of a function on this machine's Docker engine: code, dependencies, packages.

    It stands on the image of the function's runtime (`pratai runtimes build`).
    """
    from pratai.cli.function_image import build_image

    build_image(
        session,
        name,
        tag=tag,
        config=load("node", files, settings).config,
    )


def show_function(session: Session, view: FunctionView) -> None:
    """A function for people: names and values below each other."""
    session.output.fields(
        {
            "name": view.name,
            "version": view.version,
            "state": view.state,
            "url": view.url,
            "description": view.description,
            "runtime": view.runtime,
            "handler": view.handler,
            "digest": view.digest,
            "package": size(view.package_bytes),
            "layer": view.layer,
            "created": when(view.created_at_ms),
            "changed": when(view.updated_at_ms),
            "memory": f"{view.memory_mb} MB",
            "timeout": ms(view.timeout_ms),
            "concurrency_max": view.concurrency_max,
            "environment": view.environment,
            "secrets": view.secrets,
            "network": view.network,
            "tmp": f"{view.tmp_mb} MB",
            "retries": f"{view.retries}, the first after {ms(view.retry_backoff_ms)}",
            "event age at most": ms(view.event_age_max_ms),
            "on_success": view.on_success,
            "on_failure": view.on_failure,
            "public": view.public,
            "keep_warm": view.keep_warm,
            "labels": view.labels,
            "apt": view.apt,
            "aliases": {name: alias.version for name, alias in view.aliases.items()},
        }
    )


def _list_functions(session: Session, limit: int, cursor: str, *, everything: bool) -> None:
    query: dict[str, str | int | bool | None] = {"limit": limit, "cursor": cursor}
    found = pages(session, route("functions"), query, everything=everything)
    if session.output.as_json:
        session.output.write_pages(found)
        return
    rows: list[tuple[object, ...]] = []
    following = ""
    for page in found:
        listing = decode(page, FunctionList)
        following = listing.next_cursor
        rows.extend(
            (
                item.name,
                item.version,
                item.runtime,
                item.state,
                f"{item.memory_mb} MB",
                ms(item.timeout_ms),
                Moment(item.updated_at_ms),
                item.url,
            )
            for item in listing.items
        )
    session.output.table(
        _COLUMNS, rows, empty="No functions yet. Deploy one with `pratai deploy PATH`."
    )
    more(session, following)
