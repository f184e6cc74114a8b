"""The secret by which a namespace's deliveries are signed: one document, made on first use.

Agents sign with it, and the API tells it to the namespace's owner; signatures are the agent's.
"""

from __future__ import annotations

import msgspec

from pratai import ids
from pratai.errors import Conflict, PlatformError
from pratai.model.trigger import SIGNING_SECRET
from pratai.store.base import Document, Store

_ID = "deliveries"


async def signing_secret(store: Store, namespace: str) -> str:
    """The secret (`whsec_...`) of a namespace."""
    for _ in range(2):
        found = await store.get(SIGNING_SECRET, namespace, _ID)
        if found is not None:
            return msgspec.json.decode(found.body, type=str)
        secret = ids.signing_secret()
        document = Document(
            kind=SIGNING_SECRET, namespace=namespace, id=_ID, body=msgspec.json.encode(secret)
        )
        try:
            await store.put(document)
        except Conflict:
            continue  # somebody made one at the same moment
        return secret
    raise PlatformError(
        f"the signing secret of namespace {namespace} can neither be read nor made",
        next_step="Ask again; if it repeats, look at the store.",
    )
