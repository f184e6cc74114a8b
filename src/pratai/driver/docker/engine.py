"""The Docker engine as this driver needs it: few calls, bounded in time, errors in our own words.

The one place that knows `aiodocker`. Decides nothing.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import IO, Any

import aiodocker
import aiohttp
from aiodocker.containers import DockerContainer

from pratai.errors import PlatformError

Json = dict[str, Any]

_UNREACHABLE, _MISSING, _CONFLICT = 900, 404, 409


class EngineUnreachable(PlatformError):
    """The engine does not answer."""

    code = "engine_unreachable"


class NoSuchObject(PlatformError):
    """The engine has no container, image or network of this name."""

    code = "engine_object_missing"


class Engine:
    """One engine. Every call raises `PlatformError` when it fails; none waits without end."""

    def __init__(self, host: str, *, timeout_ms: int, build_timeout_ms: int) -> None:
        self.host = host
        self._timeout = aiohttp.ClientTimeout(total=timeout_ms / 1000)
        self._long = aiohttp.ClientTimeout(total=build_timeout_ms / 1000)
        self._docker: aiodocker.Docker | None = None

    async def close(self) -> None:
        """Give up the connections."""
        if self._docker is not None:
            docker, self._docker = self._docker, None
            await docker.close()

    async def version(self) -> Json:
        """What the engine is."""
        with self._errors("look at the engine"):
            return await self._client().version()

    async def info(self) -> Json:
        """What the engine can do on its machine."""
        with self._errors("look at the engine"):
            return dict(await self._client().system.info())

    # containers

    async def create(self, name: str, body: Json) -> str:
        """Make a container; its id. What has its name already makes way."""
        with self._errors(f"make container {name}"):
            containers = self._client().containers
            try:
                return (await containers.create(body, name=name)).id
            except aiodocker.DockerError as error:
                if error.status != _CONFLICT:
                    raise
            await containers.container(name).delete(force=True, v=True)
            return (await containers.create(body, name=name)).id

    async def start(self, container_id: str) -> None:
        """Start a container."""
        with self._errors("start a container"):
            await self._container(container_id).start()

    async def inspect(self, container_id: str) -> Json:
        """All that the engine knows of a container."""
        with self._errors("look at a container"):
            return dict(await self._container(container_id).show())

    async def remove(self, container_id: str) -> None:
        """Kill and remove a container, which may be gone already."""
        try:
            with self._errors("remove a container"):
                await self._container(container_id).delete(force=True, v=True)
        except NoSuchObject:
            return

    async def pause(self, container_id: str) -> None:
        """Give a container no processor time."""
        with self._errors("pause a container"):
            await self._container(container_id).pause()

    async def unpause(self, container_id: str) -> None:
        """Undo `pause`."""
        with self._errors("unpause a container"):
            await self._container(container_id).unpause()

    async def update(self, container_id: str, limits: Json) -> None:
        """Change limits of a running container."""
        with self._errors("change the limits of a container"):
            await self._client()._query_json(
                f"containers/{container_id}/update", method="POST", data=json.dumps(limits)
            )

    async def containers(self, labels: Mapping[str, str]) -> list[Json]:
        """Every container with these labels, running or not."""
        with self._errors("list containers"):
            filters = {"label": _wanted(labels)}
            found = await self._client().containers.list(all=True, filters=json.dumps(filters))
            return [one._container for one in found]

    async def output(self, container_id: str) -> str:
        """The last that a container's own process wrote."""
        with self._errors("read the output of a container"):
            lines = await self._container(container_id).log(stdout=True, stderr=True, tail=20)
            return "".join(lines).strip()

    # images

    async def image(self, name: str) -> Json | None:
        """An image, or None when the engine does not have it."""
        try:
            with self._errors(f"look at image {name}"):
                return await self._client().images.inspect(name)
        except NoSuchObject:
            return None

    async def images(self, labels: Mapping[str, str]) -> list[Json]:
        """Every image with these labels."""
        with self._errors("list images"):
            return await self._client().images.list(filters={"label": _wanted(labels)})

    async def build(
        self,
        context: IO[bytes],
        *,
        tag: str,
        arguments: Mapping[str, str],
        labels: Mapping[str, str],
    ) -> AsyncIterator[str]:
        """Build an image from a tar archive; yields what the engine says meanwhile."""
        parameters = {
            "t": tag,
            "rm": "1",
            "forcerm": "1",
            "version": "1",
            "buildargs": json.dumps(dict(arguments)),
            "labels": json.dumps(dict(labels)),
        }
        with self._errors(f"build image {tag}"):
            query = self._client()._query(
                "build",
                "POST",
                params=parameters,
                headers={"content-type": "application/x-tar"},
                data=context,
                timeout=self._long,
            )
            async with query as response:
                async for line in _progress(response):
                    yield line

    async def pull(self, name: str) -> AsyncIterator[str]:
        """Fetch an image from its registry."""
        repository, _, tag = name.rpartition(":")
        with self._errors(f"pull image {name}"):
            query = self._client()._query(
                "images/create",
                "POST",
                params={"fromImage": repository, "tag": tag},
                timeout=self._long,
            )
            async with query as response:
                async for line in _progress(response):
                    yield line

    async def push(self, name: str) -> AsyncIterator[str]:
        """Give an image to its registry."""
        repository, _, tag = name.rpartition(":")
        with self._errors(f"push image {name}"):
            query = self._client()._query(
                f"images/{repository}/push",
                "POST",
                params={"tag": tag},
                headers={"X-Registry-Auth": "e30="},
                timeout=self._long,
            )
            async with query as response:
                async for line in _progress(response):
                    yield line

    async def tag(self, name: str, other: str) -> None:
        """Give an image another name."""
        repository, _, tag = other.rpartition(":")
        with self._errors(f"name image {other}"):
            await self._client().images.tag(name, repository, tag=tag)

    async def remove_image(self, name: str) -> bool:
        """Remove an image unless it is in use; whether it is gone."""
        try:
            with self._errors(f"remove image {name}"):
                await self._client().images.delete(name)
        except NoSuchObject:
            return True
        except EngineUnreachable:
            raise
        except PlatformError:
            return False
        return True

    # networks

    async def ensure_network(self, name: str, body: Json) -> None:
        """Make a network unless there is one of this name."""
        with self._errors(f"make network {name}"):
            found = await self._client().networks.list(filters={"name": [name]})
            if not any(one["Name"] == name for one in found):
                await self._client().networks.create({"Name": name, **body})

    async def remove_network(self, name: str) -> None:
        """Remove a network that nothing uses; one that is used stays."""
        with self._errors(f"remove network {name}"):
            query = self._client()._query(f"networks/{name}", "DELETE")
            with contextlib.suppress(aiodocker.DockerError):
                async with query:
                    return

    def _client(self) -> aiodocker.Docker:
        if self._docker is None:
            self._docker = aiodocker.Docker(url=self.host, timeout=self._timeout)
        return self._docker

    def _container(self, container_id: str) -> DockerContainer:
        return self._client().containers.container(container_id)

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise EngineUnreachable(
                f"the Docker engine did not {what} in time",
                next_step="Look at the load of its machine, and at the engine's log.",
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(str(error)) from error
        except aiodocker.DockerError as error:
            if error.status == _UNREACHABLE:
                raise self._unreachable(error.message) from error
            kind = NoSuchObject if error.status == _MISSING else PlatformError
            raise kind(
                f"the Docker engine did not {what}: {error.message}",
                next_step="Look at the engine's log.",
            ) from error

    def _unreachable(self, why: str) -> EngineUnreachable:
        return EngineUnreachable(
            f"the Docker engine at {self.host} cannot be reached: {why}",
            next_step="Start it, or set [driver] docker_host to where it listens.",
        )


def _wanted(labels: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" if value else key for key, value in labels.items()]


async def _progress(response: aiohttp.ClientResponse) -> AsyncIterator[str]:
    """Lines of a stream of JSON objects; an error in it is raised."""
    async for line in response.content:
        said = json.loads(line) if line.strip() else {}
        if "error" in said:
            raise aiodocker.DockerError(500, str(said["error"]))
        text = said.get("stream") or " ".join(
            str(said[key]) for key in ("id", "status", "progress") if key in said
        )
        for part in str(text).splitlines():
            if part.strip():
                yield part.strip()
