"""The reference page of the command line, made from the commands themselves.

`python -m pratai.cli.reference > docs/reference/cli.md`; a test holds the page current.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from pratai.cli.command import GlobalOption, Group, Options
from pratai.cli.main import SECTIONS, cli

_INTRODUCTION = """\
# The command line

Made from the commands by `python -m pratai.cli.reference`; do not edit.

`pratai COMMAND --help` says the same in the terminal. Results go to stdout, as JSON whenever
stdout is not a terminal; everything else goes to stderr. An error is one sentence, then
`next:` with what to do.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | the function failed |
| 2 | the caller is wrong |
| 3 | the platform failed |
"""


def render() -> str:
    """The whole page."""
    root = click.Context(cli, info_name="pratai")
    parts = [_INTRODUCTION, "## Options of every command\n"]
    parts.append(_table([item for item in cli.params if isinstance(item, GlobalOption)], root))
    for heading, names in SECTIONS:
        parts.append(f"## {heading}\n")
        for name in names:
            command = cli.get_command(root, name)
            assert command is not None
            parts.extend(_pages(command, click.Context(command, parent=root, info_name=name)))
    return "\n".join(parts)


def _pages(command: click.Command, context: click.Context) -> Iterator[str]:
    """A command, then those below it."""
    yield f"### `{context.command_path}`\n"
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"```\n{context.command_path} {usage}\n```\n"
    yield f"{(command.help or '').strip()}\n"
    own = [
        item
        for item in command.params
        if isinstance(item, click.Option) and not isinstance(item, GlobalOption)
    ]
    if own:
        yield _table(own, context)
    if isinstance(command, Options) and command.example:
        yield f"```sh\n{command.example.strip()}\n```\n"
    if isinstance(command, Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from _pages(below, click.Context(below, parent=context, info_name=name))


def _table(options: list[click.Option], context: click.Context) -> str:
    rows = ["| option | meaning |", "|---|---|"]
    for option in options:
        record = option.get_help_record(context)
        if record is not None:
            name, text = (part.replace("|", "\\|") for part in record)
            rows.append(f"| `{name}` | {text} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
