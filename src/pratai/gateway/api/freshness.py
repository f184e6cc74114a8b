"""Reading what another process of the cluster writes at this moment.

Records of sync calls and logs are written after the fact, by the gateway that answered and by the
scheduler. Who asks another gateway for them right after the answer finds nothing yet; so for a
request id that is young, nothing is taken for an answer only after a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pratai import ids
from pratai.clock import now_ms

#: Until a request id is this old, what is said of it may not be written yet.
YOUNG_MS = 3_000
LOOK_S = 0.1

T = TypeVar("T")


async def read_young(request_id: str, read: Callable[[], Awaitable[T]]) -> T:
    """What `read` finds; empty is taken for an answer once the request is old enough."""
    while True:
        found = await read()
        if found or not 0 <= now_ms() - ids.made_at_ms(request_id) < YOUNG_MS:
            return found
        await asyncio.sleep(LOOK_S)
