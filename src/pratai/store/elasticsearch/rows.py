"""Invocations and log records as Elasticsearch keeps them, and back. Pure.

A payload is kept once, so that its bytes come back exactly, and searched by its beginning:

    {text}          UTF-8, short enough and without JSON escapes: what is kept is what is searched
    {raw, words}    other UTF-8; `words` is what is searched
    {base64, words} anything else
"""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from pratai.model.invocation import Invocation, LogRecord
from pratai.store import words
from pratai.store.elasticsearch.refusals import unstorable

#: What a record is reckoned to cost beside its event, result or text.
RECORD_BYTES = 500
#: Fields of a document that are the store's own.
_OURS = ("done", "bytes", "token", "key_id", "void", "searchable")


def encode(fields: Any) -> bytes:
    """JSON.

    Raises:
        InvalidField: text that is not valid Unicode, or a number that is too large.

    """
    try:
        return msgspec.json.encode(fields)
    except (ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise unstorable(str(error)) from error


def pack(payload: bytes) -> dict[str, str]:
    """A payload."""
    plain = words.plain(payload)
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(payload).decode(), "words": plain}
    return {"text": text} if plain == text else {"raw": text, "words": plain}


def unpack(packed: dict[str, str] | None) -> bytes:
    """The payload's bytes."""
    if not packed:
        return b""
    if "base64" in packed:
        return base64.b64decode(packed["base64"])
    return packed.get("text", packed.get("raw", "")).encode()


def invocation_source(invocation: Invocation, *, token: str, key_id: str = "") -> dict[str, Any]:
    """An invocation as a document."""
    event, result = invocation.event or b"", invocation.result or b""
    bare = msgspec.structs.replace(invocation, event=None, result=None)
    source: dict[str, Any] = msgspec.to_builtins(bare)
    source["event"] = pack(event)
    source["result"] = pack(result)
    source["done"] = invocation.state == "done"
    source["bytes"] = RECORD_BYTES + len(event) + len(result)
    source["token"] = token
    source["key_id"] = key_id
    return source


def invocation_of(source: dict[str, Any], *, payloads: bool) -> Invocation:
    """The invocation in a document, with its payloads or with None in their place."""
    fields = {name: value for name, value in source.items() if name not in _OURS}
    event = unpack(fields.pop("event", None)) if payloads else None
    result = unpack(fields.pop("result", None)) if payloads else None
    fields.pop("event", None)
    fields.pop("result", None)
    known = msgspec.convert(fields, Invocation)
    return msgspec.structs.replace(known, event=event, result=result)


def log_source(record: LogRecord, token: str) -> dict[str, Any]:
    """A log record as a document."""
    source: dict[str, Any] = msgspec.to_builtins(record)
    source["bytes"] = RECORD_BYTES + len(record.text)
    source["token"] = token
    return source


def log_of(source: dict[str, Any]) -> LogRecord:
    """The log record in a document."""
    return msgspec.convert({k: v for k, v in source.items() if k not in _OURS}, LogRecord)
