"""A world for drivers: real drivers on a loop of their own, driven by plain calls from a test."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import textwrap
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
import uvloop
from tests import elasticsearch_cluster

from pratai.config.schema import Driver as DriverConfig
from pratai.config.schema import Elasticsearch as ElasticsearchConfig
from pratai.config.schema import Node as NodeConfig
from pratai.driver.base import Driver, InstanceExit, InstanceSpec
from pratai.driver.fake import FakeDriver
from pratai.driver.registry import create_driver
from pratai.model.function import FunctionConfig, Version
from pratai.wire import frames

WAIT_S = 15.0
ECHO = "def main(payload):\n    return payload\n"
T = TypeVar("T")
LAST_KINDS = (frames.RESULT, frames.ERROR, frames.RETURNED, frames.INIT_ERROR)


class Answer:
    """All that came for one event: logs and chunks, then the last frame."""

    def __init__(self) -> None:
        self.kind = 0
        self.meta: dict[str, Any] = {}
        self.payload = b""
        self.logs: list[tuple[str, str]] = []
        self.chunks: list[tuple[str, bytes]] = []

    @property
    def value(self) -> Any:
        assert self.kind == frames.RESULT, self.meta
        return json.loads(self.payload)

    @property
    def failure(self) -> dict[str, Any]:
        assert self.kind == frames.ERROR, (self.kind, self.payload)
        return self.meta


class Instance:
    """One instance of the world; every wait is bounded."""

    def __init__(self, world: World, spec: InstanceSpec) -> None:
        self.world = world
        self.spec = spec
        self.id = spec.instance_id
        self.events: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self.exits: list[InstanceExit] = []
        self.after_exit: list[Any] = []
        self.output: list[tuple[str, str]] = []
        self.init_logs: list[tuple[str, str]] = []
        self.ready_meta: dict[str, Any] = {}

    def next(self) -> tuple[str, Any]:
        return self.world.run(asyncio.wait_for(self.events.get(), WAIT_S))

    def wait_ready(self) -> Answer:
        """Until READY (kind is that) or INIT_ERROR or exit (kind 0)."""
        answer = Answer()
        while True:
            what, value = self.next()
            if what == "exit":
                return answer
            kind, meta, payload = value
            if kind == frames.LOG:
                answer.logs.append((meta["level"], payload.decode()))
                continue
            answer.kind, answer.meta, answer.payload = kind, meta, payload
            return answer

    def post(self, event: Any = None, *, request_id: str = "r1", **meta: Any) -> None:
        """Send an event without waiting."""
        payload = event if isinstance(event, bytes) else json.dumps(event).encode()
        meta.setdefault("deadline_ms", int(time.time() * 1000) + 30_000)
        frame = frames.encode(
            frames.EVENT, frames.EventMeta(request_id=request_id, **meta), payload
        )
        self.world.do(lambda: self.world.driver.send(self.id, frame))

    def answer(self) -> Answer:
        """Everything up to the next last frame."""
        answer = Answer()
        while True:
            what, value = self.next()
            assert what == "frame", f"{self.id} ended: {value}"
            kind, meta, payload = value
            if kind == frames.LOG:
                answer.logs.append((meta["level"], payload.decode()))
            elif kind == frames.CHUNK:
                answer.chunks.append((meta.get("content_type", ""), payload))
            else:
                assert kind in LAST_KINDS
                answer.kind, answer.meta, answer.payload = kind, meta, payload
                return answer

    def call(self, event: Any = None, *, request_id: str = "r1", **meta: Any) -> Answer:
        self.post(event, request_id=request_id, **meta)
        return self.answer()

    def wait_exit(self) -> InstanceExit:
        while True:
            what, value = self.next()
            if what == "exit":
                return value

    def stop(self, grace_ms: int = 0) -> InstanceExit:
        self.world.run(self.world.driver.stop(self.id, grace_ms))
        return self.wait_exit()

    @property
    def pid(self) -> int:
        made = self.world.driver._instances[self.id]  # type: ignore[attr-defined]
        self.world.until(lambda: made.pid)
        pid: int = made.pid
        return pid


class World:
    """A driver on a loop. Methods are plain calls that run the loop for as long as they wait."""

    def __init__(
        self,
        driver_name: str,
        loop_name: str,
        root: Path,
        *,
        settings: dict[str, Any] | None = None,
    ) -> None:
        factory = uvloop.new_event_loop if loop_name == "uvloop" else asyncio.new_event_loop
        self.runner = asyncio.Runner(loop_factory=factory)
        self.root = root
        self.state_dir = root / "state"
        #: Settings of `[driver]` beside its name.
        self.settings = settings or {}
        self.driver = self._make(driver_name)
        self.instances: dict[str, Instance] = {}
        self.count = 0
        #: Set whenever the driver says something.
        self.heard = asyncio.Event()
        self.run(self.driver.open(self))

    def _make(self, name: str) -> Driver:
        if name == "fake":
            loop = self.runner.get_loop()
            return FakeDriver(call_later=loop.call_later)
        config = msgspec.convert({"name": name, **self.settings}, DriverConfig)
        return create_driver(config, state_dir=str(self.state_dir), node_config=NodeConfig())

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(step)

    def do(self, call: Callable[[], T]) -> T:
        """A plain call made on the loop."""

        async def on_loop() -> T:
            return call()

        return self.run(on_loop())

    def until(self, fact: Callable[[], Any], what: str = "") -> None:
        """Run the loop until something is true."""

        async def wait() -> None:
            deadline = time.monotonic() + WAIT_S
            while not fact():
                assert time.monotonic() < deadline, f"never came true: {what or fact}"
                self.heard.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.heard.wait(), 0.01)

        self.run(wait())

    def spec(
        self,
        code: str | dict[str, str] = ECHO,
        *,
        handler: str = "main:main",
        name: str = "f",
        layer: dict[str, str] | None = None,
        environment: dict[str, str] | None = None,
        result_bytes_max: int = 6 * 1024 * 1024,
        log_bytes_max: int = 1024 * 1024,
        init_timeout_ms: int = 10_000,
        **config: Any,
    ) -> InstanceSpec:
        self.count += 1
        files = {"main.py": code} if isinstance(code, str) else code
        return InstanceSpec(
            instance_id=f"{name}-{self.count}",
            version=Version(
                namespace="default",
                name=name,
                number=1,
                digest="0" * 64,
                package_bytes=1,
                layer="",
                config=FunctionConfig(handler=handler, **config),
                created_at_ms=0,
            ),
            code_dir=self._write(files),
            layer_dir=self._write(layer) if layer else "",
            environment=environment or {},
            result_bytes_max=result_bytes_max,
            log_bytes_max=log_bytes_max,
            init_timeout_ms=init_timeout_ms,
        )

    def _write(self, files: dict[str, str]) -> str:
        digest = hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]
        folder = self.root / "packages" / digest
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        return str(folder)

    def adopt(self, spec: InstanceSpec) -> Instance:
        """Listen for an instance that somebody else starts."""
        instance = Instance(self, spec)
        self.instances[instance.id] = instance
        return instance

    def begin(self, spec: InstanceSpec) -> Instance:
        """Start without waiting for READY."""
        instance = self.adopt(spec)
        self.run(self.driver.start(spec))
        return instance

    def start(self, code: str | dict[str, str] = ECHO, **options: Any) -> Instance:
        """Start and wait for READY."""
        instance = self.begin(self.spec(code, **options))
        answer = instance.wait_ready()
        assert answer.kind == frames.READY, (answer.kind, answer.meta)
        instance.ready_meta, instance.init_logs = answer.meta, answer.logs
        return instance

    def on_frame(self, instance_id: str, kind: int, meta: bytes, payload: bytes) -> None:
        self._note(instance_id, "frame", (kind, json.loads(meta or b"{}"), payload))

    def on_output(self, instance_id: str, stream: str, text: str) -> None:
        self.heard.set()
        self.instances[instance_id].output.append((stream, text))
        if self.instances[instance_id].exits:
            self.instances[instance_id].after_exit.append(text)

    def on_exit(self, instance_id: str, how: InstanceExit) -> None:
        self._note(instance_id, "exit", how)
        self.instances[instance_id].exits.append(how)

    def _note(self, instance_id: str, what: str, value: Any) -> None:
        self.heard.set()
        instance = self.instances[instance_id]
        if instance.exits:
            instance.after_exit.append(value)
        instance.events.put_nowait((what, value))

    def close(self) -> None:
        self.run(self.driver.close())
        self.runner.close()


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A process driver on the standard loop, unless parametrised by "driver/loop"."""
    driver_name, _, loop_name = getattr(request, "param", "process/asyncio").partition("/")
    settings: dict[str, Any] = {}
    if driver_name == "docker":
        settings["docker_host"] = request.getfixturevalue("engine").host
    made = World(driver_name, loop_name, tmp_path, settings=settings)
    yield made
    made.close()


@pytest.fixture(scope="session")
def elasticsearch_urls() -> Iterator[str]:
    """A real Elasticsearch of one node for all tests, or the one that is named to us."""
    named = elasticsearch_cluster.running_urls()
    if named:
        yield named
        return
    started = elasticsearch_cluster.cluster()
    yield ",".join(started.urls)
    elasticsearch_cluster.discard(started)


@pytest.fixture(scope="session")
def elasticsearch_common(elasticsearch_urls: str) -> Iterator[ElasticsearchConfig]:
    """Settings that tests share, so that the indices are made once."""
    prefix = f"test-{os.urandom(4).hex()}"
    yield ElasticsearchConfig(urls=elasticsearch_urls, index_prefix=prefix, replicas=0)
    elasticsearch_cluster.remove(elasticsearch_urls, prefix)


@pytest.fixture
def elasticsearch_settings(elasticsearch_common: ElasticsearchConfig) -> ElasticsearchConfig:
    """The shared settings, nothing kept there."""
    elasticsearch_cluster.empty(elasticsearch_common.urls, elasticsearch_common.index_prefix)
    return elasticsearch_common


@pytest.fixture
def elasticsearch_fresh(elasticsearch_urls: str) -> Iterator[ElasticsearchConfig]:
    """Settings with a prefix that nobody used; what a test left there is removed."""
    prefix = f"test-{os.urandom(4).hex()}"
    yield ElasticsearchConfig(urls=elasticsearch_urls, index_prefix=prefix, replicas=0)
    elasticsearch_cluster.remove(elasticsearch_urls, prefix)
