"""Outcomes on their way to destinations, as documents of the store, and when they are tried again.

Whoever records an outcome puts a delivery; an agent works it off (`destinations.py`). A delivery is
deleted when its destination took it or when it is given up.
"""

from __future__ import annotations

import hashlib

import msgspec
from msgspec.structs import replace

from pratai.errors import Conflict
from pratai.model.trigger import DELIVERY, Delivery
from pratai.store.base import Document, Store

#: First and longest wait between two attempts, before chance spreads them.
RETRY_MS, RETRY_MS_MAX = 2_000, 3_600_000
#: Longest wait that a destination may ask for.
ASKED_MS_MAX = 3_600_000
FAILURE_CHARS_MAX = 500

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Delivery).decode


async def put_delivery(store: Store, delivery: Delivery) -> None:
    """Keep a delivery durably; one that is kept already stays as it is.

    Raises:
        StoreUnavailable: it could not be written.

    """
    try:
        await store.put(document_of(delivery))
    except Conflict:
        return  # the same outcome was handed on before


def delivery_id(delivery: Delivery) -> str:
    """Its name within its namespace: one for each outcome and destination."""
    digest = hashlib.sha256(delivery.destination.encode()).hexdigest()
    return f"{delivery.request_id}.{digest[:16]}"


def document_of(delivery: Delivery, revision: int = 0) -> Document:
    """The document that keeps a delivery."""
    return Document(
        kind=DELIVERY,
        namespace=delivery.namespace,
        id=delivery_id(delivery),
        body=_encode(delivery),
        revision=revision,
    )


def delivery_of(document: Document) -> Delivery:
    """The delivery that a document keeps."""
    return _decode(document.body)


def postponed(
    delivery: Delivery,
    now_ms: int,
    *,
    failure: str,
    attempts_max: int,
    asked_ms: int,
    chance: float,
) -> Delivery | None:
    """The delivery after an attempt that failed; None when it is to be given up.

    Waits double from `RETRY_MS`; `chance` (0..1) spreads each over half of its length, so that what
    failed together does not come back together. A destination that asks for a longer wait gets it.
    """
    attempts = delivery.attempts + 1
    wait_ms = min(RETRY_MS_MAX, RETRY_MS << min(attempts - 1, 20))
    wait_ms = max(wait_ms // 2 + int(wait_ms * chance / 2), min(asked_ms, ASKED_MS_MAX))
    if attempts >= attempts_max or now_ms + wait_ms > delivery.expires_at_ms:
        return None
    return replace(
        delivery,
        attempts=attempts,
        next_attempt_at_ms=now_ms + wait_ms,
        last_failure=failure[:FAILURE_CHARS_MAX],
        claimed_by="",
        claimed_until_ms=0,
    )
