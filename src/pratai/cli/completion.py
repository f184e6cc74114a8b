"""`pratai completion`: the script that lets a shell complete commands, options and names."""

from __future__ import annotations

import click

from pratai.cli.command import Command
from pratai.cli.output import write_bytes
from pratai.errors import PlatformError


@click.command(
    cls=Command,
    example='eval "$(pratai completion bash)"                 # in ~/.bashrc\n'
    "pratai completion zsh > ~/.zfunc/_pratai\n"
    "pratai completion fish > ~/.config/fish/completions/pratai.fish",
)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL; names of functions are asked of the server."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is None:
        raise PlatformError(f"click has no completion for {shell}.")
    root = context.find_root().command
    script = found(root, {}, "pratai", "_PRATAI_COMPLETE").source()
    write_bytes(script.encode() + b"\n")
