"""`pratai up`: reads options and configuration, then hands over to the supervisor."""

from __future__ import annotations

import os

import click

from pratai.cli.command import Command
from pratai.cli.config import load, source_options
from pratai.cli.session import Session
from pratai.errors import PlatformError


@click.command(
    cls=Command,
    example="pratai up\npratai up --port 8080 --data-dir ./state --set node.slots=8",
)
@click.option("--host", help="Address to listen on. [127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port; 0 = any. [9996]")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False),
    envvar="PRATAI_DATA_DIR",
    help="Where everything is kept. [$XDG_STATE_HOME/pratai]",
)
@click.option("--no-auth", is_flag=True, help="Let everybody call who can reach the port.")
@click.option("--ready-file", metavar="F", help="Write {url, pid, key} here once calls are served.")
@source_options
@click.pass_obj
def up(
    session: Session,  # noqa: ARG001 - the same first parameter everywhere
    *,
    host: str | None,
    port: int | None,
    data_dir: str | None,
    no_auth: bool,
    ready_file: str | None,
    files: tuple[str, ...],
    settings: tuple[tuple[str, str], ...],
) -> int:
    """Run the whole platform on this machine until Ctrl-C, which lets running calls end."""
    overrides = list(settings)
    if host is not None:
        overrides.append(("gateway.host", host))
    if port is not None:
        overrides.append(("gateway.port", str(port)))
    loaded = load("up", files, tuple(overrides))

    from pratai.config.client import credentials_file, default_data_dir
    from pratai.up.options import UpOptions
    from pratai.up.supervisor import run_platform

    options = UpOptions(
        config=loaded.config,
        data_dir=os.path.abspath(
            data_dir or default_data_dir(os.environ, is_root=os.geteuid() == 0)
        ),
        ready_file=ready_file,
        no_auth=no_auth,
        credentials_path=credentials_file(os.environ),
    )
    try:
        run_platform(options)
    except OSError as error:
        raise PlatformError(
            f"The platform cannot run here: {error}.",
            next_step="`pratai doctor` checks this machine.",
            code="machine_refused",
        ) from error
    return 0
