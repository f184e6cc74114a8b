"""Templates, mappings and the indices of each series: made, migrated, followed by others.

Opening is the same in all processes and may happen in all of them at once: every step makes what is
missing and leaves what is there. No lifecycle management and no data streams, which need more than
the open parts of Elasticsearch: `Upkeep` rolls over and deletes.
"""

from __future__ import annotations

import asyncio
import json
from importlib import resources
from typing import TYPE_CHECKING, Any

from pratai import clock
from pratai.config import schema
from pratai.errors import PlatformError, StoreUnavailable
from pratai.store.elasticsearch.names import Names, beginning_of, index_at, index_name
from pratai.store.elasticsearch.refusals import no_index

if TYPE_CHECKING:
    from pratai.store.elasticsearch.connection import Connection

#: Version of the mappings. Raise it with every change of `mappings/`; only additions are possible.
SCHEMA = 1
#: A new index is made this long before it begins, so that every process knows it by then.
LEAD_MS = 60_000
#: The list of indices is read again when older than this, and not trusted when older than the next.
LIST_EVERY_MS = 15_000
LIST_AGE_MAX_MS = 40_000
#: Above the priority of the templates that Elasticsearch ships.
PRIORITY = 500


class Indices:
    """Which indices there are. `beginnings` of a series: {series: times in order}."""

    def __init__(self, connection: Connection, config: schema.Elasticsearch) -> None:
        self._connection = connection
        self._config = config
        self.names = Names(config.index_prefix)
        self._beginnings: dict[str, list[int]] = {}
        self._read_us = 0
        self._reading: asyncio.Future[None] | None = None

    # opening

    async def prepare(self) -> None:
        """Templates, mappings and first indices as this version wants them.

        Raises:
            PlatformError: made by a newer version.

        """
        await asyncio.gather(*[self._prepare_one(name) for name in self.names.all])
        firsts = [index_name(series, 0) for series in self.names.series]
        for index in (self.names.documents, self.names.keys, *firsts):
            await self._make_if_missing(index)
        await self._wait_until_there()
        await self.read()

    async def _wait_until_there(self) -> None:
        """Another process may have made them this moment."""
        health = await self._connection.ask(
            self._connection.es.cluster.health(
                index=[f"{name}*" for name in self.names.all],
                wait_for_status="yellow",
                timeout=self._connection.server_timeout,
            ),
            allowed=(408,),
        )
        if health["timed_out"]:
            raise StoreUnavailable(
                f"{health['unassigned_shards']} parts of indices are not available.",
                next_step="Look at `GET _cluster/allocation/explain`.",
                retry_after_s=5,
            )

    async def _make_if_missing(self, index: str) -> None:
        there = await self._connection.ask(
            self._connection.es.indices.get_settings(index=index, name="index.uuid"),
            allowed=(404,),
        )
        if index not in there:
            await self.make(index)

    async def make(self, index: str) -> None:
        """Make an index unless it is there."""
        await self._ask_admin(
            self._connection.es.indices.create(
                index=index, timeout=self._connection.server_timeout
            ),
            exists_ok=True,
        )

    async def _prepare_one(self, name: str) -> None:
        es = self._connection.es
        found = await self._connection.ask(es.indices.get_index_template(name=name), allowed=(404,))
        templates = found.get("index_templates") or []
        version = int(templates[0]["index_template"].get("version", 0)) if templates else 0
        if version > SCHEMA:
            raise PlatformError(
                f"The indices {name} were made by a newer Pratai (schema {version}; this one "
                f"knows {SCHEMA}).",
                next_step="Run that version, or set another elasticsearch.index_prefix.",
            )
        if version == SCHEMA:
            return
        wanted = mapping_of(name, self.names)
        pattern = f"{name}-*" if name in self.names.series else name
        # Existing indices first: a template of this version says that all of them are of it.
        await self._ask_admin(
            es.indices.put_mapping(
                index=pattern,
                **wanted["mappings"],
                allow_no_indices=True,
                ignore_unavailable=True,
            ),
            absent_ok=True,
        )
        await self._ask_admin(
            es.indices.put_index_template(
                name=name,
                index_patterns=[pattern],
                priority=PRIORITY,
                version=SCHEMA,
                allow_auto_create=False,
                template=self._template(name, wanted),
            )
        )

    def _template(self, name: str, wanted: dict[str, Any]) -> dict[str, Any]:
        in_series = name in self.names.series
        index = wanted["settings"]["index"] | {
            "number_of_shards": self._config.shards if in_series else 1,
            "number_of_replicas": self._config.replicas,
        }
        return {
            "settings": wanted["settings"] | {"index": index},
            "mappings": wanted["mappings"],
            "aliases": {name: {}} if in_series else {},
        }

    async def _ask_admin(
        self, call: Any, *, exists_ok: bool = False, absent_ok: bool = False
    ) -> None:
        allowed = (400,) if exists_ok else (404,) if absent_ok else ()
        body = await self._connection.ask(call, allowed=allowed)
        error = body.get("error")
        if error and exists_ok and error.get("type") != "resource_already_exists_exception":
            raise PlatformError(
                f"An index cannot be made: {error.get('reason')}",
                next_step="Look at the nodes' logs.",
            )

    # series

    async def read(self) -> None:
        """Read which indices there are."""
        begun_us = clock.monotonic_us()
        found: dict[str, list[int]] = {}
        for series in self.names.series:
            body = await self._connection.ask(
                self._connection.es.indices.get_alias(index=f"{series}-*")
            )
            times = [beginning_of(series, index) for index in body]
            found[series] = sorted(time for time in times if time is not None)
            if not found[series]:
                raise no_index(f"{series}-*")
        self._beginnings = found
        self._read_us = begun_us

    @property
    def age_ms(self) -> int:
        """How old the list is."""
        return (clock.monotonic_us() - self._read_us) // 1000

    async def ensure_known(self) -> None:
        """Have a list that may be relied on. Calls at one time share one reading."""
        if self.age_ms < LIST_AGE_MAX_MS:
            return
        if self._reading is None or self._reading.done():
            self._reading = asyncio.ensure_future(self.read())
        await asyncio.shield(self._reading)

    def at(self, series: str, time_ms: int) -> str:
        """The index that something of a time belongs to."""
        return index_at(series, self._beginnings[series], time_ms)

    def before(self, series: str, index: str) -> str | None:
        """The index that came before another one."""
        times = self._beginnings[series]
        begins = beginning_of(series, index)
        at = times.index(begins) if begins in times else 0
        return index_name(series, times[at - 1]) if at > 0 else None

    def of(self, series: str) -> list[tuple[str, int, int | None]]:
        """All indices of a series in order: name, beginning, and end (None for the newest)."""
        times = self._beginnings[series]
        ends: list[int | None] = [*times[1:], None]
        return [
            (index_name(series, begins), begins, end)
            for begins, end in zip(times, ends, strict=True)
        ]


def mapping_of(name: str, names: Names) -> dict[str, Any]:
    """Settings and mappings of an index, as its file in `mappings/` says."""
    file = {
        names.documents: "documents",
        names.keys: "keys",
        names.invocations: "invocations",
        names.logs: "logs",
    }[name]
    folder = resources.files("pratai.store.elasticsearch") / "mappings"
    wanted: dict[str, Any] = json.loads((folder / f"{file}.json").read_text(encoding="utf-8"))
    return wanted
