"""The event of `pratai invoke`: from an argument, a file or stdin, with its content type."""

from __future__ import annotations

import json
import mimetypes
import os
import sys
from pathlib import Path

import msgspec

from pratai.errors import InvalidField

JSON = "application/json"
#: What `mimetypes` would take from the machine's own tables, and so differently on each.
_CONTENT_TYPES = {
    ".json": JSON,
    ".ndjson": "application/x-ndjson",
    ".jsonl": "application/x-ndjson",
    ".csv": "text/csv",
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".xml": "application/xml",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".html": "text/html",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".pdf": "application/pdf",
    ".zip": "application/zip",
}


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes to send and what they are."""

    body: bytes
    content_type: str


def read_event(argument: str | None, content_type: str | None) -> Event:
    """The event that EVENT, `@FILE`, `-` or nothing means."""
    if argument is None:
        return Event(body=b"{}", content_type=content_type or JSON)
    if argument == "-":
        body = sys.stdin.buffer.read()
        return _checked(body, content_type or _looks_like(body), where="stdin")
    if argument.startswith("@"):
        return _from_file(argument[1:], content_type)
    body = os.fsencode(argument)
    return _checked(body, content_type or JSON, where="EVENT")


def _from_file(name: str, content_type: str | None) -> Event:
    path = Path(name)
    try:
        body = path.read_bytes()
    except OSError as error:
        raise InvalidField(
            f"The event's file {name!r} cannot be read: {error.strerror}.",
            next_step="Check the path after the @.",
            field="event",
            value=name,
        ) from error
    return _checked(body, content_type or guess_content_type(path), where=name)


def guess_content_type(path: Path) -> str:
    """What a file holds, by its extension."""
    known = _CONTENT_TYPES.get(path.suffix.lower())
    return known or mimetypes.guess_type(path.name)[0] or "application/octet-stream"


def _looks_like(body: bytes) -> str:
    """JSON, text or neither."""
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        try:
            body.decode()
        except UnicodeDecodeError:
            return "application/octet-stream"
        return "text/plain"
    return JSON


def _checked(body: bytes, content_type: str, *, where: str) -> Event:
    """The event; what says it is JSON and is not is refused before it is sent."""
    if content_type.partition(";")[0].strip() != JSON:
        return Event(body=body, content_type=content_type)
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        place = _place(body, str(error))
        hint = (
            'Quote it for the shell: \'{"name": "Ada"}\', or \'"text"\' for a string; '
            "@FILE sends a file, --content-type text/plain plain text."
            if where == "EVENT"
            else "Mend it, or say what it is with --content-type."
        )
        raise InvalidField(
            f"{where} is not valid JSON: {place}.",
            next_step=hint,
            field="event",
            value=body[:100].decode("utf-8", "replace"),
        ) from error
    return Event(body=body, content_type=content_type)


def _place(body: bytes, fallback: str) -> str:
    """Where it stops being JSON, by line and column."""
    try:
        json.loads(body)
    except json.JSONDecodeError as error:
        return f"line {error.lineno}, column {error.colno}: {error.msg}"
    except UnicodeDecodeError:
        return "it is not UTF-8 text"
    return fallback
