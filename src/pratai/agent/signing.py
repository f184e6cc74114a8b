"""Signatures of deliveries, as Standard Webhooks has them.

What they are made with is the namespace's secret (`store/signing.py`). Receivers check
`webhook-signature`: `v1,` and the base64 of HMAC-SHA256 over `ID.TIMESTAMP.BODY`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

_PREFIX = "whsec_"


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
