"""Which agent does what when several run: claims as documents, by compare-and-set, with an end.

A claim spares double work; it is not what keeps things from happening twice (keys in the journal
and constant webhook ids do).
"""

from __future__ import annotations

import msgspec

from pratai.clock import now_ms
from pratai.errors import Conflict
from pratai.model.trigger import AGENT_LEASE
from pratai.store.base import Document, Store


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """Who, until when."""

    agent_id: str
    until_ms: int


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Claim).decode


class Claims:
    """The claims of one agent."""

    def __init__(self, store: Store, agent_id: str, lease_ms: int) -> None:
        self._store = store
        self._agent_id = agent_id
        self._lease_ms = lease_ms
        #: {(namespace, id): end of the claim}, those that are held here.
        self._held: dict[tuple[str, str], int] = {}

    async def hold(self, namespace: str, name: str) -> bool:
        """Whether the claim is this agent's, taking or renewing it when it can be."""
        at_ms = now_ms()
        left_ms = self._held.get((namespace, name), 0) - at_ms
        if self._lease_ms // 2 < left_ms <= self._lease_ms:
            return True
        self._held.pop((namespace, name), None)
        found = await self._store.get(AGENT_LEASE, namespace, name)
        if found is not None:
            claim = _decode(found.body)
            # an end further off than any claim lasts comes from a clock that was wrong
            if claim.agent_id != self._agent_id and 0 < claim.until_ms - at_ms <= self._lease_ms:
                return False
        claim = Claim(agent_id=self._agent_id, until_ms=at_ms + self._lease_ms)
        document = Document(
            kind=AGENT_LEASE,
            namespace=namespace,
            id=name,
            body=_encode(claim),
            revision=0 if found is None else found.revision,
        )
        try:
            await self._store.put(document)
        except Conflict:
            return False
        self._held[namespace, name] = claim.until_ms
        return True

    async def release(self, namespace: str, name: str) -> None:
        """Let others have it at once; a claim of somebody else stays."""
        if self._held.pop((namespace, name), 0) == 0:
            return
        found = await self._store.get(AGENT_LEASE, namespace, name)
        if found is not None and _decode(found.body).agent_id == self._agent_id:
            try:
                await self._store.delete(found)
            except Conflict:
                return  # somebody took it meanwhile

    async def release_all(self) -> None:
        """Let others have all of them."""
        for namespace, name in list(self._held):
            await self.release(namespace, name)
