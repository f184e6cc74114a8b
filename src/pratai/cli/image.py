"""Building images on the Docker engine of this machine, with progress where somebody watches.

The commands are in `runtimes.py` and `function.py`; what an image is made from is the driver's.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from pratai.cli.output import Output, size
from pratai.config.schema import Driver as DriverConfig
from pratai.errors import ConfigError

if TYPE_CHECKING:
    from pratai.driver.docker.engine import Engine
    from pratai.driver.docker.images import Built

#: Called with each line of progress.
Progress = Callable[[str], None]

#: Characters of a line of progress that are shown.
_LINE_CHARS_MAX = 100


def run_build(
    config: DriverConfig, work: Callable[[Engine], Awaitable[list[Built]]], output: Output
) -> list[Built]:
    """Do some building with the engine, then say what was built."""

    async def build() -> list[Built]:
        async with _engine(config) as engine:
            return await work(engine)

    built = asyncio.run(build())
    if not output.as_json:
        rows = [
            (one.image, one.id.removeprefix("sha256:")[:12], size(one.size_bytes)) for one in built
        ]
        output.table(("image", "id", ">size"), rows, empty="Nothing was built.")
    return built


@contextmanager
def shown(output: Output, title: str) -> Iterator[Progress]:
    """A line on stderr that tells what is done now, in a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield _unseen
        return
    from rich.markup import escape

    with output.stderr.status(title) as status:

        def tell(line: str) -> None:
            status.update(f"{title}: [dim]{escape(line[:_LINE_CHARS_MAX])}[/dim]")

        yield tell


@asynccontextmanager
async def _engine(config: DriverConfig) -> AsyncIterator[Engine]:
    try:
        from pratai.driver.docker.engine import Engine
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"building images needs the module {error.name}, which is not installed",
            next_step="Install it: pip install 'pratai[docker]'.",
        ) from error
    engine = Engine(
        config.docker_host,
        timeout_ms=config.engine_timeout_ms,
        build_timeout_ms=config.build_timeout_ms,
    )
    try:
        yield engine
    finally:
        await engine.close()


def _short(image_id: str) -> str:
    return image_id.removeprefix("sha256:")[:12]


def _unseen(_line: str) -> None:
    """Nobody watches."""
