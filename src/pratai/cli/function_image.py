"""`pratai function image`: from a deployed version to an image, by way of a directory here."""

from __future__ import annotations

import os
import re
import tempfile
from typing import TYPE_CHECKING

import msgspec

from pratai.cli.client import route
from pratai.cli.image import Progress, run_build, shown
from pratai.cli.session import Session
from pratai.config.schema import Config
from pratai.errors import InvalidField, NotFound
from pratai.model.api import FunctionView

if TYPE_CHECKING:
    from pratai.driver.docker.engine import Engine
    from pratai.driver.docker.images import Built
    from pratai.packages.resolver import LayerProgress

_TAG = re.compile(r"[a-z0-9][a-z0-9._/-]*(:[0-9]+/[a-z0-9._/-]+)?(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?")
_TAG_CHARS_MAX = 200


def build_image(session: Session, name: str, *, tag: str, config: Config) -> None:
    """Build it and say what was built."""
    view, _ = session.client.get(route("functions", name), FunctionView)
    answer = session.client.request(
        "GET", route("functions", name, "package"), query={"qualifier": view.version}
    )
    tag = _checked(tag or f"pratai/{name.lower()}:{view.version}")

    async def work(engine: Engine) -> list[Built]:
        with shown(session.output, f"building {tag}") as progress:
            made = await _build(
                engine, view, answer.body, tag=tag, config=config, progress=progress
            )
            return [made]

    built = run_build(config.driver, work, session.output)
    if session.output.as_json:
        session.output.write_json({"function": name, "version": view.version, **_plain(built[0])})


async def _build(
    engine: Engine,
    view: FunctionView,
    data: bytes,
    *,
    tag: str,
    config: Config,
    progress: Progress,
) -> Built:
    from pratai.driver.docker import images
    from pratai.packages.directory import Packages

    runtime_image = images.image_name(view.runtime, config.driver.registry)
    if await engine.image(runtime_image) is None:
        raise NotFound(
            f"the engine has no image {runtime_image}",
            next_step=f"Build it: pratai runtimes build {view.runtime}.",
        )

    def tell(step: LayerProgress) -> None:
        progress(step.line)

    with tempfile.TemporaryDirectory(prefix="pratai-image-") as folder:
        packages = Packages(folder, config.packages, runtimes=[view.runtime])
        try:
            given = {"runtime": view.runtime, "handler": view.handler}
            inspected = await packages.inspect_package(data, given, None, tell)
            image = images.FunctionImage(
                runtime_image=runtime_image,
                code_dir=await packages.code_dir(inspected.digest),
                layer_dir=packages.layer_dir(inspected.layer),
                apt=view.apt,
                labels={
                    "pratai.function": view.name,
                    "pratai.version": view.version,
                    "pratai.handler": view.handler,
                    "pratai.digest": inspected.digest,
                },
            )
            return await images.build_function(engine, image, tag=tag, progress=progress)
        finally:
            await packages.close()


def _checked(tag: str) -> str:
    if len(tag) > _TAG_CHARS_MAX or not _TAG.fullmatch(tag):
        raise InvalidField(
            f"{tag} is no name of an image.",
            next_step="Give one like shop/hello:7, in lower case.",
            field="tag",
            value=tag,
        )
    last = os.path.basename(tag)
    return tag if ":" in last else f"{tag}:latest"


def _plain(built: Built) -> dict[str, object]:
    plain: dict[str, object] = msgspec.to_builtins(built)
    return plain
