"""Images: their names, what goes into them, and building them.

Dockerfiles are those of the runtimes' folders (`runtimes/seed`, `runtimes/python`); contexts are
tar archives made here. Every image carries labels that begin with `pratai.`.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import tarfile
import tempfile
from collections.abc import Mapping
from typing import IO

import msgspec

from pratai import __version__
from pratai.driver.docker.engine import Engine
from pratai.driver.docker.rootfs import Progress, make_rootfs
from pratai.errors import PlatformError
from pratai.runtimes import catalog

SEED = "seed"
#: Where things are in a runtime's image and container.
TASK_DIR, LAYER_DIR, CONTROL_DIR = "/var/task", "/var/layer", "/run/pratai"
BOOTSTRAP = "/usr/lib/pratai/runtime/bootstrap.py"

LABEL_IMAGE = "pratai.image"
LABEL_BOOTSTRAP = "pratai.bootstrap"
LABEL_KEY = "pratai.key"
#: On what a node made for itself, and may remove: containers, networks, images of functions.
LABEL_NODE = "pratai.node"

_RUNTIMES_DIR = os.path.dirname(os.path.abspath(catalog.__file__))


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """An image that was built."""

    image: str
    id: str
    size_bytes: int


class FunctionImage(msgspec.Struct, frozen=True, kw_only=True):
    """What an image of one version is made from."""

    runtime_image: str
    code_dir: str
    #: "" = no dependencies.
    layer_dir: str
    #: Names of Debian packages.
    apt: list[str]
    labels: dict[str, str] = {}


def image_name(what: str, registry: str = "") -> str:
    """The image of the seed or of a runtime, of this version of Pratai."""
    prefix = f"{registry.rstrip('/')}/" if registry else ""
    return f"{prefix}pratai/{what}:{__version__}"


def bootstrap_digest() -> str:
    """SHA-256 of the Python runtime's files: node and image must have the same."""
    folder = os.path.join(_RUNTIMES_DIR, "python")
    digest = hashlib.sha256()
    for name in sorted(os.listdir(folder)):
        if name.endswith(".py"):
            digest.update(name.encode())
            with open(os.path.join(folder, name), "rb") as file:
                digest.update(file.read())
    return digest.hexdigest()


async def build_seed(
    engine: Engine, *, base: str = "", registry: str = "", progress: Progress
) -> Built:
    """The image `pratai/seed`: from an existing image, or a new system where none is given."""
    with tempfile.TemporaryDirectory(prefix="pratai-seed-") as folder:
        rootfs = os.path.join(folder, "rootfs.tar")
        if base:
            _write_note(rootfs, base)
        else:
            await make_rootfs(rootfs, progress=progress)
        dockerfile = os.path.join(_RUNTIMES_DIR, "seed", "Dockerfile")
        with tempfile.TemporaryFile(dir=folder) as context:
            entries = {"Dockerfile": dockerfile, "rootfs.tar": rootfs}
            await asyncio.to_thread(_write_context, context, entries)
            return await build(
                engine,
                context,
                tag=image_name(SEED, registry),
                arguments={"BASE": base or "scratch"},
                labels={LABEL_IMAGE: "seed"},
                progress=progress,
            )


async def build_runtime(
    engine: Engine, runtime: catalog.Runtime, *, registry: str = "", progress: Progress
) -> Built:
    """The image of a runtime, on the seed that the engine has."""
    folder = os.path.dirname(runtime.bootstrap)
    with tempfile.TemporaryFile() as context:
        entries = {"Dockerfile": os.path.join(folder, "Dockerfile"), "runtime": folder}
        await asyncio.to_thread(_write_context, context, entries)
        return await build(
            engine,
            context,
            tag=image_name(runtime.name, registry),
            arguments={
                "SEED": image_name(SEED, registry),
                "PYTHON": runtime.name.removeprefix(runtime.language),
            },
            labels={LABEL_IMAGE: "runtime", LABEL_BOOTSTRAP: bootstrap_digest()},
            progress=progress,
        )


async def build_function(
    engine: Engine, image: FunctionImage, *, tag: str, progress: Progress
) -> Built:
    """The image of one version, from its runtime's template."""
    dockerfile = os.path.join(_RUNTIMES_DIR, "python", "function.Dockerfile")
    with tempfile.TemporaryFile() as context:
        entries = {"Dockerfile": dockerfile, "task": image.code_dir, "layer": image.layer_dir}
        await asyncio.to_thread(_write_context, context, entries)
        return await build(
            engine,
            context,
            tag=tag,
            arguments={"RUNTIME": image.runtime_image, "APT": " ".join(image.apt)},
            labels={LABEL_IMAGE: "function", **image.labels},
            progress=progress,
        )


async def build(
    engine: Engine,
    context: IO[bytes],
    *,
    tag: str,
    arguments: Mapping[str, str],
    labels: Mapping[str, str],
    progress: Progress,
) -> Built:
    """Build one image, telling `progress` what the engine says."""
    async for line in engine.build(context, tag=tag, arguments=arguments, labels=labels):
        progress(line)
    made = await engine.image(tag)
    if made is None:
        raise PlatformError(
            f"the engine built {tag} and does not have it", next_step="Look at the engine's log."
        )
    return Built(image=tag, id=made["Id"], size_bytes=made["Size"])


def _write_context(target: IO[bytes], entries: Mapping[str, str]) -> None:
    """{name in the archive: file or folder, "" = an empty folder}; owners and times left out,
    so that equal contents are equal layers for the engine.
    """
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, source in entries.items():
            if source:
                archive.add(source, arcname=name, filter=_plain)
            else:
                folder = tarfile.TarInfo(name)
                folder.type, folder.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(folder)
    target.seek(0)


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if "__pycache__" in entry.name.split("/") and entry.name.startswith("runtime"):
        return None
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 0
    return entry


def _write_note(path: str, base: str) -> None:
    note = f"made from {base}\n".encode()
    with tarfile.open(path, mode="w") as archive:
        entry = tarfile.TarInfo("etc/pratai-seed")
        entry.size, entry.mode = len(note), 0o644
        archive.addfile(entry, io.BytesIO(note))
