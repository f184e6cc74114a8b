"""The node's I/O: join and heartbeat, drive instances, turn their frames into messages and back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import ClassVar

import msgspec
import structlog
from msgspec.structs import replace

from pratai.clock import monotonic_us, now_ms
from pratai.config import schema
from pratai.core.effects import Drop, Prepare, Recall, Run, Start, Stop
from pratai.driver.base import Driver, InstanceExit, InstanceSpec
from pratai.errors import PrataiError
from pratai.metrics import count
from pratai.model.function import Version
from pratai.model.invocation import Failure, FaultKind, LogRecord
from pratai.model.node import MEMORY, Capacity
from pratai.node.core import Node
from pratai.node.presence import Presence
from pratai.transport.base import Transport
from pratai.transport.runner import Runner
from pratai.wire import frames
from pratai.wire.instance import (
    Answered,
    InstanceExited,
    InstanceFailed,
    InstanceReady,
    Measured,
    Prepared,
    Returned,
    Streamed,
)
from pratai.wire.messages import Dispatch, Leave, Logs

_log = structlog.get_logger("pratai.node")
#: Log records are sent on when this many wait, or after `LOG_FLUSH_S`.
LOG_BATCH = 200
LOG_FLUSH_S = 0.05
#: Log records that may wait; more are dropped and counted.
LOG_WAITING_MAX = 20_000
#: Instances measured at one heartbeat.
MEASURED_MAX = 64

#: Makes a version startable: its code on disk, its layer, its environment.
Fetch = Callable[[str], Awaitable[tuple[Version, InstanceSpec]]]


class NodeService(Runner):
    """This machine as a node. `fetch` brings a version's code here."""

    def __init__(
        self,
        config: schema.Node,
        node_id: str,
        *,
        capacity: Capacity,
        driver: Driver,
        transport: Transport,
        fetch: Fetch,
        endpoint: str = MEMORY,
        degraded: Iterable[str] = (),
    ) -> None:
        """`endpoint`: where others reach this node. `degraded`: what its sandboxes lack."""
        self.core = Node(
            config,
            node_id,
            memory_mb=capacity.memory_mb,
            presence=Presence(node_id, endpoint=endpoint, capacity=capacity, degraded=degraded),
        )
        super().__init__(self.core, transport)
        self._config = config
        self.node_id = node_id
        self._driver = driver
        self._fetch = fetch
        #: {version_id: what its instances are started from}.
        self._specs: dict[str, InstanceSpec] = {}
        #: {instance_id: (version, when its start was decided)}.
        self._started: dict[str, tuple[Version, int]] = {}
        self._logs: list[LogRecord] = []
        self._log_timer: asyncio.TimerHandle | None = None
        self._beat: asyncio.TimerHandle | None = None
        self._does.update(
            {
                Prepare: self._prepare,
                Start: self._start,
                Run: self._run,
                Stop: self._stop,
                Drop: self._drop,
                Recall: self._recall,
            }
        )
        transport.bind(f"node:{node_id}", self.receive)

    def join(self) -> None:
        """Offer this node's capacity, and say now and then that it lives."""
        self._transport.send("collector", self.core.join())
        self._heartbeat()

    def leave(self) -> None:
        """Say goodbye; what still runs here is run elsewhere."""
        if self._beat is not None:
            self._beat.cancel()
        self.flush_logs()
        self._transport.send("collector", Leave(node_id=self.node_id))

    def beat(self) -> None:
        """Say now how this node is."""
        self._transport.send("collector", self.core.heartbeat())

    def _heartbeat(self) -> None:
        self._measure()
        self.beat()
        self._beat = self._loop.call_later(self._config.heartbeat_ms / 1_000, self._heartbeat)

    def _measure(self) -> None:
        measured: dict[str, int] = {}
        for instance_id in list(self.core.pool.instances)[:MEASURED_MAX]:
            stats = self._driver.stats(instance_id)
            if stats is not None:
                measured[instance_id] = stats.memory_bytes
        self.receive(Measured(memory_bytes=measured, available_bytes=_available_bytes()))

    # effects

    def _prepare(self, effect: Prepare) -> None:
        self._begin(self._loop.create_task(self._prepare_version(effect.version_id)))

    async def _prepare_version(self, version_id: str) -> None:
        try:
            version, spec = await self._fetch(version_id)
            self._specs[version_id] = spec
            await self._driver.prepare(spec)
        except PrataiError as error:
            _log.warning("prepare_failed", version_id=version_id, error=error.detail)
            fault: FaultKind = error.fault
            failure = Failure(
                code=error.code, fault=fault, error_message=error.detail, next=error.next_step
            )
            self.receive(Prepared(version_id=version_id, failure=failure))
            return
        config = version.config
        self.receive(Prepared(version_id=version_id, memory_mb=config.memory_mb))

    def _start(self, effect: Start) -> None:
        self._begin(self._loop.create_task(self._start_instance(effect)))

    async def _start_instance(self, effect: Start) -> None:
        spec = replace(self._specs[effect.version_id], instance_id=effect.instance_id)
        self._started[effect.instance_id] = (spec.version, monotonic_us())
        try:
            await self._driver.start(spec)
        except PrataiError as error:
            failure = Failure(
                code=error.code,
                fault="platform",
                error_message=error.detail,
                next=error.next_step,
            )
            self._started.pop(effect.instance_id, None)
            self.receive(InstanceExited(instance_id=effect.instance_id, failure=failure))

    def _run(self, effect: Run) -> None:
        dispatch = effect.dispatch
        self._driver.send(effect.instance_id, _event_frame(dispatch))

    def _stop(self, effect: Stop) -> None:
        work = self._driver.stop(effect.instance_id, effect.grace_ms)
        self._begin(self._loop.create_task(_await(work)))

    def _drop(self, effect: Drop) -> None:
        self._specs.pop(effect.version_id, None)
        self._begin(self._loop.create_task(_await(self._driver.forget(effect.version_id))))

    def _recall(self, effect: Recall) -> None:
        self._driver.recall(effect.instance_id)

    # the driver's listener

    def on_frame(self, instance_id: str, kind: int, meta: bytes, payload: bytes) -> None:
        """A frame arrived from an instance."""
        handle = self._FRAMES.get(kind)
        if handle is None:
            count("frames_unknown")
            return
        try:
            handle(self, instance_id, meta, payload)
        except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError) as error:
            count("frames_malformed")
            _log.warning("frame_malformed", instance_id=instance_id, error=str(error))

    def on_output(self, instance_id: str, stream: str, text: str) -> None:
        """Something was written past the channel, e.g. by a program the function started."""
        started = self._started.get(instance_id)
        instance = self.core.pool.instances.get(instance_id)
        if started is None:
            return
        request_id = instance.given[0] if instance is not None and instance.given else ""
        self._keep_log(
            started[0],
            instance_id,
            request_id=request_id,
            at_ms=now_ms(),
            level=stream.upper(),
            text=text,
        )

    def on_exit(self, instance_id: str, how: InstanceExit) -> None:
        """An instance is gone."""
        self._started.pop(instance_id, None)
        if how.out_of_memory:
            code, step = "out_of_memory", "Raise its memory_mb, or let it use less."
        elif how.signal is not None:
            code, step = "crashed", "Look for native code that misbehaves; run it alone to see."
        else:
            code, step = "exited", "Let the handler return or raise instead of ending its process."
        failure = Failure(code=code, fault="function", error_message=how.detail, next=step)
        self.receive(InstanceExited(instance_id=instance_id, failure=failure))

    # frames

    def _on_ready(self, instance_id: str, meta: bytes, payload: bytes) -> None:  # noqa: ARG002
        started = self._started.get(instance_id)
        if started is not None:
            start_us = monotonic_us() - started[1]
            self.receive(InstanceReady(instance_id=instance_id, start_us=start_us))

    def _on_result(self, instance_id: str, meta: bytes, payload: bytes) -> None:
        result = _decode_result(meta)
        if self._logs:
            self.flush_logs()  # who has the answer may ask for its logs
        self.receive(
            Answered(
                instance_id=instance_id,
                run_us=result.run_us,
                payload=payload,
                content_type=result.content_type,
                streamed=result.streamed,
            )
        )

    def _on_error(self, instance_id: str, meta: bytes, payload: bytes) -> None:  # noqa: ARG002
        error = _decode_error(meta)
        if self._logs:
            self.flush_logs()
        self.receive(
            Answered(instance_id=instance_id, run_us=error.run_us, failure=_failure(error))
        )

    def _on_init_error(self, instance_id: str, meta: bytes, payload: bytes) -> None:  # noqa: ARG002
        failure = _failure(_decode_error(meta))
        self.receive(InstanceFailed(instance_id=instance_id, failure=failure))

    def _on_chunk(self, instance_id: str, meta: bytes, payload: bytes) -> None:
        chunk = _decode_chunk(meta) if meta else frames.ChunkMeta()
        self.receive(
            Streamed(instance_id=instance_id, payload=payload, content_type=chunk.content_type)
        )

    def _on_log(self, instance_id: str, meta: bytes, payload: bytes) -> None:
        started = self._started.get(instance_id)
        if started is not None:
            log = _decode_log(meta)
            text = payload.decode("utf-8", "replace")
            self._keep_log(
                started[0],
                instance_id,
                request_id=log.request_id,
                at_ms=log.at_ms,
                level=log.level,
                text=text,
            )

    def _on_returned(self, instance_id: str, meta: bytes, payload: bytes) -> None:  # noqa: ARG002
        returned = _decode_returned(meta)
        self.receive(Returned(instance_id=instance_id, request_id=returned.request_id))

    _FRAMES: ClassVar[dict[int, Callable[..., None]]] = {
        frames.READY: _on_ready,
        frames.RESULT: _on_result,
        frames.ERROR: _on_error,
        frames.INIT_ERROR: _on_init_error,
        frames.CHUNK: _on_chunk,
        frames.LOG: _on_log,
        frames.RETURNED: _on_returned,
    }

    # logs

    def _keep_log(
        self,
        version: Version,
        instance_id: str,
        *,
        request_id: str,
        at_ms: int,
        level: str,
        text: str,
    ) -> None:
        if len(self._logs) >= LOG_WAITING_MAX:
            count("log_records_dropped")
            return
        if not text:
            return
        self._logs.append(
            LogRecord(
                namespace=version.namespace,
                function=version.name,
                version=str(version.number),
                request_id=request_id,
                instance_id=instance_id,
                at_ms=at_ms,
                level=level,
                text=text,
            )
        )
        if len(self._logs) >= LOG_BATCH:
            self.flush_logs()
        elif self._log_timer is None:
            self._log_timer = self._loop.call_later(LOG_FLUSH_S, self.flush_logs)

    def flush_logs(self) -> None:
        """Send on the log records that wait."""
        if self._log_timer is not None:
            self._log_timer.cancel()
            self._log_timer = None
        if self._logs:
            records, self._logs = self._logs, []
            self._transport.send("collector", Logs(node_id=self.node_id, records=records))


_decode_result = msgspec.json.Decoder(frames.ResultMeta).decode
_decode_error = msgspec.json.Decoder(frames.ErrorMeta).decode
_decode_chunk = msgspec.json.Decoder(frames.ChunkMeta).decode
_decode_log = msgspec.json.Decoder(frames.LogMeta).decode
_decode_returned = msgspec.json.Decoder(frames.ReturnedMeta).decode

_NEXT_STEPS = {
    "import_error": "Mend the import shown in the stack and deploy again.",
    "handler_missing": "Name the handler with --handler module:function and deploy again.",
    "result_unserialisable": "Return JSON values, bytes or text.",
    "result_too_large": "Return less, stream it, or store it elsewhere and return where.",
    "exited": "Let the handler return or raise instead of ending its process.",
    "event_unreadable": "Send an event of the content type that it says it has.",
}


def _failure(error: frames.ErrorMeta) -> Failure:
    return Failure(
        code=error.code,
        fault="function",
        error_type=error.type,
        error_message=error.message,
        stack=error.stack,
        next=_NEXT_STEPS.get(error.code, "Look at the stack and the logs of this invocation."),
    )


def _event_frame(dispatch: Dispatch) -> bytes:
    meta = frames.EventMeta(
        request_id=dispatch.request_id,
        deadline_ms=dispatch.deadline_ms,
        content_type=dispatch.content_type,
        attempt=dispatch.attempt,
        trace=dispatch.trace,
        idempotency_key=dispatch.idempotency_key,
        trigger=dispatch.trigger,
    )
    return frames.encode(frames.EVENT, meta, dispatch.payload or b"")


async def _await(work: Awaitable[None]) -> None:
    await work


def _available_bytes() -> int:
    """What the machine has left, from the kernel's own estimate."""
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return 1 << 62
