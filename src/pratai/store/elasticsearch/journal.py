"""The journal: accepted invocations and what becomes of them. One document each, never two.

Every change is one atomic update by a script; an outcome is recorded by the update that finds none.

An idempotency key is a document that names the request that has it. It is made first, the
invocation second, so that no two invocations share a key whatever dies in between:

    key made, invocation made            accepted
    key found, its invocation found      the same request again (or another event: Conflict)
    key found, no invocation for CLAIM   whoever made the key died, or is slower than that: its
                                         request id is made void, so that it can never be accepted,
                                         and the key is taken over by compare-and-set
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import msgspec

from pratai import clock, ids
from pratai.errors import Conflict, StoreUnavailable
from pratai.model.invocation import Invocation
from pratai.store.base import Accepted, LeaseRecord, OutcomeRecord, RetryRecord
from pratai.store.elasticsearch import names, rows, scripts
from pratai.store.elasticsearch.indices import Indices
from pratai.store.elasticsearch.refresh import Refresher
from pratai.store.elasticsearch.refusals import Gone, no_index
from pratai.store.elasticsearch.writer import Answer, Write, Writer, make_write

if TYPE_CHECKING:
    from pratai.store.elasticsearch.connection import Connection

#: How long the maker of a key has to make its invocation before somebody else may take the key.
CLAIM_MS = 2_000
#: How often is looked for that invocation meanwhile.
LOOK_S = 0.02
#: Tries to get hold of a key that changes hands meanwhile, and of an update that meets others.
TRIES = 8
CONFLICTS_MAX = 8


class Journal:
    """The invocations of one installation, and their keys."""

    def __init__(
        self, connection: Connection, indices: Indices, writer: Writer, refresher: Refresher
    ) -> None:
        self._connection = connection
        self._indices = indices
        self._names = indices.names
        self._writer = writer
        self._refresher = refresher
        #: {key id: whoever of this process is busy with it}.
        self._claims: dict[str, asyncio.Future[None]] = {}

    # accepting

    async def accept(self, invocation: Invocation) -> Accepted:
        """Keep an accepted invocation; durable on return."""
        await self._indices.ensure_known()
        event = invocation.event or b""
        given = msgspec.structs.replace(invocation, state="queued", event=event)
        if not given.idempotency_key:
            accepted = await self._create(given, "", self._index_of(given.request_id))
            if accepted is not None:
                return accepted
            raise _void(given.request_id)
        key = names.key_id(given.namespace, given.function, given.idempotency_key)
        async with self._alone(key):
            for _ in range(TRIES):
                accepted = await self._accept_with_key(given, key)
                if accepted is not None:
                    return accepted
        raise StoreUnavailable(
            "Others are busy with this idempotency key.",
            next_step="Send again in a second.",
            retry_after_s=1,
        )

    async def _accept_with_key(self, given: Invocation, key: str) -> Accepted | None:
        """One try; None when the key changed hands meanwhile."""
        claim = self._claim(given)
        write = make_write("create", self._names.keys, key, claim)
        if (await self._writer.submit(write)).status != 409:
            return await self._create(given, key, claim["invocations_index"])
        found = await self._connection.ask(
            self._connection.es.get(index=self._names.keys, id=key), allowed=(404,)
        )
        if not found.get("found"):
            return None
        held = found["_source"]
        if held["event_digest"] != claim["event_digest"]:
            raise _key_reused(given, held["request_id"])
        if given.request_id == held["request_id"]:
            return await self._create(given, key, held["invocations_index"])
        if await self._appears(held):
            return Accepted(request_id=held["request_id"], created=False)
        return await self._take_over(given, key, found)

    async def _take_over(
        self, given: Invocation, key: str, found: dict[str, Any]
    ) -> Accepted | None:
        """Get a key whose invocation was never made, or is gone."""
        held = found["_source"]
        if not await self._made_void(held):
            return None
        options = {"if_seq_no": found["_seq_no"], "if_primary_term": found["_primary_term"]}
        claim = self._claim(given)
        answer = await self._writer.submit(
            make_write("index", self._names.keys, key, claim, **options)
        )
        if answer.status == 409:
            return None
        return await self._create(given, key, claim["invocations_index"])

    async def _made_void(self, held: dict[str, Any]) -> bool:
        """Keep the maker of a key from making its invocation; False when it did it before."""
        id_ = names.invocation_id(held["namespace"], held["request_id"])
        void = {"void": True, "accepted_at_ms": clock.now_ms(), "token": ids.request_id()}
        try:
            await self._writer.submit(make_write("create", held["invocations_index"], id_, void))
        except Gone:
            # An index is dropped long after anything new could come to it.
            return True
        current = await self.source(held["namespace"], held["request_id"], ["void"])
        return current is not None and current.get("void") is True

    def _claim(self, given: Invocation) -> dict[str, Any]:
        return {
            "namespace": given.namespace,
            "request_id": given.request_id,
            "invocations_index": self._index_of(given.request_id),
            "event_digest": names.digest(given.event or b""),
            "claimed_at_ms": clock.now_ms(),
        }

    async def _appears(self, held: dict[str, Any]) -> bool:
        """Whether the invocation of a key is there; waited for while its maker may be at it."""
        while True:
            source = await self.source(held["namespace"], held["request_id"], ["void"])
            if source is not None:
                return not source.get("void")
            if clock.now_ms() - held["claimed_at_ms"] > CLAIM_MS:
                return False
            await asyncio.sleep(LOOK_S)

    async def _create(self, given: Invocation, key: str, index: str) -> Accepted | None:
        """Make the invocation's document; None when its request id was made void."""
        token = ids.request_id()
        source = rows.invocation_source(given, token=token, key_id=key)
        id_ = names.invocation_id(given.namespace, given.request_id)
        answer = await self._writer.submit(make_write("create", index, id_, source))
        self._refresher.wrote(self._names.invocations)
        if answer.status != 409:
            return Accepted(request_id=given.request_id, created=True)
        known = await self.source(given.namespace, given.request_id, ["event", "token", "void"])
        if known is None or known.get("void"):
            return None
        if known["token"] == token:
            # Our own first try, whose answer was lost with its node.
            return Accepted(request_id=given.request_id, created=True)
        if rows.unpack(known.get("event")) != given.event:
            raise Conflict(
                f"Request id {given.request_id} was used with another event.",
                next_step="Send the call again without choosing its request id.",
            )
        return Accepted(request_id=given.request_id, created=False)

    @contextlib.asynccontextmanager
    async def _alone(self, key: str) -> AsyncIterator[None]:
        """One at a time of this process for each key: the others find what the first one made."""
        while (busy := self._claims.get(key)) is not None:
            await asyncio.wait({busy})
        mine = asyncio.get_running_loop().create_future()
        self._claims[key] = mine
        try:
            yield
        finally:
            del self._claims[key]
            mine.set_result(None)

    # what becomes of it

    def lease_write(self, record: LeaseRecord) -> Write:
        """The write that notes an attempt."""
        params = {
            "attempt": record.attempt,
            "node_id": record.node_id,
            "token": ids.request_id(),
        }
        return self._update(
            self._index_of(record.request_id),
            record.namespace,
            record.request_id,
            scripts.script(scripts.LEASE, params),
        )

    async def record_retry(self, record: RetryRecord) -> None:
        """Back to `queued`; durable on return."""
        params = {
            "attempt": record.attempt,
            "available_at_ms": record.available_at_ms,
            "failure": record.failure,
            "marks": record.marks,
            "token": ids.request_id(),
        }
        await self._change(record.namespace, record.request_id, scripts.RETRY, params)

    async def record_outcome(self, record: OutcomeRecord) -> bool:
        """`done`; durable on return. Whether this call did it."""
        token = ids.request_id()
        fields = {
            name: getattr(record, name)
            for name in (
                "outcome",
                "dead",
                "failure",
                "result_content_type",
                "start_kind",
                "cold_reason",
                "instance_id",
                "queue_us",
                "start_us",
                "run_us",
                "finished_at_ms",
            )
        }
        params = {
            "fields": fields | {"result": rows.pack(record.result)},
            "attempt": record.attempt,
            "node_id": record.node_id,
            "bytes": len(record.result),
            "marks": record.marks,
            "token": token,
        }
        answer = await self._change(record.namespace, record.request_id, scripts.OUTCOME, params)
        if answer is None:
            return False
        if answer.result != "noop":
            return True
        # Done already: by somebody else, or by our own first try, whose answer was lost.
        known = await self.source(record.namespace, record.request_id, ["token"])
        return known is not None and known["token"] == token

    async def _change(
        self, namespace: str, request_id: str, source: str, params: dict[str, Any]
    ) -> Answer | None:
        """Run a script on an invocation; None when there is none."""
        await self._indices.ensure_known()
        script = scripts.script(source, params)
        earlier: str | None = None
        for _ in range(TRIES):
            answer = await self._submit(
                lambda index=earlier: self._update(  # type: ignore[misc]
                    index or self._index_of(request_id), namespace, request_id, script
                )
            )
            if answer.status == 404:
                if earlier is not None:
                    return None
                earlier = self._earlier(request_id, self._index_of(request_id))
                if earlier is None:
                    return None
            elif answer.status != 409:
                self._refresher.wrote(self._names.invocations)
                return answer
        raise StoreUnavailable(
            f"Invocation {request_id} is changed by too many at one time.",
            next_step="Send again.",
            retry_after_s=1,
        )

    async def _submit(self, make: Callable[[], Write]) -> Answer:
        """Write; once more where the index was dropped by another process meanwhile."""
        try:
            return await self._writer.submit(make())
        except Gone:
            await self._indices.read()
            return await self._writer.submit(make())

    @staticmethod
    def _update(index: str, namespace: str, request_id: str, script: dict[str, Any]) -> Write:
        id_ = names.invocation_id(namespace, request_id)
        return make_write("update", index, id_, script, retry_on_conflict=CONFLICTS_MAX)

    # reading

    async def source(
        self, namespace: str, request_id: str, fields: list[str] | None = None
    ) -> dict[str, Any] | None:
        """A document in real time, or of it these fields; None when there is none."""
        await self._indices.ensure_known()
        id_ = names.invocation_id(namespace, request_id)
        index: str | None = self._index_of(request_id)
        was_read = False
        while index is not None:
            body = await self._connection.ask(
                self._connection.es.get(
                    index=index, id=id_, source_includes=[*fields, "void"] if fields else None
                ),
                allowed=(404,),
            )
            if body.get("found"):
                source: dict[str, Any] = body["_source"]
                return source
            if "found" in body:
                index = self._earlier(request_id, index)
            elif was_read:
                raise no_index(index)
            else:
                # Dropped by another process since the list was read.
                was_read = True
                await self._indices.read()
                index = self._index_of(request_id)
        return None

    async def read(self, namespace: str, request_id: str) -> Invocation | None:
        """An invocation whole."""
        source = await self.source(namespace, request_id)
        if source is None or source.get("void"):
            return None
        return rows.invocation_of(source, payloads=True)

    async def event(self, namespace: str, request_id: str) -> bytes | None:
        """The event of an invocation."""
        source = await self.source(namespace, request_id, ["event"])
        if source is None or source.get("void"):
            return None
        return rows.unpack(source.get("event"))

    def _index_of(self, request_id: str) -> str:
        return self._indices.at(self._names.invocations, names.time_of(request_id))

    def _earlier(self, request_id: str, index: str) -> str | None:
        """The index before, if a process that knew less may have written there."""
        if index != self._index_of(request_id):
            return None
        return self._indices.before(self._names.invocations, index)


def _void(request_id: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"Request id {request_id} cannot be used any more.",
        next_step="Send the call again.",
        retry_after_s=1,
    )


def _key_reused(invocation: Invocation, request_id: str) -> Conflict:
    return Conflict(
        f"This idempotency key was used with another event, by request {request_id}.",
        next_step="Use a new key for a new event, or send the same event again.",
        code="idempotency_key_reused",
        field="Idempotency-Key",
        value=invocation.idempotency_key,
    )
