"""The least that uvicorn can do: raw ASGI, no framework, no isolation, a fixed answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

ANSWER = b'{"ok":true}'
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"11")],
}


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Read the event and answer."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        continue
    await send(START)
    await send({"type": "http.response.body", "body": ANSWER})
