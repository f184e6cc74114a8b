"""Which scheduler is the one: a document that says who, renewed while it lives, taken by
compare-and-set once it was not renewed for as long as it lasts.

Time is judged by how long the document has stood still as seen from here, never by comparing clocks
of two machines.
"""

from __future__ import annotations

import asyncio

import msgspec
import structlog

from pratai.clock import monotonic_us
from pratai.errors import Conflict, PlatformError, StoreUnavailable
from pratai.model.node import SYSTEM_NAMESPACE
from pratai.store.base import Document, Store

_log = structlog.get_logger("pratai.scheduler")
KIND, ID = "ownership", "scheduler"
#: Renewals in the time that a claim lasts.
RENEWALS = 3


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """The document: who the scheduler is, and how often it has said so."""

    scheduler_id: str
    renewals: int = 0
    #: Given up in good order: the next one need not wait.
    given_up: bool = False


_decode = msgspec.json.Decoder(Claim).decode


class Ownership:
    """This scheduler's claim to be the only one."""

    def __init__(self, store: Store, scheduler_id: str, *, lasts_ms: int) -> None:
        self._store = store
        self._scheduler_id = scheduler_id
        self._lasts_s = lasts_ms / 1_000
        #: Revision of the document; 0 = it is not there.
        self._revision = 0
        self._renewals = 0
        self._is_owner = False
        #: What is wrong with the claim, one sentence; "" = nothing.
        self.trouble = ""

    async def take(self) -> None:
        """Return once this is the only scheduler."""
        seen, seen_at_us = -1, 0
        while True:
            try:
                found = await self._store.get(KIND, SYSTEM_NAMESPACE, ID)
                revision = found.revision if found is not None else 0
                free = found is None or _decode(found.body).given_up
                if revision != seen:
                    seen, seen_at_us = revision, monotonic_us()
                if free or monotonic_us() - seen_at_us > 1e6 * self._lasts_s:
                    await self._put(revision)
                    self._is_owner = True
                    return
                self.trouble = "another scheduler leads"
            except Conflict:
                seen = -1
            except StoreUnavailable as error:
                seen = -1
                _log.warning("store_unavailable", error=error.detail)
            await asyncio.sleep(min(1.0, self._lasts_s / RENEWALS))

    async def keep(self) -> None:
        """Renew the claim until cancelled.

        Raises:
            PlatformError: another scheduler has taken it: this one must end.

        """
        self.trouble = ""
        while True:
            await asyncio.sleep(self._lasts_s / RENEWALS)
            try:
                await self._put(self._revision)
                self.trouble = ""
            except StoreUnavailable as error:  # nobody else can take it meanwhile either
                self.trouble = error.detail
            except Conflict:
                if not await self._is_own():
                    raise PlatformError(
                        "another scheduler has taken over",
                        code="ownership_lost",
                        next_step="Nothing: this process ends, the other one goes on.",
                    ) from None

    async def give_up(self) -> None:
        """Let the next scheduler begin at once."""
        if not self._is_owner:
            return
        self._is_owner = False
        try:
            await self._put(self._revision, given_up=True)
        except (Conflict, StoreUnavailable) as error:
            _log.warning("ownership_not_given_up", error=error.detail)

    async def _put(self, revision: int, *, given_up: bool = False) -> None:
        self._renewals += 1
        claim = Claim(scheduler_id=self._scheduler_id, renewals=self._renewals, given_up=given_up)
        self._revision = await self._store.put(
            Document(
                kind=KIND,
                namespace=SYSTEM_NAMESPACE,
                id=ID,
                body=msgspec.json.encode(claim),
                revision=revision,
            )
        )

    async def _is_own(self) -> bool:
        """Whether the document is this one's after all: a write seemed to fail and did not."""
        try:
            found = await self._store.get(KIND, SYSTEM_NAMESPACE, ID)
        except StoreUnavailable:
            return True
        if found is None or _decode(found.body).scheduler_id != self._scheduler_id:
            return False
        self._revision = found.revision
        return True
