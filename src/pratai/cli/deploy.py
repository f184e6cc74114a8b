"""`pratai deploy`: pack a file, folder or zip, send it, show what became of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pratai.cli.arguments import pair
from pratai.cli.command import Command
from pratai.cli.project import default_name
from pratai.cli.session import Session
from pratai.cli.upload import Deployed, Package, send
from pratai.errors import InvalidField

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from pratai.cli.output import Output

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_POSITIVE = click.IntRange(min=1)
_NATURAL = click.IntRange(min=0)
#: A bar for less would only flicker.
_BAR_FROM_BYTES = 256 * 1024


def config_options(decorated: Decorated) -> Decorated:
    """The options that configure a function; what is not given is left to the package."""
    options = (
        click.option("--runtime", metavar="R", help="Language environment. [found]"),
        click.option("--handler", metavar="M:F", help="module:function to call. [found]"),
        click.option("--description", help="What the function is for."),
        click.option("--memory-mb", type=_POSITIVE, help="Memory of an instance. [256]"),
        click.option("--timeout-ms", type=_POSITIVE, help="Longest call. [30000]"),
        click.option("--concurrency-max", type=_POSITIVE, help="Calls at one time, in all."),
        click.option(
            "--env", "environment", type=pair, multiple=True, metavar="K=V", help="Variable."
        ),
        click.option("--secret", "secrets", multiple=True, metavar="NAME", help="Secret to give."),
        click.option(
            "--network",
            type=click.Choice(("outbound", "none", "host")),
            help="What may be reached. [outbound]",
        ),
        click.option("--tmp-mb", type=_NATURAL, help="Room in /tmp. [512]"),
        click.option("--retries", type=_NATURAL, help="Further attempts of async calls. [2]"),
        click.option("--retry-backoff-ms", type=_NATURAL, help="Wait before the second. [1000]"),
        click.option("--event-age-max-ms", type=_POSITIVE, help="Oldest event that still runs."),
        click.option("--on-success", metavar="DEST", help="function:NAME or URL given results."),
        click.option("--on-failure", metavar="DEST", help="function:NAME or URL given failures."),
        click.option(
            "--public/--no-public", default=None, help="Whether /fn/NAME needs no key. [it does]"
        ),
        click.option("--keep-warm", type=_NATURAL, help="Instances kept without calls. [0]"),
        click.option(
            "--label",
            "labels",
            type=pair,
            multiple=True,
            metavar="K=V",
            help="Label to find it by.",
        ),
        click.option(
            "--apt", multiple=True, metavar="PACKAGE", help="Debian package it needs (docker)."
        ),
    )
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


@click.command(
    cls=Command,
    example="pratai deploy hello.py\n"
    "pratai deploy ./shop --name checkout --memory-mb 512 --env STAGE=test\n"
    "pratai deploy build/report.zip --handler report:main",
)
@click.argument("path", metavar="PATH", type=click.Path(exists=True, path_type=Path))
@click.option("--name", metavar="N", help="Name of the function. [of the file or folder]")
@config_options
@click.pass_obj
def deploy(session: Session, /, path: Path, name: str | None, **config: object) -> None:
    """Deploy PATH: one .py file, a folder, or a zip; creates the function or a new version."""
    chosen = name if name is not None else default_name(path)
    deployed = deploy_path(session, path, chosen, given(config))
    write_deployed(session.output, deployed)


def given(config: dict[str, object]) -> dict[str, object]:
    """What was said on the command line, in the words of a function's configuration."""
    chosen: dict[str, object] = {}
    for field, value in config.items():
        if value is None or value == ():
            continue
        if field in ("environment", "labels"):
            chosen[field] = dict(_pairs(value))
        elif field in ("secrets", "apt"):
            chosen[field] = list(_texts(value))
        else:
            chosen[field] = value
    return chosen


def read_package(session: Session, path: Path) -> Package:
    """Pack `path`, with a progress bar where somebody watches."""
    from pratai.packages.pack import pack

    with bar(session.output, "packing") as advance:
        data, content_type, _ = pack(str(path), on_progress=advance)
    if not data:
        raise InvalidField(f"{path} is empty.", next_step="Deploy a file that has a handler.")
    filename = path.name if path.is_file() else f"{path.resolve().name}.zip"
    return Package(data=data, content_type=content_type, filename=filename)


def deploy_path(session: Session, path: Path, name: str, config: dict[str, object]) -> Deployed:
    """Pack and send, showing both and what the server does."""
    package = read_package(session, path)
    output = session.output

    def on_line(phase: str, line: str) -> None:
        if not session.json:
            output.remark(f"{phase}: {line}" if phase else line, "dim")

    with bar(output, "sending") as advance:
        return send(session.client, name, package, config, on_bytes=advance, on_line=on_line)


def write_deployed(output: Output, deployed: Deployed) -> None:
    """Name, version, digest and URL."""
    if output.as_json:
        output.write_json(deployed.body)
        return
    view = deployed.view
    output.fields(
        {"name": view.name, "version": view.version, "digest": view.digest, "url": view.url}
    )
    output.remark(f"next: pratai invoke {view.name}", "dim")


@contextmanager
def bar(output: Output, title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr in a terminal; it appears only when there is much to do."""
    if not sys.stderr.isatty():
        yield _unseen
        return
    with ExitStack() as stack:
        shown: list[tuple[Progress, TaskID]] = []

        def advance(done: int, total: int) -> None:
            if not shown and total >= _BAR_FROM_BYTES and done < total:
                shown.append(_drawn(stack, output, title))
            for progress, task in shown:
                progress.update(task, completed=done, total=total)

        yield advance


def _drawn(stack: ExitStack, output: Output, title: str) -> tuple[Progress, TaskID]:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    progress = stack.enter_context(Progress(*columns, console=output.stderr, transient=True))
    return progress, progress.add_task(title, total=None)


def _unseen(_done: int, _total: int) -> None:
    """Nobody watches."""


def _pairs(value: object) -> tuple[tuple[str, str], ...]:
    assert isinstance(value, tuple)
    return value


def _texts(value: object) -> tuple[str, ...]:
    assert isinstance(value, tuple)
    return value
