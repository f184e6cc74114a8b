"""`pratai runtimes` and `pratai runtimes build`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pratai.cli.client import route
from pratai.cli.command import Group
from pratai.cli.config import load, source_options
from pratai.cli.session import Session
from pratai.errors import InvalidField
from pratai.model.api import RuntimeList

if TYPE_CHECKING:
    from pratai.driver.docker.engine import Engine
    from pratai.driver.docker.images import Built
    from pratai.runtimes.catalog import Runtime


@click.group(
    cls=Group,
    example="pratai runtimes\npratai runtimes build\n"
    "pratai runtimes build python3.11 --base debian:12-slim",
    invoke_without_command=True,
)
@click.pass_context
def runtimes(context: click.Context) -> None:
    """List the language environments that functions can run in; build their images."""
    if context.invoked_subcommand is None:
        _list(context.ensure_object(Session))


@runtimes.command("list", example="pratai runtimes list")
@click.pass_obj
def list_(session: Session) -> None:
    """List the language environments; the same as `pratai runtimes`."""
    _list(session)


@runtimes.command(
    example="pratai runtimes build\npratai runtimes build seed --base debian:12-slim\n"
    "pratai runtimes build python3.11 --set driver.registry=registry.example:5000 --push"
)
@click.argument("runtime", required=False, default="")
@click.option(
    "--base", metavar="IMAGE", help="Image to start from; without, a new Debian is made (as root)."
)
@click.option("--push", is_flag=True, help="Push the images to [driver] registry afterwards.")
@source_options
@click.pass_obj
def build(
    session: Session,
    runtime: str,
    *,
    base: str | None,
    push: bool,
    files: tuple[str, ...],
    settings: tuple[tuple[str, str], ...],
) -> None:
    """Build the image of a RUNTIME (the usual one where none is given) for the docker driver.

    The image below it, `seed`, is built first where the engine does not have it, or when --base
    is given. RUNTIME may be `seed`, to build that alone.
    """
    from pratai.cli.image import run_build, shown

    config = load("node", files, settings).config.driver
    if push and not config.registry:
        raise InvalidField(
            "--push needs a registry.",
            next_step="Set [driver] registry, e.g. --set driver.registry=registry.example:5000.",
            field="driver.registry",
        )
    wanted = _wanted(runtime)
    base = config.base_image if base is None else base

    async def work(engine: Engine) -> list[Built]:
        from pratai.driver.docker import images

        made: list[Built] = []
        seed = images.image_name(images.SEED, config.registry)
        if wanted is None or base or await engine.image(seed) is None:
            with shown(session.output, f"building {seed}") as progress:
                made.append(
                    await images.build_seed(
                        engine, base=base, registry=config.registry, progress=progress
                    )
                )
        if wanted is not None:
            name = images.image_name(wanted.name, config.registry)
            with shown(session.output, f"building {name}") as progress:
                made.append(
                    await images.build_runtime(
                        engine, wanted, registry=config.registry, progress=progress
                    )
                )
        if push:
            for one in made:
                with shown(session.output, f"pushing {one.image}") as progress:
                    async for line in engine.push(one.image):
                        progress(line)
        return made

    built = run_build(config, work, session.output)
    if session.output.as_json:
        session.output.write_json({"items": built})


def _wanted(name: str) -> Runtime | None:
    """The runtime of this name; None for the seed alone."""
    from pratai.runtimes import catalog

    if name == "seed":
        return None
    found = catalog.find_runtime(name) if name else catalog.default_runtime()
    if found is None:
        names = [runtime.name for runtime in catalog.runtimes()]
        raise InvalidField(
            f"There is no runtime {name}.",
            next_step=f"Build one of: {', '.join([*names, 'seed'])}.",
            field="runtime",
            value=name,
            allowed=[*names, "seed"],
        )
    return found


def _list(session: Session) -> None:
    found, body = session.client.get(route("runtimes"), RuntimeList)
    if session.output.as_json:
        session.output.write_json(body)
        return
    rows = [(item.name, item.language, item.version, item.default) for item in found.items]
    session.output.table(
        ("runtime", "language", "version", "default"), rows, empty="No node offers a runtime."
    )
