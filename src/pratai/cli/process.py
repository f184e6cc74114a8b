"""`pratai gateway|scheduler|agent`: a process of a cluster each; `pratai node` runs as they do."""

from __future__ import annotations

import os

import click

from pratai.cli.command import Command
from pratai.cli.config import load, source_options
from pratai.cli.session import Session
from pratai.errors import PlatformError


def run(
    kind: str,
    *,
    data_dir: str | None,
    ready_file: str | None,
    files: tuple[str, ...],
    settings: tuple[tuple[str, str], ...],
) -> int:
    """Run a process until it is told to stop."""
    loaded = load(kind, files, settings)

    from pratai.config.client import default_data_dir
    from pratai.up.cluster.parts import ProcessOptions
    from pratai.up.cluster.run import run_process

    base = data_dir or os.path.join(default_data_dir(os.environ, is_root=os.geteuid() == 0), kind)
    options = ProcessOptions(
        kind=kind, config=loaded.config, data_dir=os.path.abspath(base), ready_file=ready_file
    )
    try:
        run_process(options)
    except OSError as error:
        raise PlatformError(
            f"The {kind} cannot run here: {error}.",
            next_step="`pratai doctor` checks this machine.",
            code="machine_refused",
        ) from error
    return 0


data_dir_option = click.option(
    "--data-dir",
    type=click.Path(file_okay=False),
    envvar="PRATAI_DATA_DIR",
    help="Where it keeps its id and files. [$XDG_STATE_HOME/pratai/PROCESS]",
)
ready_file_option = click.option(
    "--ready-file", metavar="F", help="Write {url, pid, key} here once it serves."
)


@click.command(cls=Command, example="pratai gateway --set queue.host=10.0.0.5")
@data_dir_option
@ready_file_option
@source_options
@click.pass_obj
def gateway(
    session: Session,  # noqa: ARG001 - the same first parameter everywhere
    *,
    data_dir: str | None,
    ready_file: str | None,
    files: tuple[str, ...],
    settings: tuple[tuple[str, str], ...],
) -> int:
    """Run a gateway of a cluster: HTTP for callers, in front of the scheduler."""
    return run("gateway", data_dir=data_dir, ready_file=ready_file, files=files, settings=settings)


@click.command(cls=Command, example="pratai scheduler --set queue.host=10.0.0.5")
@data_dir_option
@ready_file_option
@source_options
@click.pass_obj
def scheduler(
    session: Session,  # noqa: ARG001
    *,
    data_dir: str | None,
    ready_file: str | None,
    files: tuple[str, ...],
    settings: tuple[tuple[str, str], ...],
) -> int:
    """Run the scheduler of a cluster; a second one stands by until the first is gone."""
    return run(
        "scheduler", data_dir=data_dir, ready_file=ready_file, files=files, settings=settings
    )


@click.command(cls=Command, example="pratai agent --set queue.host=10.0.0.5")
@data_dir_option
@ready_file_option
@source_options
@click.pass_obj
def agent(
    session: Session,  # noqa: ARG001
    *,
    data_dir: str | None,
    ready_file: str | None,
    files: tuple[str, ...],
    settings: tuple[tuple[str, str], ...],
) -> int:
    """Run an agent of a cluster: timers, watched folders, deliveries."""
    return run("agent", data_dir=data_dir, ready_file=ready_file, files=files, settings=settings)
