"""The one place that writes: `_bulk` requests, each with all that came while others were under way.

A write is done when its own item of a bulk succeeded, which Elasticsearch answers after the
translogs of the shard and of its copies are on disk. A lone write leaves at once. Further bulks
start beside one under way only when enough waits, up to `bulks_max`, so that groups stay large.

    item succeeded, or 404, or 409     -> its answer, for the caller to judge
    item rejected (429) or shard gone  -> again with the same id, until its time is over
    read-only, or no node reached      -> StoreUnavailable at once; and so for all that come, until
                                          a write of our own succeeds (`probe`)

An id is always the same on a further try, and `Write.token` is in what it writes: who is told that
it exists already can see whether its own first try did that.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from pratai import clock
from pratai.config import schema
from pratai.errors import PrataiError, StoreUnavailable
from pratai.store.elasticsearch.refusals import Blocked, Gone, Overloaded, refusal
from pratai.store.elasticsearch.rows import encode

if TYPE_CHECKING:
    from pratai.store.elasticsearch.connection import Connection

#: So many waiting writes start a bulk beside those under way.
GROUP_MIN = 64
#: Pause before what was rejected is sent again; doubled each time up to the second.
PAUSE_S = 0.05
PAUSE_S_MAX = 0.5

_FILTER = (
    "items.*.status,items.*.result,items.*._seq_no,items.*._primary_term,"
    "items.*.error.type,items.*.error.reason"
)
_log = structlog.get_logger("pratai.store")


class Write(msgspec.Struct, frozen=True, kw_only=True):
    """One item of a bulk: `lines` are its action and its source, each with its newline."""

    lines: bytes


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a write that was not refused: 200, 201, 404 or 409."""

    status: int
    result: str = ""
    seq_no: int = -1
    primary_term: int = 0


class _Waiting(msgspec.Struct):
    write: Write
    future: asyncio.Future[Answer]
    until_us: int


def make_write(action: str, index: str, id_: str, source: Any = None, **options: Any) -> Write:
    """A write: `create`, `index`, `update` (source: doc or script) or `delete`."""
    head = encode({action: {"_index": index, "_id": id_, **options}})
    if action == "delete":
        return Write(lines=head + b"\n")
    return Write(lines=head + b"\n" + encode(source) + b"\n")


class Writer:
    """Groups writes into bulks. At most `waiting_max` wait; more are refused."""

    def __init__(
        self, connection: Connection, config: schema.Elasticsearch, store: schema.Store
    ) -> None:
        self._connection = connection
        self._timeout_us = config.request_timeout_ms * 1000
        self._bytes_max = config.bulk_bytes_max
        self._bulks_max = config.bulks_max
        self._batch_max = store.batch_max
        self._waiting_max = store.waiting_max
        self._queue: deque[_Waiting] = deque()
        self._queued_bytes = 0
        self._bulks: set[asyncio.Task[None]] = set()
        self._is_stirred = False
        #: Durable writes given and not answered.
        self.waiting = 0
        self.commits = 0
        self.writes = 0
        #: Why writes are refused at once; None while they are not.
        self.trouble: StoreUnavailable | None = None

    def submit(self, write: Write) -> asyncio.Future[Answer]:
        """Give a write; the future is done when it is durable, or refused."""
        self.check()
        if self.waiting >= self._waiting_max:
            raise StoreUnavailable(
                f"{self.waiting} writes wait for Elasticsearch already.",
                next_step="Send again in a second; `store.waiting_max` sets this bound.",
                retry_after_s=1,
            )
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        until_us = clock.monotonic_us() + self._timeout_us
        self._queue.append(_Waiting(write, future, until_us))
        self._queued_bytes += len(write.lines)
        self.waiting += 1
        if not self._is_stirred:
            self._is_stirred = True
            loop.call_soon(self._start_bulks)
        return future

    def check(self) -> None:
        """Raise what keeps writes from being taken, if anything does."""
        if self.trouble is not None:
            raise self._repeated(self.trouble)

    async def send(self, writes: Sequence[Write]) -> list[Answer | PrataiError]:
        """Write best-effort items apart from those that wait; one answer or refusal for each.

        Raises:
            StoreUnavailable: nothing was written, as far as is known.

        """
        answers: list[Answer | PrataiError] = []
        for some in self._cut(writes):
            try:
                answers += await self._request(some)
            except StoreUnavailable as error:
                self._refuse(error)
                raise
        for answer in answers:
            if isinstance(answer, Blocked):
                self._refuse(answer)
        return answers

    async def settle(self) -> None:
        """Wait until everything given before is answered."""
        pending: set[asyncio.Future[Any]] = {entry.future for entry in self._queue}
        pending.update(self._bulks)
        if pending:
            await asyncio.wait(pending)

    async def stop(self) -> None:
        """End what is under way; what waits is refused."""
        for entry in self._queue:
            _settle(entry, _closed())
        self._queue.clear()
        bulks = list(self._bulks)
        for bulk in bulks:
            bulk.cancel()
        if bulks:
            await asyncio.wait(bulks)

    async def probe(self, write: Write) -> None:
        """Find out by a write of our own whether writes are taken again."""
        try:
            (answer,) = await self._request([write])
        except StoreUnavailable as error:
            self._refuse(error)
            return
        if isinstance(answer, StoreUnavailable):
            self._refuse(answer)
        elif self.trouble is not None:
            self.trouble = None
            _log.info("store_takes_writes_again")

    # bulks

    def _start_bulks(self) -> None:
        self._is_stirred = False
        while self._queue and self._may_start():
            task = asyncio.ensure_future(self._carry(self._take()))
            self._bulks.add(task)
            task.add_done_callback(self._ended)

    def _may_start(self) -> bool:
        if not self._bulks:
            return True
        enough = min(GROUP_MIN, self._batch_max)
        is_enough = len(self._queue) >= enough or self._queued_bytes >= self._bytes_max
        return len(self._bulks) < self._bulks_max and is_enough

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        while self._queue and len(batch) < self._batch_max:
            length = len(self._queue[0].write.lines)
            if batch and size + length > self._bytes_max:
                break
            size += length
            batch.append(self._queue.popleft())
        self._queued_bytes -= size
        return batch

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._bulks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("bulk_failed", reason=repr(task.exception()))
        self._start_bulks()

    async def _carry(self, batch: list[_Waiting]) -> None:
        """Write a batch; what is rejected for now again, until its time is over."""
        left, pause_s = batch, PAUSE_S
        try:
            while left := await self._attempt(left):
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_S_MAX)
        finally:
            for entry in batch:
                _settle(entry, _closed())
            self.waiting -= len(batch)

    async def _attempt(self, batch: list[_Waiting]) -> list[_Waiting]:
        """Send a batch once; those of it that are worth another try."""
        try:
            answers = await self._request([entry.write for entry in batch])
        except StoreUnavailable as error:
            self._refuse(error)
            answers = [error] * len(batch)
            if not isinstance(error, Overloaded):
                for entry in batch:
                    _settle(entry, self._repeated(error))
                return []
        self.commits += 1
        again: list[_Waiting] = []
        now_us = clock.monotonic_us()
        for entry, answer in zip(batch, answers, strict=True):
            if isinstance(answer, StoreUnavailable) and not isinstance(answer, (Blocked, Gone)):
                if now_us < entry.until_us and not entry.future.done():
                    again.append(entry)
                    continue
            elif isinstance(answer, Blocked):
                self._refuse(answer)
            elif isinstance(answer, Answer):
                self.writes += 1
            _settle(entry, answer)
        return again

    async def _request(self, writes: Sequence[Write]) -> list[Answer | PrataiError]:
        lines: list[Any] = [b"".join(write.lines for write in writes)]
        body = await self._connection.ask(
            self._connection.es.bulk(
                operations=lines,
                timeout=self._connection.server_timeout,
                filter_path=_FILTER,
            )
        )
        items = body.get("items") or []
        if len(items) != len(writes):
            raise StoreUnavailable(
                "Elasticsearch answered another number of writes than it was sent.",
                next_step="Send again.",
                retry_after_s=1,
            )
        return [_answer_of(next(iter(item.values()))) for item in items]

    def _cut(self, writes: Sequence[Write]) -> list[list[Write]]:
        parts: list[list[Write]] = []
        size = 0
        for write in writes:
            if not parts or size + len(write.lines) > self._bytes_max:
                parts.append([])
                size = 0
            parts[-1].append(write)
            size += len(write.lines)
        return parts

    # health

    def _refuse(self, error: StoreUnavailable) -> None:
        """Refuse writes from now on, if the cluster as a whole takes none."""
        if isinstance(error, (Overloaded, Gone)):
            return
        if self.trouble is None:
            _log.error("store_refuses_writes", reason=error.detail)
        self.trouble = error

    @staticmethod
    def _repeated(error: StoreUnavailable) -> StoreUnavailable:
        return StoreUnavailable(
            error.detail, next_step=error.next_step, retry_after_s=error.retry_after_s
        )


def _closed() -> StoreUnavailable:
    return StoreUnavailable(
        "The write was given up: the store was closed or failed meanwhile.",
        next_step="Send again.",
        retry_after_s=1,
    )


def _settle(entry: _Waiting, answer: Answer | PrataiError) -> None:
    if entry.future.done():
        return
    if isinstance(answer, PrataiError):
        entry.future.set_exception(answer)
    else:
        entry.future.set_result(answer)


def _answer_of(item: dict[str, Any]) -> Answer | PrataiError:
    status = int(item["status"])
    error = item.get("error")
    is_gone = isinstance(error, dict) and error.get("type") == "index_not_found_exception"
    if status in (200, 201, 404, 409) and not is_gone:
        return Answer(
            status=status,
            result=str(item.get("result", "")),
            seq_no=int(item.get("_seq_no", -1)),
            primary_term=int(item.get("_primary_term", 0)),
        )
    error = error if isinstance(error, dict) else {}
    return refusal(status, str(error.get("type", "")), str(error.get("reason", "")))
