"""Parameters of operations: what each may be, as JSON Schema and as the parser that enforces it.

Both come from one constructor, so that the OpenAPI document cannot say other than the server does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from pratai.clock import now_ms
from pratai.errors import InvalidField
from pratai.model.refusal import invalid, nearest

#: Names of functions, namespaces and aliases; `model/validation.py` has the words for it.
NAME_PATTERN = "^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
ALIAS_PATTERN = "^(?![0-9]+$)[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
REQUEST_ID_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
NODE_ID_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
KEY_ID_PATTERN = "^[0-9a-f]{16}$"
NUMBER_PATTERN = "^[0-9]{1,9}$"
CURSOR_PATTERN = "^[A-Za-z0-9._~:=-]{1,256}$"
TEXT_CHARS_MAX = 1_024
MOMENT_ALLOWED = "epoch milliseconds, RFC 3339, or an age such as 10m, 2h, 7d"

_AGE = "^[0-9]{1,6}(ms|s|m|h|d|w)$"
_EPOCH = "^[0-9]{1,15}$"
_RFC3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:)([0-9]{2})(\.[0-9]+)?"
    r"([Zz]|[+ -][0-9]{2}:[0-9]{2})"
)
_AGE_MS = {
    "ms": 1,
    "s": 1_000,
    "m": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "w": 604_800_000,
}

Value = str | int | bool
Where = Literal["query", "path", "header"]


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """A value that a request carries outside its body."""

    name: str
    where: Where
    schema: dict[str, object]
    description: str
    #: (name, text as received) -> value; raises `InvalidField`.
    parse: Callable[[str, str], Value]
    #: What it is when it is not given; always given in a path.
    default: Value = ""


def text(
    name: str,
    description: str,
    *,
    where: Where = "query",
    pattern: str = "",
    chars_min: int = 1,
    chars_max: int = TEXT_CHARS_MAX,
) -> Parameter:
    """Any text, or text of a pattern."""
    schema: dict[str, object] = {"type": "string"}
    if pattern:
        schema["pattern"] = pattern
    else:
        schema |= {"minLength": chars_min, "maxLength": chars_max}
    compiled = re.compile(pattern.removeprefix("^").removesuffix("$")) if pattern else None

    def parse(field: str, raw: str) -> Value:
        if compiled is not None and not compiled.fullmatch(raw):
            raise invalid(field, raw, f"text like {pattern}")
        if compiled is None and not chars_min <= len(raw) <= chars_max:
            raise invalid(field, raw, f"{chars_min} to {chars_max} characters")
        return raw

    return Parameter(name=name, where=where, schema=schema, description=description, parse=parse)


def whole(
    name: str,
    description: str,
    *,
    least: int,
    most: int,
    default: int | None = None,
    where: Where = "query",
) -> Parameter:
    """A whole number within bounds."""

    def parse(field: str, raw: str) -> Value:
        digits = raw.isascii() and raw.isdecimal() and len(raw) <= 16
        if not digits or not least <= int(raw) <= most:
            raise invalid(field, raw, f"a whole number from {least} to {most}")
        return int(raw)

    schema: dict[str, object] = {"type": "integer", "minimum": least, "maximum": most}
    if default is not None:
        schema["default"] = default
    return Parameter(
        name=name,
        where=where,
        schema=schema,
        description=description,
        parse=parse,
        default=default or 0,
    )


def choice(name: str, description: str, options: Sequence[str]) -> Parameter:
    """One word of several."""

    def parse(field: str, raw: str) -> Value:
        if raw not in options:
            near = nearest(raw, options)
            advice = f"Did you mean {near}?" if near else ""
            raise invalid(field, raw, list(options), next_step=advice)
        return raw

    schema: dict[str, object] = {"type": "string", "enum": list(options)}
    return Parameter(name=name, where="query", schema=schema, description=description, parse=parse)


def flag(name: str, description: str) -> Parameter:
    """Either true or false; false when it is not given."""

    def parse(field: str, raw: str) -> Value:
        if raw not in ("true", "false"):
            raise invalid(field, raw, ["true", "false"])
        return raw == "true"

    schema: dict[str, object] = {"type": "boolean", "default": False}
    return Parameter(
        name=name,
        where="query",
        schema=schema,
        description=description,
        parse=parse,
        default=False,
    )


def moment(name: str, description: str) -> Parameter:
    """A point of time; its value is epoch milliseconds, 0 when it is not given."""
    schema: dict[str, object] = {
        "anyOf": [
            {"type": "string", "pattern": _EPOCH},
            {"type": "string", "pattern": _AGE},
            {"type": "string", "format": "date-time"},
        ]
    }
    return Parameter(
        name=name,
        where="query",
        schema=schema,
        description=f"{description} As {MOMENT_ALLOWED}.",
        parse=lambda field, raw: parse_moment(field, raw, now_ms()),
        default=0,
    )


def parse_moment(field: str, raw: str, at_ms: int) -> int:
    """Epoch milliseconds of what a person or program wrote. `at_ms`: now, for ages."""
    if re.fullmatch(_EPOCH[1:-1], raw):
        return int(raw)
    if re.fullmatch(_AGE[1:-1], raw):
        digits = re.split("[a-z]", raw, maxsplit=1)[0]
        return max(0, at_ms - int(digits) * _AGE_MS[raw[len(digits) :]])
    match = _RFC3339.fullmatch(raw)
    if match is None:
        raise _bad_moment(field, raw)
    day, minute, second, fraction, zone = match.groups()
    if day.startswith("0000"):
        return 0
    leap = second == "60"
    zone = "+00:00" if zone in "Zz" else zone.replace(" ", "+")
    micros = (fraction or ".0")[1:7].ljust(6, "0")
    try:
        when = datetime.fromisoformat(f"{day}T{minute}{'59' if leap else second}.{micros}{zone}")
    except ValueError as error:
        raise _bad_moment(field, raw) from error
    whole_ms = (when - datetime.fromisoformat("1970-01-01T00:00:00+00:00")) // timedelta(
        milliseconds=1
    )
    return max(0, whole_ms + (1_000 if leap else 0))


def _bad_moment(field: str, raw: str) -> InvalidField:
    return invalid(field, raw, MOMENT_ALLOWED)


def _free(name: str, description: str) -> Parameter:
    """A header of a standard that has what is not understood ignored, never refused."""
    return Parameter(
        name=name,
        where="header",
        schema={"type": "string"},
        description=description,
        parse=lambda _, raw: raw,
    )


NAME = text("name", "Name of the function.", where="path", pattern=NAME_PATTERN)
ALIAS = text("alias", "Name of the alias.", where="path", pattern=ALIAS_PATTERN)
REQUEST_ID = text(
    "request_id", "Request id of the invocation.", where="path", pattern=REQUEST_ID_PATTERN
)
NODE_ID = text("node_id", "Id of the node.", where="path", pattern=NODE_ID_PATTERN)
KEY_ID = text("key_id", "Id of the key.", where="path", pattern=KEY_ID_PATTERN)
NAMESPACE = text(
    "Pratai-Namespace",
    "Namespace the request is about. Only an admin key may name another than its own.",
    where="header",
    pattern=NAME_PATTERN,
)
LIMIT = whole("limit", "Most items to answer.", least=1, most=500, default=50)
NAME_CURSOR = text("cursor", "`next_cursor` of the page before.", pattern=NAME_PATTERN)
NUMBER_CURSOR = text("cursor", "`next_cursor` of the page before.", pattern=NUMBER_PATTERN)
KEY_CURSOR = text("cursor", "`next_cursor` of the page before.", pattern="^[0-9a-f]{64}$")
CURSOR = text("cursor", "`next_cursor` of the page before.", pattern=CURSOR_PATTERN)
FUNCTION = text("function", "Only of this function.", pattern=NAME_PATTERN)
OUTCOME = choice(
    "outcome",
    "Only with this outcome.",
    ("succeeded", "failed", "timed_out", "crashed", "throttled", "discarded"),
)
STATE = choice("state", "Only in this state.", ("queued", "leased", "done"))
SINCE = moment("since", "Not older than this.")
UNTIL = moment("until", "Not newer than this.")
SEARCH = text("search", "Every word must occur in event, result or failure.")
GREP = text("grep", "Every word must occur in the text.")
LOG_LIMIT = whole("limit", "Most records to answer.", least=1, most=10_000, default=500)
AFTER = whole(
    "after",
    "Only records after this sequence; without it, the newest `limit` records.",
    least=0,
    most=2**53 - 1,
    default=0,
)
FOLLOW = flag("follow", "Answer server-sent events, and go on as records arrive.")
FORCE = flag("force", "Delete it though triggers run it, and disable them.")
QUALIFIER = text(
    "qualifier",
    "Version number, alias or `$LATEST`; `$LATEST` when it is not given.",
    pattern=r"^([0-9]{1,9}|\$LATEST|[A-Za-z0-9][A-Za-z0-9_-]{0,63})$",
)
PATH = text(
    "path",
    "Path below the function; may have further slashes.",
    where="path",
    chars_min=0,
    chars_max=2_048,
)
INVOKE_HEADERS = (
    _free("Prefer", "`respond-async` for an async call (RFC 7240)."),
    text(
        "Idempotency-Key",
        "The same key and event: the same invocation.",
        where="header",
        pattern="^[ -~]{1,255}$",
    ),
    whole(
        "Pratai-Timeout-Ms",
        "A shorter deadline than the function's own.",
        where="header",
        least=1,
        most=900_000,
    ),
    _free("traceparent", "W3C trace context, given to the function."),
)
