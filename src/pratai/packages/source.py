"""Where packages come from that are not on this disk, and what is said when they do not come.

A gateway's source is the store (`shared.py`); a node's are the gateways (`node/fetching.py`). Also
what a gateway tells a node of a version: both sides read it here.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from pratai.errors import NotFound, PlatformError
from pratai.model.function import Version

#: Headers of a package or layer on its way to a node.
SHA256_HEADER = "Pratai-Sha256"
MACHINE_HEADER = "Pratai-Machine"


class PackageDamaged(PlatformError):
    """What was kept of a package or layer is not what it was."""

    code = "package_damaged"


class PackageUnavailable(PlatformError):
    """A package or layer cannot be had at this moment."""

    code = "package_unavailable"


class Source(Protocol):
    """Where a missing package or layer can be had."""

    async def get_package(self, digest: str, path: str) -> None:
        """Write a package to a file. Whoever asks compares it with its digest.

        Raises:
            NotFound: there is none. PlatformError: it cannot be had now.

        """
        ...

    async def get_layer(self, digest: str, path: str) -> None:
        """Write a layer, packed as by `tarball.py`, to a file, compared with its checksum.

        Raises:
            NotFound: there is none. PlatformError: it cannot be had now.

        """
        ...


class VersionOffer(msgspec.Struct, frozen=True, kw_only=True):
    """A version as a gateway tells it to a node."""

    version: Version
    #: Variables of its instances, merged.
    environment: dict[str, str]
    result_bytes_max: int
    #: Kind of machine that its layer is for; "" without a layer.
    layer_machine: str = ""


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """A package or layer as a file that can be sent."""

    digest: str
    path: str
    bytes: int
    sha256: str
    machine: str = ""


def no_package(digest: str) -> NotFound:
    """The error for a package that is nowhere."""
    return NotFound(
        f"There is no package {digest}.",
        next_step="Deploy the function again.",
        field="digest",
        value=digest,
    )


def no_layer(digest: str) -> NotFound:
    """The error for a layer that is nowhere."""
    return NotFound(
        f"There is no layer {digest}.",
        next_step="Deploy the function again: its dependencies are then resolved anew.",
        field="digest",
        value=digest,
    )
