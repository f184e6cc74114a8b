"""A node's way to code: versions, packages and layers from any gateway, kept in a bounded cache.

A node has no store. It asks a gateway for a version, takes package and layer by digest unless they
are here already, and hands the driver two directories. What is held, being fetched or was fetched a
moment ago is never removed for room; where that alone is more than the cache may hold, the fetch is
refused.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable, Collection
from urllib.parse import quote

import msgspec

from pratai.clock import monotonic_us
from pratai.config.schema import Config
from pratai.driver.base import InstanceSpec
from pratai.errors import PlatformError
from pratai.metrics import count
from pratai.model.function import Version
from pratai.node.cache import Cache
from pratai.node.gateways import Gateways
from pratai.packages import files
from pratai.packages.directory import Packages
from pratai.packages.requirements import machine_kind
from pratai.packages.source import PackageUnavailable, VersionOffer

#: A version fetched this lately counts as held, until its node says whether it holds it.
HELD_AT_LEAST_US = 2_000_000
#: Versions whose needs are remembered; beyond it the oldest that is not held is forgotten.
KNOWN_MAX = 50_000

_decode_offer = msgspec.json.Decoder(VersionOffer).decode


def none_held() -> Collection[str]:
    """For a node that holds nothing."""
    return ()


class _Known(msgspec.Struct, frozen=True):
    digests: tuple[str, ...]
    at_us: int


class GatewayFetcher:
    """Makes versions startable on this node; `fetch` is the node service's `Fetch`.

    `token`: `config.cluster_key.internal_token`. `gateways`: URLs of the gateways at this moment.
    `held`: ids of the versions that the node holds; their packages and layers stay.
    """

    def __init__(
        self,
        config: Config,
        cache_dir: str,
        *,
        token: str,
        gateways: Callable[[], list[str]],
        held: Callable[[], Collection[str]] = none_held,
    ) -> None:
        self._config = config
        self._held = held
        self._gateways = Gateways(
            gateways,
            token=token,
            ca_file=config.node.ca_file,
            timeout_ms=config.node.fetch_timeout_ms,
        )
        self._packages = Packages(cache_dir, config.packages, source=self)
        self.cache = Cache(cache_dir, config.node.cache_bytes_max)
        self._cleaned = False
        #: Held while entries are added or removed, so that none is taken just as it is removed.
        self._changing = asyncio.Lock()
        #: {digest: fetches that need it now}.
        self._wanted: collections.Counter[str] = collections.Counter()
        #: {version id: what it needs}. At most `KNOWN_MAX`; dropped when its packages are.
        self._known: dict[str, _Known] = {}

    def __repr__(self) -> str:
        """Where from and how full."""
        return f"<GatewayFetcher {self._gateways!r} {self.cache!r}>"

    async def close(self) -> None:
        """Give up what is on its way."""
        await self._gateways.close()
        await self._packages.close()

    async def fetch(self, version_id: str) -> tuple[Version, InstanceSpec]:
        """A version and what its instances are started from.

        Raises:
            NotFound: there is no such version any more, or its package is nowhere.
            PlatformError: no gateway answers; or it cannot run or be kept here.

        """
        timeout_ms = self._config.node.fetch_timeout_ms
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                return await self._fetch(version_id)
        except TimeoutError:
            raise PackageUnavailable(
                f"Fetching {version_id} took longer than {timeout_ms} ms.",
                next_step="See how the gateways are, or raise [node] fetch_timeout_ms.",
            ) from None

    async def get_package(self, digest: str, path: str) -> None:
        """Write a package to a file (`packages.source.Source`)."""
        await self._download(f"/internal/packages/{digest}", path, digest)

    async def get_layer(self, digest: str, path: str) -> None:
        """Write a packed layer to a file (`packages.source.Source`)."""
        await self._download(f"/internal/layers/{digest}", path, "")

    async def _download(self, url_path: str, path: str, sha256: str) -> None:
        await self._gateways.download(url_path, path, sha256=sha256, bytes_max=self.cache.bytes_max)
        count("packages_fetched")

    async def _fetch(self, version_id: str) -> tuple[Version, InstanceSpec]:
        offer = await self._offer(version_id)
        version = offer.version
        digests = tuple(digest for digest in (version.digest, version.layer) if digest)
        self._wanted.update(digests)
        try:
            async with self._changing:  # what was being removed is gone before it is looked for
                await self._make_room()
            code_dir = await self._packages.code_dir(version.digest)
            layer_dir = await self._packages.layer(version.layer)
            await self._admit(version_id, digests)
        finally:
            self._wanted.subtract(digests)
            self._wanted += collections.Counter()  # without those at zero
        return version, InstanceSpec(
            instance_id="",
            version=version,
            code_dir=code_dir,
            layer_dir=layer_dir,
            environment=offer.environment,
            result_bytes_max=offer.result_bytes_max,
            log_bytes_max=self._config.node.log_bytes_max,
            init_timeout_ms=self._config.node.init_timeout_ms,
        )

    async def _offer(self, version_id: str) -> VersionOffer:
        path = f"/internal/versions/{quote(version_id)}"
        offer = await self._gateways.read(path, _decode_offer)
        if offer.version.version_id != version_id:
            raise PlatformError(f"A gateway answered {version_id} with another version.")
        own = machine_kind()
        if offer.version.layer and offer.layer_machine != own:
            raise PlatformError(
                f"The dependencies of {version_id} are for {offer.layer_machine}; "
                f"this node is {own}.",
                code="layer_of_other_machine",
                next_step="Give the cluster nodes of the kind of machine that its gateways are.",
            )
        return offer

    # the cache

    async def _make_room(self) -> None:
        """Remove what nobody needs until the rest is within bounds, or nothing is left to."""
        with files.map_errors():
            if not self._cleaned:
                await asyncio.to_thread(self.cache.clean)
                self._cleaned = True
            await asyncio.to_thread(self.cache.scan)
        while victim := self.cache.victim(self._in_use()):
            await self._remove(victim)

    async def _admit(self, version_id: str, digests: tuple[str, ...]) -> None:
        """Count what came in and make room for it."""
        async with self._changing:
            for digest in digests:
                with files.map_errors():
                    await asyncio.to_thread(self.cache.touch, digest)
                    self.cache.add(digest, await asyncio.to_thread(self.cache.measure, digest))
            before = self._known.get(version_id)
            self._known[version_id] = _Known(digests, monotonic_us())
            await self._make_room()
            if self.cache.bytes > self.cache.bytes_max:
                del self._known[version_id]
                if before is not None:
                    self._known[version_id] = before
                await self._refuse(digests)
            if len(self._known) > KNOWN_MAX:
                self._forget()

    def _in_use(self) -> set[str]:
        """Digests that may not be removed."""
        held, young_us = set(self._held()), monotonic_us() - HELD_AT_LEAST_US
        in_use = {digest for digest, fetches in self._wanted.items() if fetches > 0}
        for version_id, known in self._known.items():
            if version_id in held or known.at_us >= young_us:
                in_use.update(known.digests)
        return in_use

    def _forget(self) -> None:
        """Drop the needs of versions whose packages are gone, and of too many."""
        held = set(self._held())
        spare = len(self._known) - KNOWN_MAX
        for version_id, known in list(self._known.items()):
            gone = not all(digest in self.cache.entries for digest in known.digests)
            if gone or (spare > 0 and version_id not in held):
                del self._known[version_id]
                spare -= 1

    async def _remove(self, digest: str) -> None:
        await self._packages.remove(digest)
        self.cache.drop(digest)
        self._forget()
        count("node_cache_removed")

    async def _refuse(self, digests: tuple[str, ...]) -> None:
        """Give back what came for one version alone."""
        self._wanted.subtract(digests)
        in_use = self._in_use()
        self._wanted.update(digests)
        for digest in digests:
            if digest not in in_use:
                await self._remove(digest)
        raise PlatformError(
            f"This node's cache of {self.cache.bytes_max} bytes is full of what it runs.",
            code="node_cache_full",
            next_step="Raise [node] cache_bytes_max.",
            retry_after_s=5,
        )
