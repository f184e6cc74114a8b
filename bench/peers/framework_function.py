"""The function of the benches as functions-framework wants it."""

from __future__ import annotations

from typing import Any


def hello(request: Any) -> dict[str, bool]:
    """Decode the event, as Pratai's worker does, and answer."""
    request.get_json()
    return {"ok": True}
