"""Rolling indices over, removing what is too old or too much, measuring, checking.

Any process may do it, several at one time. Finished invocations alone are removed; an index is
dropped whole when it is past and holds nothing that has to stay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from pratai import clock
from pratai.config import schema
from pratai.store.base import Retention, Swept
from pratai.store.elasticsearch import names as naming
from pratai.store.elasticsearch import scripts
from pratai.store.elasticsearch.indices import LEAD_MS, Indices
from pratai.store.elasticsearch.refresh import Refresher
from pratai.store.elasticsearch.refusals import refusal
from pratai.store.elasticsearch.writer import Answer, Write, Writer, make_write

if TYPE_CHECKING:
    from pratai.store.elasticsearch.connection import Connection

#: Documents that one step removes.
STEP = 500
#: Log records that one delete-by-query removes.
LOGS_STEP = 10_000
#: An index is past this long after the next one began: until then late writes may come.
PAST_MS = 600_000
#: New indices begin at whole minutes, so that two processes rolling over make the same one.
BEGIN_MS = 60_000
#: Void request ids are of no use to anybody after this.
VOID_AGE_MAX_MS = 3_600_000
#: Keys that are looked at in one step.
KEYS_MAX = 1_000
#: A key may be without its invocation for this long; then a sweep removes it, and soon at that.
CLAIM_AGE_MAX_MS = 60_000
OWNERLESS_AGE_MAX_MS = 3_600_000

_FOREVER_MS = 1 << 62
_log = structlog.get_logger("pratai.store")


class Upkeep:
    """The housekeeping of one installation."""

    def __init__(
        self,
        connection: Connection,
        indices: Indices,
        writer: Writer,
        *,
        refresher: Refresher,
        config: schema.Elasticsearch,
    ) -> None:
        self._connection = connection
        self._indices = indices
        self._names = indices.names
        self._writer = writer
        self._refresher = refresher
        self._config = config
        #: Bytes of invocations and logs as last measured.
        self.bytes_used = 0
        #: Keys claimed up to here have been looked at.
        self._keys_checked_ms = 0

    # size

    async def measure(self) -> int:
        """Bytes of what is kept, as it was given: how it lies on disk is not counted."""
        total = 0
        for series in self._names.series:
            total += (await self._sum(series, {"match_all": {}}))[1]
        self.bytes_used = total
        return total

    async def _sum(self, index: str, query: dict[str, Any]) -> tuple[int, int]:
        """How many documents and how many bytes."""
        body = await self._connection.search(
            index=index,
            size=0,
            query=query,
            aggs={"bytes": {"sum": {"field": "bytes"}}},
            track_total_hits=True,
        )
        return int(body["hits"]["total"]["value"]), int(body["aggregations"]["bytes"]["value"])

    # rolling over

    async def roll_over(self, now_ms: int) -> list[str]:
        """Make the next index of a series whose newest one is too old, too large or too full."""
        made = []
        for series in self._names.series:
            index, begins_ms, _ = self._indices.of(series)[-1]
            if begins_ms <= now_ms and await self._is_full(index, begins_ms, now_ms):
                at_ms = -(-(now_ms + LEAD_MS) // BEGIN_MS) * BEGIN_MS
                made.append(naming.index_name(series, at_ms))
                await self._indices.make(made[-1])
                _log.info("index_made", index=made[-1], begins_in_ms=at_ms - now_ms)
        if made:
            await self._indices.read()
        return made

    async def _is_full(self, index: str, begins_ms: int, now_ms: int) -> bool:
        body = await self._connection.ask(
            self._connection.es.indices.stats(index=index, metric=["docs", "store"])
        )
        primaries = body["_all"]["primaries"]
        docs = int(primaries.get("docs", {}).get("count", 0))
        size = int(primaries.get("store", {}).get("size_in_bytes", 0))
        if docs >= self._config.index_docs_max or size >= self._config.index_bytes_max:
            return True
        if begins_ms == 0 and docs:
            begins_ms = await self._created_ms(index)
        return docs > 0 and now_ms - begins_ms >= self._config.index_age_max_ms

    async def _created_ms(self, index: str) -> int:
        body = await self._connection.ask(
            self._connection.es.indices.get_settings(index=index, name="index.creation_date")
        )
        return int(body[index]["settings"]["index"]["creation_date"])

    # removing

    async def sweep(self, now_ms: int, retention: Retention) -> Swept:
        """Remove what is beyond the bounds, oldest first, in small steps."""
        await self._indices.read()
        for series in self._names.series:
            await self._refresher.refresh(series)
        invocations = await self._drop_past_invocations(now_ms, retention)
        logs = await self._drop_past_logs(now_ms, retention)
        due = [
            _finished(dead=False, before_ms=now_ms - retention.invocations_age_max_ms),
            _finished(dead=True, before_ms=now_ms - retention.dead_age_max_ms),
        ]
        for query in due:
            while removed := await self._remove_invocations(query):
                invocations += removed
        logs += await self._remove_logs(now_ms - retention.logs_age_max_ms)
        await self._remove_void(now_ms)
        await self._remove_ownerless_keys(min(now_ms, clock.now_ms()) - CLAIM_AGE_MAX_MS)
        by_size = await self._sweep_by_size(retention.bytes_max)
        await self.roll_over(now_ms)
        return Swept(invocations=invocations + by_size.invocations, logs=logs + by_size.logs)

    async def _drop_past_invocations(self, now_ms: int, retention: Retention) -> int:
        """Drop whole indices of invocations that hold nothing that has to stay."""
        due = {
            "bool": {
                "should": [
                    _finished(dead=False, before_ms=now_ms - retention.invocations_age_max_ms),
                    _finished(dead=True, before_ms=now_ms - retention.dead_age_max_ms),
                    {"term": {"void": True}},
                ]
            }
        }
        count = 0
        for index in self._past(self._names.invocations, now_ms):
            if (await self._sum(index, {"bool": {"must_not": due}}))[0]:
                continue
            held, _ = await self._sum(index, {"bool": {"must_not": {"term": {"void": True}}}})
            await self._refresher.refresh(self._names.keys)
            await self._delete_by_query(self._names.keys, {"term": {"invocations_index": index}})
            await self._drop(index)
            count += held
        return count

    async def _drop_past_logs(self, now_ms: int, retention: Retention) -> int:
        count = 0
        young = {"range": {"at_ms": {"gte": now_ms - retention.logs_age_max_ms}}}
        for index in self._past(self._names.logs, now_ms):
            if (await self._sum(index, young))[0] == 0:
                count += (await self._sum(index, {"match_all": {}}))[0]
                await self._drop(index)
        return count

    def _past(self, series: str, now_ms: int) -> list[str]:
        """Indices that nothing new comes to. The first one stays: it takes ids without a time."""
        return [
            index
            for index, begins_ms, end_ms in self._indices.of(series)
            if begins_ms > 0 and end_ms is not None and end_ms + PAST_MS < now_ms
        ]

    async def _drop(self, index: str) -> None:
        await self._connection.ask(
            self._connection.es.indices.delete(
                index=index, timeout=self._connection.server_timeout
            ),
            allowed=(404,),
        )
        _log.info("index_dropped", index=index)
        await self._indices.read()

    async def purge(self, namespace: str, request_ids: list[str]) -> int:
        """Remove those of the invocations that are finished."""
        await self._indices.ensure_known()
        count = 0
        unique = list(dict.fromkeys(request_ids))
        for at in range(0, len(unique), STEP):
            some = unique[at : at + STEP]
            wanted = [
                {
                    "_index": self._indices.at(self._names.invocations, naming.time_of(id_)),
                    "_id": naming.invocation_id(namespace, id_),
                    "_source": ["done", "request_id", "key_id"],
                }
                for id_ in some
            ]
            found = await self._read_many(wanted)
            count += await self._delete(
                [one for one in found if one and one["_source"].get("done")]
            )
        return count

    async def _remove_invocations(self, query: dict[str, Any], bytes_min: int = _FOREVER_MS) -> int:
        """One step: the invocations that ended first, up to so many bytes."""
        hits = await self._oldest(self._names.invocations, query, "finished_at_ms")
        removed = await self._delete(_first(hits, bytes_min))
        if removed:
            await self._refresher.refresh(self._names.invocations)
        return removed

    async def _delete(self, found: list[dict[str, Any]]) -> int:
        """Delete finished invocations. Keys first: one must never name what is gone."""
        keys = [
            self._forget_key(hit["_source"]["key_id"], hit["_source"])
            for hit in found
            if hit["_source"].get("key_id")
        ]
        await self._write(keys)
        deletes = [make_write("delete", hit["_index"], hit["_id"]) for hit in found]
        answers = await self._write(deletes)
        self._refresher.wrote(self._names.invocations)
        return sum(answer.result == "deleted" for answer in answers)

    async def _write(self, writes: list[Write]) -> list[Answer]:
        """Write all or raise what kept one of them from being written."""
        answers = []
        for answer in await self._writer.send(writes) if writes else []:
            if not isinstance(answer, Answer):
                raise answer
            answers.append(answer)
        return answers

    async def _remove_logs(self, before_ms: int) -> int:
        query = {"range": {"at_ms": {"lt": before_ms}}}
        count = 0
        while removed := await self._delete_by_query(self._names.logs, query):
            count += removed
        return count

    async def _remove_void(self, now_ms: int) -> None:
        old = {"range": {"accepted_at_ms": {"lt": now_ms - VOID_AGE_MAX_MS}}}
        await self._delete_by_query(
            self._names.invocations, {"bool": {"filter": [{"term": {"void": True}}, old]}}
        )

    async def _remove_ownerless_keys(self, before_ms: int) -> None:
        """What is left of acceptances that died halfway."""
        await self._refresher.refresh(self._names.keys)
        ownerless = await self._ownerless_keys(self._keys_checked_ms, before_ms)
        await self._write([self._forget_key(hit["_id"], hit["_source"]) for hit in ownerless])
        self._keys_checked_ms = max(self._keys_checked_ms, before_ms)

    def _forget_key(self, key_id: str, source: dict[str, Any]) -> Write:
        script = scripts.script(scripts.FORGET_KEY, {"request_id": source["request_id"]})
        return make_write("update", self._names.keys, key_id, script)

    async def _delete_by_query(self, index: str, query: dict[str, Any]) -> int:
        body = await self._connection.ask(
            self._connection.es.delete_by_query(
                index=index,
                query=query,
                max_docs=LOGS_STEP,
                conflicts="proceed",
                refresh=True,
            )
        )
        return int(body["deleted"])

    async def _sweep_by_size(self, bytes_max: int) -> Swept:
        """Remove the older of the oldest finished invocation and log record until it fits."""
        invocations = logs = 0
        finished = _finished(dead=False, before_ms=_FOREVER_MS)
        while (excess := await self.measure() - bytes_max) > 0:
            ended = await self._oldest(self._names.invocations, finished, "finished_at_ms")
            logged = await self._oldest(self._names.logs, {"match_all": {}}, "at_ms")
            if not ended and not logged:
                break
            ended_ms = ended[0]["sort"][0] if ended else _FOREVER_MS
            logged_ms = logged[0]["sort"][0] if logged else _FOREVER_MS
            if ended_ms <= logged_ms:
                due = [hit for hit in ended if hit["sort"][0] <= logged_ms]
                invocations += await self._delete(_first(due, excess))
                await self._refresher.refresh(self._names.invocations)
            else:
                due = [hit for hit in logged if hit["sort"][0] < ended_ms]
                writes = [
                    make_write("delete", hit["_index"], hit["_id"]) for hit in _first(due, excess)
                ]
                logs += sum(answer.result == "deleted" for answer in await self._write(writes))
                await self._refresher.refresh(self._names.logs)
        return Swept(invocations=invocations, logs=logs)

    async def _oldest(self, alias: str, query: dict[str, Any], field: str) -> list[dict[str, Any]]:
        body = await self._connection.search(
            index=alias,
            query=query,
            sort=[{field: "asc"}],
            size=STEP,
            source_includes=["bytes", "request_id", "key_id"],
            track_total_hits=False,
        )
        hits: list[dict[str, Any]] = body["hits"]["hits"]
        return hits

    # checking

    async def problems(self) -> list[str]:
        """What is wrong; one sentence each."""
        for name in (*self._names.series, self._names.keys):
            await self._refresher.refresh(name)
        found = []
        health = await self._connection.ask(
            self._connection.es.cluster.health(index=[f"{name}*" for name in self._names.all])
        )
        if health["status"] == "red":
            found.append(f"{health['unassigned_shards']} parts of indices are not available.")
        contradicting, _ = await self._sum(
            self._names.invocations,
            {
                "bool": {
                    "should": [
                        _both({"term": {"done": True}}, {"term": {"outcome": ""}}),
                        _both({"term": {"done": False}}, {"term": {"state": "done"}}),
                        _both({"term": {"done": True}}, {"terms": {"state": ["queued", "leased"]}}),
                    ]
                }
            },
        )
        if contradicting:
            found.append(
                f"{contradicting} invocations have a state that contradicts their outcome."
            )
        ownerless = await self._ownerless_keys(0, clock.now_ms() - OWNERLESS_AGE_MAX_MS)
        if ownerless:
            found.append(f"{len(ownerless)} idempotency keys belong to no invocation.")
        return found

    async def _ownerless_keys(self, after_ms: int, before_ms: int) -> list[dict[str, Any]]:
        """Keys claimed between two times whose invocation was never made, or is gone."""
        body = await self._connection.search(
            index=self._names.keys,
            query={"range": {"claimed_at_ms": {"gt": after_ms, "lt": before_ms}}},
            sort=[{"claimed_at_ms": "desc"}],
            size=KEYS_MAX,
        )
        hits: list[dict[str, Any]] = body["hits"]["hits"]
        docs = [
            {
                "_index": hit["_source"]["invocations_index"],
                "_id": naming.invocation_id(
                    hit["_source"]["namespace"], hit["_source"]["request_id"]
                ),
                "_source": ["void"],
            }
            for hit in hits
        ]
        owners = await self._read_many(docs)
        return [
            hit
            for hit, owner in zip(hits, owners, strict=True)
            if owner is None or owner["_source"].get("void")
        ]

    async def _read_many(self, docs: list[dict[str, Any]]) -> list[dict[str, Any] | None]:
        """Documents in real time; None for one that is not there."""
        if not docs:
            return []
        body = await self._connection.ask(self._connection.es.mget(docs=docs))
        for one in body["docs"]:
            error = one.get("error")
            if error and error.get("type") != "index_not_found_exception":
                raise refusal(503, str(error.get("type")), str(error.get("reason")))
        return [one if one.get("found") else None for one in body["docs"]]


def _finished(*, dead: bool, before_ms: int) -> dict[str, Any]:
    return {
        "bool": {
            "filter": [
                {"term": {"done": True}},
                {"term": {"dead": dead}},
                {"range": {"finished_at_ms": {"lt": before_ms}}},
            ]
        }
    }


def _both(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    return {"bool": {"filter": [first, second]}}


def _first(hits: list[dict[str, Any]], bytes_min: int) -> list[dict[str, Any]]:
    """As many of the first as are needed for so many bytes."""
    chosen: list[dict[str, Any]] = []
    for hit in hits:
        if bytes_min <= 0:
            break
        bytes_min -= int(hit["_source"]["bytes"])
        chosen.append(hit)
    return chosen
