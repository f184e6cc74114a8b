"""Which image a version runs in: its runtime's, or one of its own with packages of the system.

Images of functions are built once for a package, its layer and its list of packages; the engine's
own cache shares what versions have in common.
"""

from __future__ import annotations

import asyncio
import hashlib
import json

import structlog

from pratai.config.schema import Driver as DriverConfig
from pratai.driver.base import InstanceSpec
from pratai.driver.docker.engine import Engine
from pratai.driver.docker.images import (
    LABEL_BOOTSTRAP,
    LABEL_KEY,
    LABEL_NODE,
    FunctionImage,
    bootstrap_digest,
    build_function,
    image_name,
)
from pratai.errors import PlatformError
from pratai.runtimes.catalog import Runtime

_log = structlog.get_logger("driver")

#: Builds at one time: each installs packages.
_BUILDS_MAX = 2
#: Failed builds remembered, so that a list that cannot be installed is not tried at every call.
_FAILED_MAX = 256
_FAILED_S = 60.0


class Provision:
    """Has the images of a node."""

    def __init__(
        self, engine: Engine, config: DriverConfig, runtime: Runtime, *, node: str
    ) -> None:
        self._engine = engine
        self._config = config
        self._runtime = runtime
        self._node = node
        #: Id of the runtime's image.
        self._runtime_id = ""
        #: {tag of a function's image: its id}, those used by this process, latest last.
        self._used: dict[str, str] = {}
        #: {tag: build under way}.
        self._building: dict[str, asyncio.Task[str]] = {}
        #: {tag: (loop time until which it is not tried again, why)}.
        self._failed: dict[str, tuple[float, str]] = {}
        self._turn = asyncio.Semaphore(_BUILDS_MAX)

    async def open(self) -> None:
        """Have the runtime's image, pulled if there is a registry and it is missing.

        Raises:
            PlatformError: there is none, or it is of another version of the bootstrap.

        """
        name = image_name(self._runtime.name, self._config.registry)
        build = f"Build it: pratai runtimes build {self._runtime.name}"
        image = await self._engine.image(name)
        if image is None and self._config.registry:
            _log.info("image_pulled", image=name)
            async for line in self._engine.pull(name):
                _log.debug("image_pull", image=name, line=line)
            image = await self._engine.image(name)
        if image is None:
            raise PlatformError(f"the engine has no image {name}", next_step=f"{build}.")
        labels = image["Config"].get("Labels") or {}
        if labels.get(LABEL_BOOTSTRAP) != bootstrap_digest():
            raise PlatformError(
                f"image {name} was built by another version of Pratai", next_step=f"{build}."
            )
        self._runtime_id = image["Id"]

    async def image_for(self, spec: InstanceSpec) -> tuple[str, bool]:
        """(id of the image, whether code and layer are to be mounted into it).

        Raises:
            PlatformError: packages could not be installed; the sentence says why.

        """
        apt = spec.version.config.apt
        if not self._runtime_id:
            await self.open()
        if not apt:
            return self._runtime_id, True
        key = self._key(spec)
        tag = f"pratai/function:{key[:24]}"
        image_id = self._used.pop(tag, "")
        if not image_id:
            image_id = await self._build_once(spec, tag, key)
        self._used[tag] = image_id
        while len(self._used) > self._config.images_max:
            del self._used[next(iter(self._used))]
        return image_id, False

    def forget(self, image_id: str) -> None:
        """The engine does not have this image any more."""
        if image_id == self._runtime_id:
            self._runtime_id = ""
        self._used = {tag: known for tag, known in self._used.items() if known != image_id}

    def in_use(self) -> set[str]:
        """Tags of functions' images that this process used of late."""
        return set(self._used) | set(self._building)

    async def _build_once(self, spec: InstanceSpec, tag: str, key: str) -> str:
        now = asyncio.get_running_loop().time()
        until, why = self._failed.get(tag, (0.0, ""))
        if now < until:
            raise _not_built(spec, why)
        building = self._building.get(tag)
        if building is None:
            building = asyncio.get_running_loop().create_task(self._build(spec, tag, key))
            self._building[tag] = building
            building.add_done_callback(lambda _: self._building.pop(tag, None))
        return await asyncio.shield(building)

    async def _build(self, spec: InstanceSpec, tag: str, key: str) -> str:
        async with self._turn:
            there = await self._engine.image(tag)
            if there is not None:
                return str(there["Id"])
            version_id = spec.version.version_id
            _log.info("image_build_begins", version_id=version_id, apt=spec.version.config.apt)
            lines: list[str] = []

            def progress(line: str) -> None:
                lines.append(line)
                del lines[:-10]
                _log.info("image_build", version_id=version_id, line=line[:500])

            image = FunctionImage(
                runtime_image=self._runtime_id,
                code_dir=spec.code_dir,
                layer_dir=spec.layer_dir,
                apt=spec.version.config.apt,
                labels={LABEL_KEY: key, LABEL_NODE: self._node},
            )
            try:
                built = await build_function(self._engine, image, tag=tag, progress=progress)
            except PlatformError as error:
                why = _reason(lines, error)
                self._remember_failure(tag, why)
                raise _not_built(spec, why) from error
            _log.info("image_built", version_id=version_id, image=tag, size_bytes=built.size_bytes)
            return built.id

    def _remember_failure(self, tag: str, why: str) -> None:
        self._failed[tag] = (asyncio.get_running_loop().time() + _FAILED_S, why)
        if len(self._failed) > _FAILED_MAX:
            del self._failed[next(iter(self._failed))]

    def _key(self, spec: InstanceSpec) -> str:
        version = spec.version
        parts = [
            self._runtime_id,
            version.digest,
            spec.code_dir,
            version.layer,
            spec.layer_dir,
            sorted(version.config.apt),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _reason(lines: list[str], error: PlatformError) -> str:
    """The line of apt that says what is wrong, or what the engine said."""
    told = [line for line in lines if line.startswith("E: ")]
    return told[-1].removeprefix("E: ") if told else error.detail


def _not_built(spec: InstanceSpec, why: str) -> PlatformError:
    return PlatformError(
        f"packages of the system could not be installed ({', '.join(spec.version.config.apt)}): "
        f"{why}",
        code="image_build_failed",
        next_step="Look at the names in `apt`, and whether this node reaches its package mirror.",
    )
