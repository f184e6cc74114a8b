"""Nodes that get code from gateways, over real sockets: routes, fetching, the cache."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import msgspec
import pytest
import urllib3
import uvicorn

from pratai.config.cluster_key import internal_token
from pratai.config.schema import Config, Node
from pratai.config.schema import Packages as Limits
from pratai.config.schema import Store as StoreConfig
from pratai.errors import NotFound, PlatformError
from pratai.gateway.api.packages import InternalContext, build_internal
from pratai.gateway.catalog import Catalog, Code
from pratai.metrics import counted
from pratai.model.function import Version
from pratai.node import fetching
from pratai.node import gateways as gateways_module
from pratai.node.fetching import GatewayFetcher
from pratai.packages import tarball
from pratai.packages.directory import Packages
from pratai.packages.requirements import machine_kind
from pratai.packages.shared import SharedPackages
from pratai.packages.source import Export, PackageUnavailable, VersionOffer
from pratai.store.memory import MemoryStore

TOKEN = internal_token(b"JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6")
CODE = b"def main(payload):\n    return payload\n"
LAYER = "1a" * 32


class Cluster:
    """Gateways over one store, each with its own disk and socket."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self.store = MemoryStore(StoreConfig())
        self.shared = SharedPackages(self.store, Limits())
        self.catalog = Catalog(self.store)
        self.packages: list[Packages] = []
        self.urls: list[str] = []
        self._stack = AsyncExitStack()

    async def gateway(self, *, token: str = TOKEN, transfers_max: int = 16) -> str:
        """Start one more; its URL."""
        data_dir = self.tmp_path / f"gateway{len(self.urls)}"
        packages = Packages(str(data_dir), Limits(), shared=self.shared)
        self.packages.append(packages)
        self._stack.push_async_callback(packages.close)
        context = InternalContext(
            catalog=Catalog(self.store),
            packages=packages,
            token=token,
            result_bytes_max=1_234,
            transfers_max=transfers_max,
        )
        url = await self._stack.enter_async_context(serving(build_internal(context)))
        self.urls.append(url)
        return url

    async def fake(self, app: object) -> str:
        """Start something else in a gateway's place."""
        return await self._stack.enter_async_context(serving(app))

    async def deploy(self, name: str, data: bytes = CODE, layer: str = "") -> Version:
        """Deploy through the first gateway."""
        inspected = await self.packages[0].inspect_package(data, {"environment": {"A": name}})
        code = Code(
            digest=inspected.digest,
            package_bytes=inspected.package_bytes,
            layer=layer,
            config=inspected.config,
        )
        return (await self.catalog.create_or_update("default", name, code)).version

    async def keep_layer(self, digest: str = LAYER, *, machine: str = "") -> None:
        """Put a layer into the store."""
        tree = self.tmp_path / f"tree{digest}"
        (tree / "lib").mkdir(parents=True)
        (tree / "lib" / "__init__.py").write_bytes(b"x = 1\n" * 1_000)
        packed = str(self.tmp_path / f"packed{digest}")
        sha256 = tarball.pack(str(tree), packed, Limits())
        size = len(await asyncio.to_thread(Path(packed).read_bytes))
        export = Export(
            digest=digest,
            path=packed,
            bytes=size,
            sha256=sha256,
            machine=machine or machine_kind(),
        )
        await self.shared.put("layer", export)

    @asynccontextmanager
    async def node(
        self,
        *,
        name: str = "node",
        token: str = TOKEN,
        urls: list[str] | None = None,
        held: Callable[[], list[str]] = list,
        **settings: int,
    ) -> AsyncIterator[GatewayFetcher]:
        fetcher = GatewayFetcher(
            Config(node=Node(**settings)),
            str(self.tmp_path / name),
            token=token,
            gateways=lambda: self.urls if urls is None else urls,
            held=held,
        )
        try:
            yield fetcher
        finally:
            await fetcher.close()

    async def close(self) -> None:
        await self._stack.aclose()


class Server(uvicorn.Server):
    """Leaves the signals of the tests alone."""

    @contextmanager
    def capture_signals(self):
        yield


@asynccontextmanager
async def serving(app: object) -> AsyncIterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    server = Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


def with_cluster(
    scenario: Callable[[Cluster], Awaitable[None]],
) -> Callable[[Path, pytest.MonkeyPatch], None]:
    async def within(tmp_path: Path) -> None:
        cluster = Cluster(tmp_path)
        await cluster.store.open()
        try:
            await scenario(cluster)
        finally:
            await cluster.close()
            await cluster.store.close()

    def test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gateways_module, "ROUND_WAIT_S", 0.001)
        monkeypatch.setattr(fetching, "HELD_AT_LEAST_US", -1)
        asyncio.run(asyncio.wait_for(within(tmp_path), 60))

    test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
    return test


async def get(
    url: str, path: str, headers: dict[str, str] | None = None, method: str = "GET"
) -> urllib3.BaseHTTPResponse:
    given = {"Authorization": f"Bearer {TOKEN}"} if headers is None else headers

    def ask() -> urllib3.BaseHTTPResponse:
        with urllib3.PoolManager() as http:
            return http.request(method, url + path, headers=given, retries=False)

    return await asyncio.to_thread(ask)


async def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


# The routes


@with_cluster
async def test_a_gateway_tells_nodes_a_version_and_what_its_instances_get(
    cluster: Cluster,
) -> None:
    url = await cluster.gateway()
    version = await cluster.deploy("hello")

    answer = await get(url, "/internal/versions/default/hello/1")

    offer = msgspec.json.decode(answer.data, type=VersionOffer)
    assert offer == VersionOffer(
        version=version, environment={"A": "hello"}, result_bytes_max=1_234
    )


@with_cluster
async def test_a_gateway_sends_a_package_with_its_size_and_checksum(cluster: Cluster) -> None:
    url = await cluster.gateway()
    digest = (await cluster.deploy("hello")).digest

    answer = await get(url, f"/internal/packages/{digest}")

    assert (answer.status, answer.data) == (200, CODE)
    assert answer.headers["Content-Length"] == str(len(CODE))
    assert answer.headers["ETag"] == f'"{digest}"'
    assert answer.headers["Pratai-Sha256"] == digest == hashlib.sha256(CODE).hexdigest()


@with_cluster
async def test_any_gateway_sends_what_another_one_took(cluster: Cluster) -> None:
    await cluster.gateway()
    other = await cluster.gateway()
    digest = (await cluster.deploy("hello")).digest
    await cluster.keep_layer()

    package = await get(other, f"/internal/packages/{digest}")
    layer = await get(other, f"/internal/layers/{LAYER}")

    assert package.data == CODE
    assert layer.headers["Pratai-Sha256"] == hashlib.sha256(layer.data).hexdigest()
    assert layer.headers["Pratai-Machine"] == machine_kind()


@with_cluster
async def test_only_who_has_the_cluster_key_is_answered(cluster: Cluster) -> None:
    url = await cluster.gateway()
    digest = (await cluster.deploy("hello")).digest
    for path in (f"/internal/packages/{digest}", "/internal/versions/default/hello/1"):
        without = await get(url, path, {})
        wrong = await get(url, path, {"Authorization": f"Bearer {TOKEN[:-1]}x"})
        strange = await get(url, path, {"Authorization": "Bearer \xfc"})
        for answer, status in ((without, 401), (wrong, 403), (strange, 403)):
            assert answer.status == status
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert TOKEN not in answer.data.decode()


@with_cluster
async def test_without_a_key_this_machine_is_answered_but_no_proxy_on_it(
    cluster: Cluster,
) -> None:
    url = await cluster.gateway(token="")
    digest = (await cluster.deploy("hello")).digest
    path = f"/internal/packages/{digest}"

    assert (await get(url, path, {})).status == 200
    for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP"):
        assert (await get(url, path, {name: "127.0.0.1"})).status == 403


@pytest.mark.parametrize(
    ("client", "status"),
    [
        (("127.0.0.1", 1), 404),
        (("::1", 1), 404),
        (("::ffff:127.0.0.1", 1), 404),
        (("10.0.0.7", 1), 403),
        (("::ffff:10.0.0.7", 1), 403),
        (("testclient", 1), 403),
        (None, 403),
    ],
)
def test_without_a_key_strangers_are_refused(
    client: tuple[str, int] | None, status: int, tmp_path: Path
) -> None:
    async def ask() -> int:
        cluster = Cluster(tmp_path)
        packages = Packages(str(tmp_path), Limits())
        app = build_internal(
            InternalContext(
                catalog=cluster.catalog,
                packages=packages,
                token="",
                result_bytes_max=1,
                transfers_max=1,
            )
        )
        sent: list[dict[str, object]] = []
        scope = {"type": "http", "method": "GET", "path": "/internal/x", "headers": []}

        async def send(message: dict[str, object]) -> None:
            sent.append(message)

        await app({**scope, "client": client}, None, send)  # type: ignore[arg-type]
        await packages.close()
        return sent[0]["status"]  # type: ignore[return-value]

    assert asyncio.run(ask()) == status


@with_cluster
async def test_what_is_not_there_is_told_apart_from_what_may_not_be_asked(
    cluster: Cluster,
) -> None:
    url = await cluster.gateway()
    for path in (
        f"/internal/packages/{'0' * 64}",
        f"/internal/layers/{'0' * 64}",
        "/internal/packages/../../etc/passwd",
        "/internal/versions/default/hello/1",
        "/internal/versions/default/hello/0",
        "/internal/versions/default/hello",
        "/internal/",
    ):
        assert (await get(url, path)).status == 404, path
    assert (await get(url, "/internal/versions/default/.../1")).status == 400
    assert (await get(url, f"/internal/packages/{'0' * 64}", method="DELETE")).status == 405


@with_cluster
async def test_a_package_damaged_on_a_gateways_disk_is_cut_off_then_mended(
    cluster: Cluster,
) -> None:
    url = await cluster.gateway()
    digest = (await cluster.deploy("hello")).digest
    path = cluster.tmp_path / "gateway0" / "packages" / digest
    path.chmod(0o644)
    path.write_bytes(CODE.replace(b"payload", b"p4yl0ad"))

    with pytest.raises(urllib3.exceptions.HTTPError):
        await get(url, f"/internal/packages/{digest}")

    assert (await get(url, f"/internal/packages/{digest}")).data == CODE


@with_cluster
async def test_more_transfers_than_allowed_are_sent_elsewhere(cluster: Cluster) -> None:
    url = await cluster.gateway(transfers_max=0)
    digest = (await cluster.deploy("hello")).digest

    answer = await get(url, f"/internal/packages/{digest}")

    assert answer.status == 503
    assert answer.headers["Retry-After"] == "1"


# Fetching


@with_cluster
async def test_a_node_gets_all_that_an_instance_is_started_from(cluster: Cluster) -> None:
    await cluster.gateway()
    await cluster.keep_layer()
    version = await cluster.deploy("hello", layer=LAYER)

    async with cluster.node(log_bytes_max=77) as node:
        fetched, spec = await node.fetch("default/hello/1")

    assert fetched == version == spec.version
    assert (Path(spec.code_dir) / "main.py").read_bytes() == CODE
    assert (Path(spec.layer_dir) / "lib" / "__init__.py").read_bytes() == b"x = 1\n" * 1_000
    assert spec.environment == {"A": "hello"}
    assert (spec.result_bytes_max, spec.log_bytes_max) == (1_234, 77)


@with_cluster
async def test_a_package_is_fetched_once_however_many_ask(cluster: Cluster) -> None:
    await cluster.gateway()
    for name in ("one", "two", "three"):
        await cluster.deploy(name)
    before = counted("packages_fetched")

    async with cluster.node() as node:
        await asyncio.gather(*(node.fetch(f"default/{name}/1") for name in ("one", "two", "three")))

    assert counted("packages_fetched") - before == 1


@with_cluster
async def test_a_gateway_that_is_down_is_passed_over(cluster: Cluster) -> None:
    await cluster.gateway()
    await cluster.deploy("hello")
    urls = [await closed_port(), await closed_port(), cluster.urls[0]]

    async with cluster.node(urls=urls) as node:
        _, spec = await node.fetch("default/hello/1")

    assert os.listdir(spec.code_dir) == ["main.py"]


@with_cluster
async def test_a_gateway_that_sends_something_else_is_passed_over(cluster: Cluster) -> None:
    await cluster.gateway()
    digest = (await cluster.deploy("hello")).digest
    lies = [
        {"content-length": "5"},
        {"content-length": "5", "pratai-sha256": hashlib.sha256(b"wrong").hexdigest()},
        {"content-length": "5", "pratai-sha256": digest},
        {"content-length": "50", "pratai-sha256": digest},
        {"content-length": str(10**12), "pratai-sha256": digest},
    ]
    urls = [await cluster.fake(liar(headers)) for headers in lies]

    async with cluster.node(urls=[*urls, cluster.urls[0]]) as node:
        await node.fetch("default/hello/1")
        assert await node._packages.read(digest) == CODE


def liar(headers: dict[str, str]) -> object:
    async def app(scope: dict[str, object], receive: object, send: Callable[..., Awaitable[None]]):
        given = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": given})
        await send({"type": "http.response.body", "body": b"wrong"})

    return app


@with_cluster
async def test_a_node_with_another_key_is_told_so(cluster: Cluster) -> None:
    await cluster.gateway()
    await cluster.deploy("hello")

    async with cluster.node(token="other") as node:
        with pytest.raises(PlatformError) as refused:
            await node.fetch("default/hello/1")

    assert refused.value.code == "cluster_key_refused"
    assert "key_file" in refused.value.next_step


@with_cluster
async def test_a_version_that_no_gateway_has_is_not_found(cluster: Cluster) -> None:
    await cluster.gateway()
    await cluster.gateway()

    async with cluster.node() as node:
        with pytest.raises(NotFound):
            await node.fetch("default/hello/1")


@with_cluster
async def test_no_gateway_that_answers_is_a_matter_of_the_platform(cluster: Cluster) -> None:
    for urls in ([], [await closed_port()]):
        async with cluster.node(urls=urls) as node:
            with pytest.raises(PackageUnavailable) as missing:
                await node.fetch("default/hello/1")
            assert missing.value.code == "package_unavailable"
            assert missing.value.next_step


@with_cluster
async def test_a_fetch_ends_at_its_deadline(cluster: Cluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with cluster.node(urls=[url], fetch_timeout_ms=50) as node:
            with pytest.raises(PackageUnavailable, match="longer than 50 ms"):
                await node.fetch("default/hello/1")
            silent.close()


@with_cluster
async def test_a_layer_for_another_kind_of_machine_is_refused(cluster: Cluster) -> None:
    await cluster.gateway()
    await cluster.keep_layer(machine="linux-riscv64-glibc")
    await cluster.deploy("hello", layer=LAYER)

    async with cluster.node() as node:
        with pytest.raises(PlatformError) as refused:
            await node.fetch("default/hello/1")

    assert refused.value.code == "layer_of_other_machine"
    assert "linux-riscv64-glibc" in refused.value.detail


# The cache


def code(number: int, size: int = 50_000) -> bytes:
    return CODE + f"# {number} ".encode() + b"x" * size + b"\n"


@with_cluster
async def test_the_cache_gives_up_what_was_unused_for_longest(cluster: Cluster) -> None:
    await cluster.gateway()
    digests = [(await cluster.deploy(f"f{number}", code(number))).digest for number in range(4)]

    async with cluster.node(cache_bytes_max=310_000) as node:
        for number in (0, 1, 2, 0, 3):
            await node.fetch(f"default/f{number}/1")
            assert node.cache.bytes <= 310_000
        kept = set(node.cache.entries)

    assert kept == {digests[0], digests[2], digests[3]}
    assert set(os.listdir(cluster.tmp_path / "node" / "unpacked")) == kept
    assert set(os.listdir(cluster.tmp_path / "node" / "packages")) == kept


@with_cluster
async def test_what_the_node_holds_is_never_given_up(cluster: Cluster) -> None:
    await cluster.gateway()
    for number in range(4):
        await cluster.deploy(f"f{number}", code(number))
    held = ["default/f0/1"]

    async with cluster.node(cache_bytes_max=210_000, held=lambda: held) as node:
        _, spec = await node.fetch("default/f0/1")
        for number in (1, 2, 3):
            await node.fetch(f"default/f{number}/1")
        assert os.listdir(spec.code_dir) == ["main.py"]
        assert len(node.cache.entries) == 2

        held.append("default/f3/1")
        with pytest.raises(PlatformError) as full:
            await node.fetch("default/f1/1")
        assert full.value.code == "node_cache_full"
        assert os.listdir(spec.code_dir) == ["main.py"]
        assert node.cache.bytes <= 210_000

        held.remove("default/f3/1")
        await node.fetch("default/f1/1")


@with_cluster
async def test_a_node_that_starts_again_keeps_its_cache(cluster: Cluster) -> None:
    await cluster.gateway()
    await cluster.keep_layer()
    await cluster.deploy("hello", layer=LAYER)
    await cluster.deploy("other", code(1))
    async with cluster.node() as node:
        await node.fetch("default/hello/1")
        await node.fetch("default/other/1")
        size = node.cache.bytes
    (cluster.tmp_path / "node" / "packages" / ".unfinished-x").write_bytes(b"half")
    before = counted("packages_fetched")

    async with cluster.node() as node:
        await node.fetch("default/hello/1")
        assert node.cache.bytes == size

    assert counted("packages_fetched") == before
    assert not (cluster.tmp_path / "node" / "packages" / ".unfinished-x").exists()


@with_cluster
async def test_what_was_damaged_on_a_nodes_disk_is_fetched_again(cluster: Cluster) -> None:
    await cluster.gateway()
    await cluster.keep_layer()
    version = await cluster.deploy("hello", layer=LAYER)
    async with cluster.node() as node:
        _, spec = await node.fetch("default/hello/1")
    layer_file = Path(spec.layer_dir) / "lib" / "__init__.py"
    for path in (
        cluster.tmp_path / "node" / "packages" / version.digest,
        Path(spec.code_dir) / "main.py",
        layer_file,
    ):
        path.chmod(0o644)
        path.write_bytes(b"\0" * path.stat().st_size)

    async with cluster.node() as node:
        await node.fetch("default/hello/1")

    assert (Path(spec.code_dir) / "main.py").read_bytes() == CODE
    assert layer_file.read_bytes() == b"x = 1\n" * 1_000


@with_cluster
async def test_what_a_failed_fetch_left_counts_too_and_is_given_up(cluster: Cluster) -> None:
    """The package comes, its layer does not: again and again, with other packages."""
    await cluster.gateway()
    for number in range(4):
        await cluster.deploy(f"f{number}", code(number), layer="0" * 64)
    await cluster.deploy("small")

    async with cluster.node(cache_bytes_max=210_000) as node:
        for number in range(4):
            with pytest.raises(NotFound):
                await node.fetch(f"default/f{number}/1")
        await node.fetch("default/small/1")

        assert node.cache.bytes <= 210_000
        assert set(os.listdir(cluster.tmp_path / "node" / "packages")) == set(node.cache.entries)


@with_cluster
async def test_a_disk_that_takes_nothing_is_said_so(cluster: Cluster) -> None:
    await cluster.gateway()
    await cluster.deploy("hello")
    (cluster.tmp_path / "node").write_bytes(b"a file where the folder should be")

    async with cluster.node() as node:
        with pytest.raises(PlatformError, match="cannot be read or written"):
            await node.fetch("default/hello/1")
