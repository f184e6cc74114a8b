"""The gateway's I/O around its core: sync calls that wait, and their records afterwards.

No HTTP here: `app.py` speaks it; async events are `accept.py`'s. Sync calls with an idempotency key
go through the journal too, so that a repetition finds the first one's result, whatever was killed
in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from msgspec.structs import replace

from pratai import ids
from pratai.clock import monotonic_us, now_ms
from pratai.config.schema import Config
from pratai.core.effects import Answer, StreamChunk
from pratai.errors import NotFound, PrataiError
from pratai.gateway.accept import Acceptor
from pratai.gateway.calls import Call, finished_invocation, invoke_of, new_invocation
from pratai.gateway.core import Gateway
from pratai.log import CanonicalLine, CanonicalLog
from pratai.metrics import Durations, count
from pratai.model.function import Version
from pratai.model.invocation import Failure, Invocation
from pratai.store.base import Store
from pratai.transport.base import Transport
from pratai.transport.runner import Runner
from pratai.wire.messages import Cancel, Invoke, Result

_log = structlog.get_logger("pratai.gateway")
#: A caller is watched for hanging up once its call has taken this long.
WATCH_AFTER_S = 0.05
#: Bytes of a streamed result that may wait for a slow caller.
CHUNK_BYTES_MAX = 64 << 20
#: Throttled calls recorded in one second; the rest are counted alone.
THROTTLED_RECORDED_MAX = 10
#: First and longest pause between looks at an invocation that another call runs.
FOLLOW_S, FOLLOW_S_MAX = 0.005, 0.25
#: A call with an idempotency key that takes this long is looked for in the journal as well.
FOLLOW_AFTER_S = 1.0

Watch = Callable[[], Awaitable[None]]


class GatewayService(Runner):
    """The gateway of this process."""

    def __init__(
        self,
        config: Config,
        *,
        transport: Transport,
        store: Store,
        canonical: CanonicalLog,
        durations: Durations,
        address: str = "gateway:local",
    ) -> None:
        self.core = Gateway(config.gateway, address)
        super().__init__(self.core, transport)
        #: Accepts async events; sync calls with an idempotency key go through its journal too.
        self.acceptor = Acceptor(store, transport, backlog_wait_s=self.core.backlog_wait_s)
        self._config = config
        self._store = store
        self._canonical = canonical
        self._durations = durations
        #: {request_id: call} of everybody who waits here.
        self._calls: dict[str, Call] = {}
        #: Streamed bytes that wait for their callers, of all calls; bounded, see `_chunk`.
        self._chunk_bytes = 0
        self._watch_timer: asyncio.TimerHandle | None = None
        #: The second in which throttled calls were recorded, and how many.
        self._throttled = (0, 0)
        self._does[Answer] = self._answer
        self._does[StreamChunk] = self._chunk
        transport.bind(self.core.address, self.receive)

    # sync

    def begin(
        self,
        version: Version,
        event: bytes,
        *,
        content_type: str = "application/json",
        qualifier: str = "",
        timeout_ms: int = 0,
        trace: str = "",
        trigger: str = "http",
        request_id: str = "",
        listener: Callable[[Call], None] | None = None,
    ) -> Call:
        """Begin a sync call of a version; wait for its `begun`, or be told as its `listener`,
        which may be before this returns.
        """
        config = version.config
        at_ms = now_ms()
        timeout_ms = timeout_ms or config.timeout_ms
        invoke = Invoke(
            request_id=request_id or ids.request_id(),
            namespace=version.namespace,
            function=version.name,
            version_id=version.version_id,
            reply_to=self.core.address,
            deadline_ms=at_ms + timeout_ms,
            timeout_ms=timeout_ms,
            accepted_at_ms=at_ms,
            payload=event,
            content_type=content_type,
            concurrency_max=config.concurrency_max or 0,
            memory_mb=config.memory_mb,
            trace=trace,
            trigger=trigger,
        )
        return self._begin_call(invoke, version, qualifier, listener)

    def _begin_call(
        self,
        invoke: Invoke,
        version: Version,
        qualifier: str,
        listener: Callable[[Call], None] | None = None,
    ) -> Call:
        call = Call(
            invoke,
            version,
            qualifier=qualifier,
            began_us=monotonic_us(),
            begun=self._loop.create_future() if listener is None else None,
            listener=listener,
        )
        self._calls[invoke.request_id] = call
        self.receive(invoke)
        return call

    def watch(self, call: Call, gone: Watch) -> None:
        """Cancel the call when `gone` returns before it is answered.

        Watching costs a task, so only calls that take longer than `WATCH_AFTER_S` are watched.
        """
        call.gone = gone
        if self._watch_timer is None:
            self._watch_timer = self._loop.call_later(WATCH_AFTER_S, self._watch_due)

    def _watch_due(self) -> None:
        """Watch who has waited long. Calls are in the order they began: few are looked at."""
        self._watch_timer = None
        begun_before_us = monotonic_us() - round(WATCH_AFTER_S * 1e6)
        for call in self._calls.values():
            if call.began_us > begun_before_us:
                break
            gone, call.gone = call.gone, None
            if gone is not None:
                self._begin(self._loop.create_task(self._cancel_when_gone(call, gone)))
        if self._calls:
            self._watch_timer = self._loop.call_later(WATCH_AFTER_S, self._watch_due)

    async def _cancel_when_gone(self, call: Call, gone: Watch) -> None:
        watcher = asyncio.ensure_future(gone())
        call_done = asyncio.ensure_future(self._ended_call(call))
        try:
            await asyncio.wait({watcher, call_done}, return_when=asyncio.FIRST_COMPLETED)
            if call.result is None:
                self.cancel(call)
        finally:
            watcher.cancel()
            call_done.cancel()

    async def _ended_call(self, call: Call) -> None:
        while call.result is None:
            if call.begun is None or call.begun.done():
                await self._news(call)
            else:
                await asyncio.wait({call.begun})

    def cancel(self, call: Call) -> None:
        """The caller has gone: free the call's place, wherever it is."""
        self._calls.pop(call.invoke.request_id, None)
        self.drop(call)
        count("callers_gone")
        if not call.invoke.journalled:
            self.receive(Cancel(request_id=call.invoke.request_id))
        call.answer(Result(request_id=call.invoke.request_id, outcome="discarded"))

    async def more(self, call: Call) -> None:
        """Wait until a streaming call has more chunks or its result."""
        if not call.chunks and call.result is None:
            await self._news(call)

    async def whole(self, call: Call) -> Result:
        """Wait for a call's result, joined if it streams; for callers that take it in one piece."""
        try:
            assert call.begun is not None, "it has no listener"
            await call.begun
            while call.result is None:
                await self._news(call)
        except asyncio.CancelledError:
            self.cancel(call)
            raise
        result = call.result
        if not call.chunks:
            return result
        parts = []
        while call.chunks:
            parts.append(self.take(call))
        return replace(result, payload=b"".join(parts), content_type=call.content_type)

    def drop(self, call: Call) -> None:
        """Forget what was streamed for a caller that takes no more of it."""
        self._chunk_bytes -= call.drop()

    async def _news(self, call: Call) -> None:
        """Wait for the next chunk or the result, whatever is there already: always waits."""
        if call.more is None or call.more.done():
            call.more = self._loop.create_future()
        await asyncio.shield(call.more)

    def elapsed_us(self, call: Call) -> int:
        """Time since a call was accepted."""
        return monotonic_us() - call.began_us

    def finish(self, call: Call, result: Result, total_us: int) -> None:
        """Record and count a sync call, once its caller has the answer: no caller waits for it."""
        invoke = call.invoke
        at_ms = now_ms()
        if not invoke.journalled and self._is_recorded(result.outcome, at_ms):
            self._store.record(finished_invocation(call, result, now_ms=at_ms, total_us=total_us))
        self._durations.observe(
            invoke.namespace,
            invoke.function,
            outcome=result.outcome,
            start_kind=result.start_kind,
            duration_us=total_us,
        )
        self._canonical.add(
            CanonicalLine(
                at_ms=at_ms,
                request_id=invoke.request_id,
                namespace=invoke.namespace,
                function=invoke.function,
                version=str(call.version.number),
                mode="sync",
                outcome=result.outcome,
                code=result.failure.code if result.failure is not None else "",
                attempt=result.attempt,
                start_kind=result.start_kind,
                node_id=result.node_id,
                instance_id=result.instance_id,
                queue_us=max(0, total_us - result.start_us - result.run_us),
                start_us=result.start_us,
                run_us=result.run_us,
                total_us=total_us,
                event_bytes=len(invoke.payload or b""),
                result_bytes=len(result.payload),
            )
        )

    def _is_recorded(self, outcome: str, at_ms: int) -> bool:
        """Failures always are; of refused calls, which come in floods, a few each second."""
        if outcome == "succeeded":
            return self._store.wants_success()
        if outcome != "throttled":
            return True
        second, recorded = self._throttled
        if second != at_ms // 1_000:
            second, recorded = at_ms // 1_000, 0
        self._throttled = (second, recorded + 1)
        return recorded < THROTTLED_RECORDED_MAX

    # effects

    def _answer(self, effect: Answer) -> None:
        call = self._calls.pop(effect.result.request_id, None)
        if call is not None:
            if call.following is not None:
                call.following.cancel()
            if call.resent:
                self._transport.send("scheduler", Cancel(request_id=call.invoke.request_id))
            call.answer(effect.result)

    def _chunk(self, effect: StreamChunk) -> None:
        call = self._calls.get(effect.request_id)
        if call is None:
            return
        call.add(effect.payload, effect.content_type)
        self._chunk_bytes += len(effect.payload)
        if call.chunk_bytes > CHUNK_BYTES_MAX:
            count("streams_too_slow")
            self.cancel(call)
        elif self._chunk_bytes > self._config.gateway.waiting_bytes_max:
            count("streams_too_slow")
            self.cancel(max(self._calls.values(), key=_chunk_bytes_of))

    def take(self, call: Call) -> bytes:
        """The next part of a streamed result, for its caller."""
        before = call.chunk_bytes
        part = call.take()
        self._chunk_bytes -= before - call.chunk_bytes
        return part

    # sync with an idempotency key

    async def begin_idempotent(
        self,
        version: Version,
        event: bytes,
        *,
        content_type: str,
        qualifier: str,
        timeout_ms: int,
        idempotency_key: str,
        trace: str,
    ) -> Call:
        """Begin a sync call that runs once for its key, however often it is made."""
        invocation = new_invocation(
            version,
            ids.request_id(),
            now_ms=now_ms(),
            mode="sync",
            event=event,
            content_type=content_type,
            qualifier=qualifier,
            timeout_ms=timeout_ms,
            idempotency_key=idempotency_key,
            trace=trace,
        )
        accepted = await self.acceptor.journal(invocation)
        invoke = invoke_of(invocation, reply_to=self.core.address)
        if accepted.created:
            call = self._begin_call(invoke, version, qualifier)
            call.following = self._loop.call_later(FOLLOW_AFTER_S, self._follow_soon, call)
            return call
        call = Call(
            invoke,
            version,
            qualifier=qualifier,
            began_us=monotonic_us(),
            begun=self._loop.create_future(),
        )
        self._calls[invoke.request_id] = call
        self._begin(self._loop.create_task(self._follow(call, accepted.request_id)))
        return call

    def scheduler_changed(self) -> None:
        """The scheduler was started anew: what it said of backlogs is void, and calls that it had
        in its queue are gone. Those in the journal it finds there, without knowing who waits; the
        others are said again, marked, since they may be on a node already.
        """
        self.core.forget_backlogs()
        for call in self._calls.values():
            if not call.invoke.journalled:
                call.resent = True
                self._transport.send("scheduler", replace(call.invoke, resent=True))

    def _follow_soon(self, call: Call) -> None:
        """A call with a key takes long: look into the journal too. A scheduler that found it there
        after a restart runs it, and does not know who waits.
        """
        if call.result is None:
            self._begin(self._loop.create_task(self._look_for(call)))

    async def _look_for(self, call: Call) -> None:
        """Take the result from the journal if it is there before it comes by itself."""
        request_id = call.invoke.request_id
        try:
            result = await self._result_of_other(call, request_id)
        except PrataiError as error:  # the call goes on: its result needs no journal
            _log.warning("call_not_followed", request_id=request_id, error=error.detail)
            return
        if call.result is None and result.outcome != "timed_out":
            self.receive(result)

    async def _follow(self, call: Call, request_id: str) -> None:
        """Answer a call with what another one of the same key comes to."""
        try:
            result = await self._result_of_other(call, request_id)
        except PrataiError as error:
            failure = Failure(
                code=error.code,
                fault="platform",
                error_message=error.detail,
                next=error.next_step,
            )
            result = Result(request_id=request_id, outcome="crashed", failure=failure)
        self._calls.pop(call.invoke.request_id, None)
        if call.result is None:
            call.answer(result)

    async def _result_of_other(self, call: Call, request_id: str) -> Result:
        invoke, wait_s = call.invoke, FOLLOW_S
        while call.result is None:
            found = await self._store.invocation(invoke.namespace, request_id)
            if found is None:
                raise NotFound(f"invocation {request_id} is not kept any more")
            if found.state == "done":
                return _result_of(found)
            if now_ms() > invoke.deadline_ms:
                return Result(request_id=request_id, outcome="timed_out")
            await asyncio.sleep(wait_s)
            wait_s = min(FOLLOW_S_MAX, wait_s * 2)
        return call.result  # its caller has gone

    @property
    def waiting(self) -> int:
        """Sync calls that wait here."""
        return len(self._calls)


def _chunk_bytes_of(call: Call) -> int:
    return call.chunk_bytes


def _result_of(found: Invocation) -> Result:
    return Result(
        request_id=found.request_id,
        outcome=found.outcome or "discarded",
        payload=found.result or b"",
        content_type=found.result_content_type,
        failure=found.failure,
        attempt=found.attempt,
        node_id=found.node_id,
        instance_id=found.instance_id,
        start_kind=found.start_kind,
        start_us=found.start_us,
        run_us=found.run_us,
    )
