"""Invocations as a client decodes them: the API's shapes, but with payloads left undecoded.

msgspec can write `Raw | None` and cannot read it; here a null stays the bytes `null`.
"""

from __future__ import annotations

import msgspec

from pratai.model.api import InvocationView

_NULL = msgspec.Raw(b"null")


class InvocationRecord(InvocationView, frozen=True, kw_only=True):
    """An invocation; `event` and `result` are JSON as it came."""

    event: msgspec.Raw = _NULL
    result: msgspec.Raw = _NULL


class InvocationPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of invocations, newest first."""

    items: list[InvocationRecord]
    next_cursor: str = ""
