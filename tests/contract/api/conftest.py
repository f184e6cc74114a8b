"""The API in one process: an ASGI driver, the memory store, the real packages directory."""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from starlette.types import ASGIApp

from pratai.clock import now_ms
from pratai.config.schema import Auth, Config, Gateway
from pratai.config.schema import Packages as Limits
from pratai.errors import PrataiError
from pratai.gateway.api.app import build_api
from pratai.gateway.api.context import ApiContext, InvokeAnswer, InvokeCall
from pratai.gateway.auth import KeyRing
from pratai.gateway.catalog import Catalog
from pratai.model.api import NodeView, RuntimeView
from pratai.model.invocation import Invocation
from pratai.packages.directory import Packages
from pratai.store.memory import MemoryStore
from pratai.wire.messages import Result

CODE = b"def main(payload):\n    return payload\n"
BOUNDARY = "a-boundary"


@dataclass
class Answer:
    """What an ASGI application answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    def lines(self) -> list[Any]:
        return [msgspec.json.decode(line) for line in self.body.splitlines()]


async def _nodes() -> list[NodeView]:
    return [NODE]


class World:
    """A gateway's API with everything it needs, and a caller of it."""

    def __init__(self, runner: asyncio.Runner, data_dir: str, config: Config) -> None:
        self.runner = runner
        self.store = MemoryStore()
        self.catalog = Catalog(self.store)
        self.keys = KeyRing(self.store, required=config.auth.required)
        self.packages = Packages(data_dir, Limits())
        self.invoked: list[InvokeCall] = []
        self.replayed: list[Invocation] = []
        self.result = Result(request_id="", outcome="succeeded", payload=b"null")
        self.replay_error: PrataiError | None = None
        self.wrong: dict[str, str] = {"store": "", "scheduler": ""}
        self.changes: list[tuple[int | None, str]] = []
        self.context = ApiContext(
            config=config,
            store=self.store,
            catalog=self.catalog,
            keys=self.keys,
            packages=self.packages,
            replay=self._replay,
            invoke=self._invoke,
            nodes=_nodes,
            runtimes=lambda: [RUNTIME],
            ready=lambda: dict(self.wrong),
            metrics=lambda: b"# HELP pratai_up\npratai_up 1\n",
            base_url="http://pratai.test",
            version_changed=lambda version, version_id: self.changes.append(
                (version.number if version else None, version_id)
            ),
        )
        self.app = build_api(self.context)
        self.key = ""

    def run(self, work: Awaitable[Any]) -> Any:
        async def main() -> Any:
            return await work

        return self.runner.run(main())

    def call(
        self,
        method: str,
        target: str,
        body: bytes | object = b"",
        *,
        headers: dict[str, str] | None = None,
        key: str | None = None,
        client: str = "192.0.2.7",
    ) -> Answer:
        given = {"authorization": f"Bearer {self.key if key is None else key}"}
        if key == "":
            given = {}
        if not isinstance(body, bytes):
            body = msgspec.json.encode(body)
        request = Exchange(self.app, method, target, body, {**given, **(headers or {})}, client)
        return self.run(request.whole())

    def deploy(
        self,
        name: str,
        package: bytes = CODE,
        config: object = None,
        *,
        headers: dict[str, str] | None = None,
        key: str | None = None,
    ) -> Answer:
        parts = [("config", config if config is not None else {}), ("package", package)]
        return self.call(
            "PUT",
            f"/v1/functions/{name}",
            multipart(parts),
            headers={
                "content-type": f"multipart/form-data; boundary={BOUNDARY}",
                **(headers or {}),
            },
            key=key,
        )

    def keep(self, request_id: str, **fields: Any) -> Invocation:
        """Put an invocation into the store."""
        invocation = Invocation(
            **{
                "namespace": "default",
                "request_id": request_id,
                "function": "hello",
                "version": "1",
                "accepted_at_ms": now_ms(),
                "state": "done",
                "outcome": "succeeded",
                "attempt": 1,
                "event": b'{"n":1}',
                "result": b'{"ok":true}',
                "result_content_type": "application/json",
                "finished_at_ms": now_ms() + 5,
                **fields,
            }
        )
        if invocation.state == "done":
            self.store.record(invocation)
            self.run(self.store.flush())
        else:
            self.run(self.store.accept(invocation))
        return invocation

    async def _replay(self, invocation: Invocation) -> str:
        if self.replay_error is not None:
            raise self.replay_error
        self.replayed.append(invocation)
        return f"again-{len(self.replayed)}"

    async def _invoke(self, call: InvokeCall) -> InvokeAnswer:
        self.invoked.append(call)
        version = await self.catalog.resolve(call.namespace, call.name, call.qualifier, 0.0)
        result = msgspec.structs.replace(self.result, request_id=call.request_id)
        return InvokeAnswer(result=result, version=version)


@dataclass
class Exchange:
    """One request over ASGI."""

    app: ASGIApp
    method: str
    target: str
    body: bytes
    headers: dict[str, str]
    client: str = "192.0.2.7"
    status: int = 0
    answered: dict[str, str] = field(default_factory=dict)
    received: bytearray = field(default_factory=bytearray)

    async def whole(self) -> Answer:
        """Until the application is done."""
        await self._run(lambda: False)
        return Answer(self.status, self.answered, bytes(self.received))

    async def until(self, enough: Callable[[bytes], bool]) -> Answer:
        """Until enough has come; then the caller hangs up."""
        async with asyncio.timeout(20):
            await self._run(lambda: enough(bytes(self.received)))
        return Answer(self.status, self.answered, bytes(self.received))

    async def _run(self, enough: Callable[[], bool]) -> None:
        path, _, query = self.target.partition("?")
        gone = asyncio.Event()
        chunks = [self.body[i : i + 1000] for i in range(0, len(self.body), 1000)] or [b""]

        async def receive() -> dict[str, Any]:
            if chunks:
                chunk = chunks.pop(0)
                return {"type": "http.request", "body": chunk, "more_body": bool(chunks)}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                for name, value in message["headers"]:
                    assert name.decode() not in self.answered, "a header is there once"
                    self.answered[name.decode()] = value.decode("latin-1")
            else:
                self.received += message.get("body", b"")
            if enough():
                gone.set()

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": self.method,
            "path": _unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "scheme": "http",
            "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in self.headers.items()],
            "client": (self.client, 4711),
            "server": ("127.0.0.1", 9996),
        }
        await self.app(scope, receive, send)  # type: ignore[arg-type]


def _unquote(path: str) -> str:
    from urllib.parse import unquote

    return unquote(path)


def multipart(parts: list[tuple[str, object]]) -> bytes:
    """A body of parts; what is not bytes is written as JSON."""
    body = b""
    for name, value in parts:
        data = value if isinstance(value, bytes) else msgspec.json.encode(value)
        body += (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="f"\r\n\r\n'
        ).encode()
        body += data + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


def zipped(files: dict[str, str]) -> bytes:
    """A package as zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return buffer.getvalue()


NODE = NodeView(
    node_id="node-1",
    state="ready",
    driver="process",
    runtimes=["python3.11"],
    slots=4,
    slots_busy=0,
    memory_mb=512,
    instances=1,
    architecture="x86_64",
    degraded=[],
    joined_at_ms=1,
    heard_at_ms=2,
)
RUNTIME = RuntimeView(name="python3.11", language="python", version="3.11", default=True)


def _world(runner: asyncio.Runner, data_dir: str, config: Config) -> World:
    world = World(runner, data_dir, config)

    async def begin() -> str:
        await world.store.open()
        secret, _ = await world.keys.create(admin=True, label="test")
        return secret

    world.key = runner.run(begin())
    return world


@pytest.fixture
def make_world(tmp_path: Any) -> Iterator[Callable[[Config], World]]:
    """Worlds with a configuration of the test's own."""
    with asyncio.Runner() as runner:
        made: list[World] = []

        def make(config: Config) -> World:
            made.append(_world(runner, str(tmp_path / str(len(made))), config))
            return made[-1]

        yield make
        for world in made:
            world.run(world.packages.close())


@pytest.fixture
def world(make_world: Callable[[Config], World]) -> World:
    return make_world(Config())


@pytest.fixture
def small_world(make_world: Callable[[Config], World]) -> World:
    """Packages and events of at most 20,000 bytes."""
    return make_world(
        Config(gateway=Gateway(package_bytes_max=20_000, sync_event_bytes_max=20_000))
    )


@pytest.fixture
def open_world(make_world: Callable[[Config], World]) -> World:
    """No key needed."""
    return make_world(Config(auth=Auth(required=False)))


@pytest.fixture(name="multipart")
def _multipart() -> Callable[[list[tuple[str, object]]], bytes]:
    return multipart


@pytest.fixture
def exchange() -> Callable[[World, str, str], Exchange]:
    """A request that may be left before its answer ends."""

    def make(world: World, method: str, target: str) -> Exchange:
        headers = {"authorization": f"Bearer {world.key}"}
        return Exchange(world.app, method, target, b"", headers)

    return make
