"""Runs one process of a cluster: its data dir, its HTTP port, its ready file, its life."""

from __future__ import annotations

import asyncio
import os

import msgspec
import uvloop

from pratai import log
from pratai.config import schema
from pratai.gateway.direct import DirectProtocol
from pratai.up.cluster.parts import ProcessOptions
from pratai.up.datadir import check_data_dir, locked
from pratai.up.machine import allow_files
from pratai.up.serving import Lived, listening, live, url_of


def run_process(options: ProcessOptions) -> None:
    """Run a process until it is told to stop.

    Raises:
        CallerError: the data dir is in use, or cannot be used.
        ConfigError: the configuration does not make a cluster.
        PlatformError: a port is taken, or a part cannot start.

    """
    config = options.config
    log.configure(config.log.level, config.log.format)
    check_data_dir(options.data_dir)
    allow_files()
    if options.kind == "gateway":
        host, port, or_any = config.gateway.host, config.gateway.port, False
    else:
        sections: dict[str, schema.Scheduler | schema.Agent | schema.Node] = {
            "scheduler": config.scheduler,
            "agent": config.agent,
            "node": config.node,
        }
        section = sections[options.kind]
        host, port, or_any = section.health_host, section.health_port, True
    with locked(options.data_dir), listening(host, port, or_any=or_any) as listener:
        url = url_of(listener)
        is_gateway = options.kind == "gateway"
        uvloop.run(
            live(
                lambda: _Announced(_make(options), options, url),
                listener,
                http=DirectProtocol if is_gateway else "httptools",
                leave_ms=config.gateway.leave_ms if is_gateway else 0,
            )
        )


def _make(options: ProcessOptions) -> Lived:
    """The process asked for; only its own parts are loaded."""
    if options.kind == "gateway":
        from pratai.up.cluster.gateway import GatewayProcess

        return GatewayProcess(options)
    if options.kind == "scheduler":
        from pratai.up.cluster.scheduler import SchedulerProcess

        return SchedulerProcess(options)
    if options.kind == "agent":
        from pratai.up.cluster.agent import AgentProcess

        return AgentProcess(options)
    from pratai.up.cluster.node import NodeProcess

    return NodeProcess(options)


class _Announced:
    """A process that writes its ready file once it is served."""

    def __init__(self, process: Lived, options: ProcessOptions, url: str) -> None:
        self._process = process
        self._options = options
        self._url = url

    async def start(self, url: str) -> object:
        return await self._process.start(url)

    async def serving(self) -> asyncio.Task[None] | None:
        vital = await self._process.serving()
        key = getattr(self._process, "key", "")
        url = getattr(self._process, "url", "") or self._url
        if self._options.ready_file:
            await asyncio.to_thread(_write_ready, self._options.ready_file, url, key)
        return vital

    async def drain(self, stop_now: asyncio.Event) -> None:
        await self._process.drain(stop_now)

    async def stop(self) -> None:
        await self._process.stop()


def _write_ready(path: str, url: str, key: str) -> None:
    ready = msgspec.json.encode({"url": url, "pid": os.getpid(), "key": key})
    temporary = f"{path}.{os.getpid()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(ready)
    os.replace(temporary, path)
