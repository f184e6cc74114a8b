"""`pratai config show|check`: what the processes of this machine would run with, and why."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from pratai.cli.arguments import pair
from pratai.cli.command import Group
from pratai.cli.session import Session

if TYPE_CHECKING:
    from pratai.config.load import LoadedConfig

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

PROCESSES = ("up", "gateway", "scheduler", "agent", "node")


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One setting, its value, and what gave it."""

    key: str
    value: object
    origin: str


def source_options(decorated: Decorated) -> Decorated:
    """`--config` and `--set`: where settings come from besides the usual files."""
    decorated = click.option(
        "--set",
        "settings",
        type=pair,
        multiple=True,
        metavar="SECTION.KEY=VALUE",
        help="Set one value, over files and environment.",
    )(decorated)
    return click.option(
        "--config",
        "files",
        type=click.Path(exists=True, dir_okay=False),
        multiple=True,
        metavar="FILE",
        envvar="PRATAI_CONFIG_FILE",
        help="INI file instead of those in /etc/pratai; later ones over earlier.",
    )(decorated)


_PROCESS = click.option(
    "--process",
    type=click.Choice(PROCESSES),
    default="up",
    show_default=True,
    help="The process whose files are read.",
)


@click.group(cls=Group, example="pratai config show\npratai config check --config my.conf")
def config() -> None:
    """See the settings of the platform and where each comes from."""


@config.command(example="pratai config show --process gateway --set gateway.port=8080")
@_PROCESS
@source_options
@click.pass_obj
def show(
    session: Session,
    process: str,
    files: tuple[str, ...],
    settings: tuple[tuple[str, str], ...],
) -> None:
    """Show every setting, its value, and which file, variable or option gave it."""
    listed = settings_of(load(process, files, settings))
    if session.output.as_json:
        session.output.write_json({"items": listed})
        return
    rows = [(item.key, _text(item.value), item.origin) for item in listed]
    session.output.table(("setting", "value", "from"), rows, empty="No settings.")


@config.command(example="pratai config check --config /etc/pratai/pratai.conf")
@_PROCESS
@source_options
@click.pass_obj
def check(
    session: Session,
    process: str,
    files: tuple[str, ...],
    settings: tuple[tuple[str, str], ...],
) -> None:
    """Check the settings; a wrong one is told with its place and what is allowed."""
    listed = settings_of(load(process, files, settings))
    changed = [item for item in listed if item.origin != "default"]
    if session.output.as_json:
        session.output.write_json({"valid": True, "settings": len(listed), "set": changed})
    else:
        session.output.say(
            f"All {len(listed)} settings are valid; {len(changed)} differ in origin from the "
            "defaults."
        )


def load(
    process: str, files: tuple[str, ...], settings: tuple[tuple[str, str], ...]
) -> LoadedConfig:
    """The configuration of a process from files, environment and options."""
    from pratai.config.load import load_config

    overrides = [f"{name}={value}" for name, value in settings]
    return load_config(process, list(files) or None, os.environ, overrides)


def settings_of(loaded: LoadedConfig) -> list[Setting]:
    """All settings by name, `section.key`."""
    values: dict[str, dict[str, object]] = msgspec.to_builtins(loaded.config)
    return [
        Setting(
            key=f"{section}.{key}",
            value=value,
            origin=loaded.origins.get(f"{section}.{key}", "default"),
        )
        for section, keys in values.items()
        for key, value in keys.items()
    ]


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
