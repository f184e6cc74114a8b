"""Identifiers. The only file that draws random numbers for ids; cores get ids as arguments.

Request ids are UUID version 7 (RFC 9562): they sort by time, which keeps index pages of the
stores hot, and they have the shape that AWS clients expect of a request id.
"""

from __future__ import annotations

import base64
import os
import random
import secrets
import time
from typing import NewType

RequestId = NewType("RequestId", str)
InstanceId = NewType("InstanceId", str)


def request_id() -> RequestId:
    """A new request id, e.g. `01933b7e-8f1a-7c3e-9d0a-5f2b8c6d4e1f`."""
    head = f"{time.time_ns() // 1_000_000:012x}"
    if not _pool:
        _fill_pool()
    return RequestId(f"{head[:8]}-{head[8:]}{_pool.pop()}")


def made_at_ms(request_id: str) -> int:
    """When a request id was made, by the clock of its maker; 0 when it is none of ours."""
    try:
        return int(request_id[:8] + request_id[9:13], 16)
    except ValueError:
        return 0


def before(at_ms: int) -> str:
    """A request id that sorts before all that are made from this time on."""
    head = f"{max(0, at_ms):012x}"
    return f"{head[:8]}-{head[8:]}"


#: Random ends of request ids, made ahead: one system call and one loop serve many ids.
_POOL_SIZE, _EACH_BYTES = 400, 10
_pool: list[str] = []


def _fill_pool() -> None:
    """Make the part of ids behind their time: version, random, variant, random."""
    drawn = os.urandom(_POOL_SIZE * _EACH_BYTES).hex()
    for start in range(0, len(drawn), 2 * _EACH_BYTES):
        tail = drawn[start : start + 2 * _EACH_BYTES]
        variant = "89ab"[int(tail[3], 16) & 3]
        _pool.append(f"-7{tail[:3]}-{variant}{tail[4:7]}-{tail[8:20]}")


def process_id(kind: str) -> str:
    """A new id of a process, e.g. `node-3f9c2a1b`."""
    return f"{kind}-{os.urandom(4).hex()}"


def api_key() -> str:
    """A new bearer key: 256 random bits, so that a plain digest of it can be stored."""
    return f"pratai_{secrets.token_urlsafe(32)}"


def chance() -> float:
    """A random number in 0..1, for choices such as an alias's weights; not for secrets."""
    return random.random()  # noqa: S311


def signing_secret() -> str:
    """A new secret for signing what is sent to others, as Standard Webhooks writes them."""
    return f"whsec_{base64.b64encode(os.urandom(32)).decode()}"
