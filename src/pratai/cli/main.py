"""The program `pratai`: its commands by name, and the one place where errors become exit codes.

Exit codes: 0 done, 1 the function failed, 2 the caller is wrong, 3 the platform failed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from pratai import __version__
from pratai.cli.command import Group
from pratai.cli.session import Session

_COMMANDS = {
    "up": "pratai.cli.up:up",
    "deploy": "pratai.cli.deploy:deploy",
    "invoke": "pratai.cli.invoke:invoke",
    "dev": "pratai.cli.dev:dev",
    "functions": "pratai.cli.function:functions",
    "function": "pratai.cli.function:function",
    "alias": "pratai.cli.alias:alias",
    "runtimes": "pratai.cli.runtimes:runtimes",
    "triggers": "pratai.cli.triggers:triggers",
    "events": "pratai.cli.events:events",
    "logs": "pratai.cli.logs:logs",
    "invocations": "pratai.cli.invocation:invocations",
    "invocation": "pratai.cli.invocation:invocation",
    "why": "pratai.cli.why:why",
    "replay": "pratai.cli.replay:replay",
    "dead-letters": "pratai.cli.dead_letters:dead_letters",
    "gateway": "pratai.cli.process:gateway",
    "scheduler": "pratai.cli.process:scheduler",
    "agent": "pratai.cli.process:agent",
    "nodes": "pratai.cli.node:nodes",
    "node": "pratai.cli.node:node",
    "keys": "pratai.cli.key:keys",
    "config": "pratai.cli.config:config",
    "doctor": "pratai.cli.doctor:doctor",
    "completion": "pratai.cli.completion:completion",
}
SECTIONS = [
    ("Run code", ["up", "deploy", "invoke", "dev"]),
    ("Functions", ["functions", "function", "alias", "runtimes"]),
    ("Run by themselves", ["triggers", "events"]),
    (
        "What happened",
        ["logs", "invocations", "invocation", "why", "replay", "dead-letters"],
    ),
    ("Processes of a cluster", ["gateway", "scheduler", "agent", "node"]),
    ("Operate", ["nodes", "keys", "config", "doctor", "completion"]),
]
_EXAMPLE = """
pratai up                          # the whole platform on this machine
pratai deploy hello.py             # in a second terminal
pratai invoke hello '{"name": "Ada"}'
pratai logs hello -f
"""


@click.group(
    cls=Group,
    name="pratai",
    lazy=_COMMANDS,
    sections=SECTIONS,
    example=_EXAMPLE,
    invoke_without_command=True,
)
@click.version_option(__version__, "--version", message="%(version)s", help="Show the version.")
@click.pass_context
def cli(context: click.Context) -> None:
    """Pratai runs your functions when events arrive: deploy code, call it, see what it did."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> None:
    """Entry point of the program; `_PRATAI_COMPLETE` is how shells ask for completions."""
    if "_PRATAI_COMPLETE" in os.environ:
        cli.main(prog_name="pratai", complete_var="_PRATAI_COMPLETE", obj=Session())
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code. The boundary that catches everything."""
    session = Session()
    try:
        with cli.make_context("pratai", list(arguments), obj=session) as context:
            code = cli.invoke(context)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except (KeyboardInterrupt, click.Abort):
        sys.stderr.write("\n")
        return 130
    except BrokenPipeError:
        from pratai.cli.output import abandon_stdout

        abandon_stdout()
        return 0
    except Exception as error:  # noqa: BLE001 - the boundary: reported whole, with its exit code
        from pratai.cli.problems import report

        return report(error, as_json=session.json or "--json" in arguments)
    return code if isinstance(code, int) else 0
