"""Identifiers. The only file that draws random numbers for ids; cores get ids as arguments.

Request ids are UUID version 7 (RFC 9562): they sort by time, which keeps index pages of the
stores hot, and they have the shape that AWS clients expect of a request id.
"""

from __future__ import annotations

import os
import random
import secrets
import time
from typing import NewType

RequestId = NewType("RequestId", str)
InstanceId = NewType("InstanceId", str)
NodeId = NewType("NodeId", str)


def request_id() -> RequestId:
    """A new request id, e.g. `01933b7e-8f1a-7c3e-9d0a-5f2b8c6d4e1f`."""
    stamp = time.time_ns() // 1_000_000
    tail = _random_hex()
    head = f"{stamp:012x}"
    variant = "89ab"[int(tail[3], 16) & 3]
    return RequestId(f"{head[:8]}-{head[8:]}-7{tail[:3]}-{variant}{tail[4:7]}-{tail[8:20]}")


#: Random bytes drawn ahead, as hex: one system call serves many ids.
_POOL_BYTES, _EACH_BYTES = 4_000, 10
_pool: list[str] = []


def _random_hex() -> str:
    """Ten random bytes as hex."""
    if not _pool:
        drawn = os.urandom(_POOL_BYTES).hex()
        _pool.extend(
            drawn[start : start + 2 * _EACH_BYTES]
            for start in range(0, 2 * _POOL_BYTES, 2 * _EACH_BYTES)
        )
    return _pool.pop()


def node_id() -> NodeId:
    """A new node id, e.g. `node-3f9c2a1b`."""
    return NodeId(f"node-{os.urandom(4).hex()}")


def api_key() -> str:
    """A new bearer key: 256 random bits, so that a plain digest of it can be stored."""
    return f"pratai_{secrets.token_urlsafe(32)}"


def chance() -> float:
    """A random number in 0..1, for choices such as an alias's weights; not for secrets."""
    return random.random()  # noqa: S311
