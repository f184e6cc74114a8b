"""What all commands share: global options in any place, an example, lazy loading, near misses.

`pratai --json functions` and `pratai functions --json` are the same. A group imports a command's
module only when that command is used, so that `pratai invoke` starts with little.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from pratai.cli.session import Session


class GlobalOption(click.Option):
    """An option that every command takes; its value goes to the session."""


def _remember(context: click.Context, parameter: click.Parameter, value: object) -> None:
    session = context.ensure_object(Session)
    if value is not None and value is not False and parameter.name is not None:
        setattr(session, parameter.name, value)


def _global_options() -> list[click.Parameter]:
    """New copies, since click lets each command own its parameters."""
    common: dict[str, Any] = {"callback": _remember, "expose_value": False, "is_eager": True}
    return [
        GlobalOption(
            ["--server"],
            metavar="URL",
            help="Server to talk to. [PRATAI_SERVER, then the credentials file]",
            **common,
        ),
        GlobalOption(
            ["--key"],
            metavar="KEY",
            help="Key to present. [PRATAI_KEY, then the credentials file]",
            **common,
        ),
        GlobalOption(
            ["--namespace"],
            metavar="NAME",
            help="Namespace to act in; needs an admin key.",
            **common,
        ),
        GlobalOption(
            ["--json", "json"],
            is_flag=True,
            help="JSON on stdout, and errors as JSON on stderr. [JSON also when piped]",
            **common,
        ),
    ]


class Options(click.Command):
    """Help with an example and the global options in a section of their own."""

    def __init__(self, *args: Any, example: str = "", **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.example = example
        self.params.extend(_global_options())

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Own options first; the group's commands; then the global ones."""
        own: list[tuple[str, str]] = []
        everywhere: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            if not isinstance(parameter, click.Option):
                continue
            record = parameter.get_help_record(ctx)
            if record is not None:
                (everywhere if isinstance(parameter, GlobalOption) else own).append(record)
        if own:
            with formatter.section("Options"):
                formatter.write_dl(own)
        self._format_more(ctx, formatter)
        with formatter.section("Global options"):
            formatter.write_dl(everywhere)

    def _format_more(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """A group lists its commands here."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The example, its lines kept as they are."""
        super().format_epilog(ctx, formatter)
        if self.example:
            formatter.write_paragraph()
            formatter.write("Example:\n")
            for line in self.example.strip().splitlines():
                formatter.write(f"  {line}\n")


class Command(Options):
    """A command of `pratai`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; too many arguments name the quoting that is usually missing."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as problem:
            if "unexpected extra argument" in problem.message:
                hint = "Put quotes around a value that contains spaces."
                raise click.UsageError(f"{problem.message.rstrip('.')}. {hint}", ctx) from None
            raise


class Group(Options, click.Group):
    """A group of commands, those in `lazy` imported when used."""

    def __init__(
        self,
        *args: Any,
        lazy: Mapping[str, str] | None = None,
        sections: Sequence[tuple[str, Sequence[str]]] = (),
        **attributes: Any,
    ) -> None:
        super().__init__(*args, **attributes)
        #: {command: "module:attribute"}.
        self.lazy = dict(lazy or {})
        #: Headings of the help, each with its commands.
        self.sections = sections
        self.command_class = Command
        self.group_class = Group

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All names, in the order they were given."""
        return [*self.lazy, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now if it has not been."""
        target = self.lazy.get(cmd_name)
        if target is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an unknown one is told with the nearest name."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            near = nearest(name, self.list_commands(ctx))
            hint = f" Did you mean {near!r}?" if near else ""
            raise click.UsageError(f"{ctx.command_path} has no command {name!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def _format_more(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections = self.sections or [("Commands", self.list_commands(ctx))]
        for heading, names in sections:
            with formatter.section(heading):
                rows = [(name, self._short_help(ctx, name)) for name in names]
                formatter.write_dl(rows)

    def _short_help(self, ctx: click.Context, name: str) -> str:
        command = self.get_command(ctx, name)
        assert command is not None
        return command.get_short_help_str(limit=90)


def nearest(name: str, names: Iterable[str]) -> str:
    """The name that was probably meant, or ""."""
    found = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return found[0] if found else ""
