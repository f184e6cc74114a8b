"""Signatures of deliveries, as Standard Webhooks has them, and the secrets they are made with.

A namespace has one secret, a document of its own that is made when it is first needed. Receivers
check `webhook-signature`: `v1,` and the base64 of HMAC-SHA256 over `ID.TIMESTAMP.BODY`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

import msgspec

from pratai import ids
from pratai.errors import Conflict, PlatformError
from pratai.model.trigger import SIGNING_SECRET
from pratai.store.base import Document, Store

_ID = "deliveries"
_PREFIX = "whsec_"


async def signing_secret(store: Store, namespace: str) -> str:
    """The secret (`whsec_...`) by which a namespace's deliveries are signed; made on first use."""
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


def signature(secret: str, webhook_id: str, *, timestamp_s: int, body: bytes) -> str:
    """The value of `webhook-signature`."""
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    signed = f"{webhook_id}.{timestamp_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def signed_headers(secret: str, webhook_id: str, *, now_ms: int, body: bytes) -> dict[str, str]:
    """The three headers of Standard Webhooks."""
    timestamp_s = now_ms // 1_000
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": signature(secret, webhook_id, timestamp_s=timestamp_s, body=body),
    }
