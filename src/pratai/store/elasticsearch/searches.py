"""Listing and searching invocations and logs.

A search is words, not a query language (`store/words.py`): each becomes one clause that must match,
analysed by Elasticsearch with the analyzer that the texts went through.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pratai import clock
from pratai.model.invocation import Invocation, LogRecord
from pratai.store import words
from pratai.store.base import InvocationPage, InvocationQuery, LogQuery
from pratai.store.elasticsearch import rows, sequence
from pratai.store.elasticsearch.names import Names
from pratai.store.elasticsearch.refresh import Refresher

if TYPE_CHECKING:
    from pratai.store.elasticsearch.connection import Connection

#: Invocations or log records of one answer, whatever was asked for.
LIMIT_MAX = 10_000
#: Documents of one answer of Elasticsearch.
PAGE = 1_000
NUMBER_MAX = 1 << 62
#: Different endings tried of a word of several parts (`A-12` finds `A-1234`), in each segment.
ENDINGS_MAX = 1_000
#: Log records younger than this may still be joined by older ones of other processes.
SETTLE_MS = 250

_OUR_FIELDS = ["searchable", "token", "key_id"]


class Searches:
    """Everything that is found otherwise than by its id."""

    def __init__(self, connection: Connection, names: Names, refresher: Refresher) -> None:
        self._connection = connection
        self._names = names
        self._refresher = refresher

    async def invocations(self, query: InvocationQuery) -> InvocationPage:
        """A page of invocations, newest first."""
        wanted = words.words(query.search)
        if wanted is not None and not wanted:
            return InvocationPage(items=[])
        limit = max(1, min(query.limit, LIMIT_MAX))
        await self._refresher.show_own(self._names.invocations)
        hits = await self._pages(
            self._names.invocations,
            [*_invocation_filters(query), *_clauses("searchable", wanted)],
            sort={"request_id": "desc"},
            after=query.cursor or None,
            limit=limit + 1,
            namespace=query.namespace,
        )
        items = [rows.invocation_of(hit["_source"], payloads=False) for hit in hits[:limit]]
        more = len(hits) > limit
        return InvocationPage(items=items, next_cursor=items[-1].request_id if more else "")

    async def pending(self, after: str, limit: int) -> list[Invocation]:
        """Unfinished invocations in order of request id, as of now."""
        await self._refresher.refresh(self._names.invocations)
        hits = await self._pages(
            self._names.invocations,
            [{"term": {"done": False}}],
            sort={"request_id": "asc"},
            after=after or None,
            limit=max(1, limit),
        )
        return [rows.invocation_of(hit["_source"], payloads=False) for hit in hits]

    async def logs(self, query: LogQuery) -> list[LogRecord]:
        """Log records, oldest first.

        What is listed is complete up to its last record, so that asking for what comes after it
        misses nothing: where the last one is so young that a record with a lower number may be
        on its way, it is waited for that one.
        """
        wanted = words.words(query.grep)
        if wanted is not None and not wanted:
            return []
        await self._refresher.show_own(self._names.logs)
        asked_ms = clock.now_ms()
        records = await self._logs(query, wanted, upto_ms=None)
        if not records or sequence.at_ms(records[-1].sequence) < asked_ms - SETTLE_MS:
            return records
        upto_ms = sequence.at_ms(records[-1].sequence)
        await asyncio.sleep(max(0, min(SETTLE_MS, upto_ms + SETTLE_MS - asked_ms)) / 1000)
        await self._refresher.refresh(self._names.logs)
        return await self._logs(query, wanted, upto_ms=upto_ms)

    async def _logs(
        self, query: LogQuery, wanted: list[str] | None, *, upto_ms: int | None
    ) -> list[LogRecord]:
        bounds: dict[str, int] = {"gt": _clamped(query.after)}
        if upto_ms is not None:
            bounds["lt"] = sequence.first_of(upto_ms + 1)
        filters: list[dict[str, Any]] = [
            {"term": {"namespace": query.namespace}},
            {"range": {"sequence": bounds}},
            *_clauses("text", wanted),
        ]
        filters += _terms(query, ("function", "request_id"))
        if query.since_ms:
            filters.append({"range": {"at_ms": {"gte": _clamped(query.since_ms)}}})
        hits = await self._pages(
            self._names.logs,
            filters,
            sort={"sequence": "desc" if query.tail else "asc"},
            after=None,
            limit=max(1, min(query.limit, LIMIT_MAX)),
            namespace=query.namespace,
        )
        records = [rows.log_of(hit["_source"]) for hit in hits]
        return records[::-1] if query.tail else records

    async def _pages(
        self,
        alias: str,
        filters: list[dict[str, Any]],
        *,
        sort: dict[str, str],
        after: Any,
        limit: int,
        namespace: str = "",
    ) -> list[dict[str, Any]]:
        """Up to `limit` hits. The sort key never changes, so pages need no snapshot."""
        found: list[dict[str, Any]] = []
        while len(found) < limit:
            count = min(PAGE, limit - len(found))
            body = await self._connection.search(
                index=alias,
                query={"bool": {"filter": filters}},
                sort=[sort],
                search_after=None if after is None else [after],
                size=count,
                source_excludes=["event", "result", *_OUR_FIELDS],
                track_total_hits=False,
                # The same copy for the same namespace: pages do not differ by a refresh.
                preference=f"of-{namespace}" if namespace else None,
            )
            hits = body["hits"]["hits"]
            found += hits
            if len(hits) < count:
                break
            after = hits[-1]["sort"][0]
        return found


def _invocation_filters(query: InvocationQuery) -> list[dict[str, Any]]:
    filters: list[dict[str, Any]] = [{"term": {"namespace": query.namespace}}]
    filters += _terms(query, ("function", "outcome", "state"))
    if query.dead is not None:
        filters.append({"term": {"dead": query.dead}})
    accepted = {}
    if query.since_ms:
        accepted["gte"] = _clamped(query.since_ms)
    if query.until_ms:
        accepted["lte"] = _clamped(query.until_ms)
    if accepted:
        filters.append({"range": {"accepted_at_ms": accepted}})
    return filters


def _clamped(number: int) -> int:
    """Within what Elasticsearch compares; beyond that nothing is."""
    return max(-NUMBER_MAX, min(number, NUMBER_MAX))


def _terms(query: InvocationQuery | LogQuery, names: tuple[str, ...]) -> list[dict[str, Any]]:
    given = {name: getattr(query, name) for name in names}
    return [{"term": {name: value}} for name, value in given.items() if value]


def _clauses(field: str, wanted: list[str] | None) -> list[dict[str, Any]]:
    """One clause for each word: a beginning, or parts next to each other and then a beginning."""
    clauses: list[dict[str, Any]] = []
    for word in dict.fromkeys(wanted or []):
        if len(words.tokens(word)) > 1:
            phrase = {"query": word, "max_expansions": ENDINGS_MAX}
            clauses.append({"match_phrase_prefix": {field: phrase}})
        else:
            clauses.append({"match_bool_prefix": {field: {"query": word, "operator": "and"}}})
    return clauses
