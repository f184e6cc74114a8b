"""What an earlier process of this node left in the engine, found by its labels.

Running containers can be adopted; everything else is removed, images of functions once more than
`[driver] images_max` of them are there. Nothing of another node is touched.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from pratai.clock import now_ms
from pratai.config.schema import Driver as DriverConfig
from pratai.driver.docker.engine import Engine
from pratai.driver.docker.images import LABEL_IMAGE, LABEL_NODE
from pratai.driver.docker.plan import Place, Plan
from pratai.errors import PlatformError

_log = structlog.get_logger("driver")

#: In a container's directory, what it was made from.
PLAN_FILE = "plan.json"
#: Images without a name are removed when they are older than this.
NAMELESS_AGE_MIN_S = 3_600
Adoptable = tuple[str, Plan, bool]


class Leftovers:
    """Finds and removes what has this node's label."""

    def __init__(self, engine: Engine, config: DriverConfig, place: Place) -> None:
        self._engine = engine
        self._config = config
        self._place = place

    async def find(self, *, known: set[str]) -> list[Adoptable]:
        """(container id, its plan, whether it is paused) of those to adopt; others are removed."""
        found: list[Adoptable] = []
        names: set[str] = set(known)
        for container in await self._containers():
            name = _name(container)
            if name in known:
                continue
            plan = read_plan(os.path.join(self._place.containers_dir, _directory(name)))
            lives = container["State"] in ("running", "paused")
            has_room = len(found) < self._config.containers_max
            if lives and has_room and plan is not None and plan.name == name:
                found.append((container["Id"], plan, container["State"] == "paused"))
                names.add(name)
                continue
            await self._remove(container["Id"], name)
        await asyncio.to_thread(self._remove_directories, names)
        return found

    async def sweep(self, *, known: Callable[[], set[str]], images: set[str]) -> None:
        """Remove containers of this node that have ended and are nobody's, and old images.

        `known()` is asked last: a container may have started since the engine was asked.
        """
        for container in await self._containers():
            name = _name(container)
            if container["State"] in ("exited", "dead") and name not in known():
                await self._remove(container["Id"], name)
        await self._remove_nameless()
        made = await self._engine.images({LABEL_NODE: self._place.node})
        made.sort(key=lambda image: int(image["Created"]))
        for image in made[: max(0, len(made) - self._config.images_max)]:
            # Those that a tag names only: `docker` removes none that a container uses.
            for tag in image.get("RepoTags") or [image["Id"]]:
                if tag not in images and await self._engine.remove_image(tag):
                    _log.info("image_removed", image=tag)

    async def _remove_nameless(self) -> None:
        """Images of ours that a newer build took the name of. The engine keeps those in use, and
        young ones may be steps of a build.
        """
        before_s = now_ms() / 1_000 - NAMELESS_AGE_MIN_S
        for image in await self._engine.images({LABEL_IMAGE: ""}):
            nameless = not [tag for tag in image.get("RepoTags") or [] if "<none>" not in tag]
            if nameless and int(image["Created"]) <= before_s:
                await self._engine.remove_image(image["Id"])

    async def _containers(self) -> list[dict[str, Any]]:
        return await self._engine.containers({LABEL_NODE: self._place.node})

    async def _remove(self, container_id: str, name: str) -> None:
        try:
            await self._engine.remove(container_id)
        except PlatformError as error:
            _log.warning("container_not_removed", container=name, error=error.detail)
        else:
            _log.info("leftover_removed", container=name)

    def _remove_directories(self, names: set[str]) -> None:
        kept = {_directory(name) for name in names}
        for entry in os.scandir(self._place.containers_dir):
            if entry.name not in kept:
                shutil.rmtree(entry.path, ignore_errors=True)


def write_plan(plan: Plan) -> None:
    """Keep what a container was made from, for a process that adopts it. For this user alone."""
    path = os.path.join(plan.directory, PLAN_FILE)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(msgspec.json.encode(plan))


def read_plan(directory: str) -> Plan | None:
    """What `write_plan` wrote, or None when it is missing or of another version of Pratai."""
    try:
        with open(os.path.join(directory, PLAN_FILE), "rb") as file:
            return msgspec.json.decode(file.read(), type=Plan)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError):
        return None


def _name(container: dict[str, Any]) -> str:
    return str(container["Names"][0]).lstrip("/") if container.get("Names") else ""


def _directory(name: str) -> str:
    """`pratai-NODE-KEY` has its directory under KEY."""
    return name.rpartition("-")[2] or name
