"""CloudEvents 1.0 from HTTP: binary, structured and batched; each checked before it is taken.

Follows the specification's core, JSON format and HTTP binding. What is wrong is told by attribute:
`id` of a structured event, `[2].id` of the third one of a batch, `ce-id` of a header. Pure.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable
from datetime import datetime
from urllib.parse import unquote_to_bytes

import msgspec

from pratai.errors import CallerError, PayloadTooLarge
from pratai.gateway.request import is_json
from pratai.model.cloud_event import CloudEvent
from pratai.model.refusal import invalid

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
HEADER_PREFIX = "ce-"
#: Events in one batch.
BATCH_MAX = 500
#: Attributes of one event, and characters of one of them.
ATTRIBUTES_MAX = 64
VALUE_CHARS_MAX = 2_048
INTEGER_MAX = 2**31 - 1

Headers = Iterable[tuple[str, str]]
Value = str | int | bool

_REQUIRED = ("specversion", "id", "source", "type")
_NAME = re.compile("[a-z0-9]{1,20}")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_URI_CHARS = re.compile(r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]([0-9]{2}:[0-9]{2}):([0-9]{2})(\.[0-9]+)?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_TOKEN = r"[A-Za-z0-9!#$&^_.+-]{1,127}"  # noqa: S105 - a word of media types
_MEDIA = re.compile(rf"{_TOKEN}/{_TOKEN}(?:\s*;\s*{_TOKEN}=(?:{_TOKEN}|\"[^\"]*\"))*\s*", re.ASCII)
_EXAMPLE = (
    "Send the headers ce-specversion, ce-id, ce-source and ce-type, or a JSON object with these "
    f"attributes as {STRUCTURED}."
)


def parse_events(content_type: str, headers: Headers, body: bytes) -> list[CloudEvent]:
    """The events of one request, in their order.

    Raises:
        InvalidField: an attribute is missing or wrong.
        CallerError: the body is no JSON, or of a format that is not understood.
        PayloadTooLarge: the batch has too many events.

    """
    kind = content_type.partition(";")[0].strip().lower()
    if not kind.startswith("application/cloudevents"):
        return [_binary(content_type, headers, body)]
    if kind not in (STRUCTURED, BATCH) or not _is_utf8(content_type):
        raise CallerError(
            f"events in {content_type[:100]} are not understood",
            code="unsupported_media_type",
            status=415,
            field="content-type",
            value=content_type,
            allowed=[STRUCTURED, BATCH],
            next_step="Send JSON in UTF-8, or the binary form with ce-* headers.",
        )
    if kind == STRUCTURED:
        return [_structured(_decode_object(body), "")]
    items = _decode_array(body)
    if len(items) > BATCH_MAX:
        raise PayloadTooLarge(
            f"the batch has {len(items)} events",
            field="body",
            allowed=f"at most {BATCH_MAX} events",
            next_step="Send several smaller batches.",
        )
    return [_structured(item, f"[{place}].") for place, item in enumerate(items)]


# forms


def _structured(given: dict[str, msgspec.Raw] | None, where: str) -> CloudEvent:
    if given is None:
        raise invalid(
            where.rstrip(".") or "body", None, "a JSON object", next_step="Send an object."
        )
    data, encoded = given.pop("data", None), given.pop("data_base64", None)
    attributes = _attributes(
        ((name, msgspec.json.decode(raw)) for name, raw in given.items()), lambda n: where + n
    )
    if data is not None and bytes(data) == b"null":
        data = None
    text = None if encoded is None else msgspec.json.decode(encoded)
    if text is None:
        return CloudEvent(attributes=attributes, data=data)
    if data is not None:
        raise invalid(
            f"{where}data_base64",
            None,
            "nothing beside data",
            detail=f"{where}data and {where}data_base64 are both given.",
            next_step="Leave one of them out.",
        )
    return CloudEvent(attributes=attributes, data_base64=_base64(f"{where}data_base64", text))


def _binary(content_type: str, headers: Headers, body: bytes) -> CloudEvent:
    given: dict[str, str] = {}
    for header, raw in headers:
        lowered = header.lower()
        if not lowered.startswith(HEADER_PREFIX):
            continue
        name = lowered[len(HEADER_PREFIX) :]
        if name in given:
            raise invalid(lowered, raw, "given once", next_step=f"Send {lowered} once.")
        if name == "datacontenttype":
            raise invalid(lowered, raw, "not given", next_step="Say it in Content-Type.")
        given[name] = _header_text(lowered, raw)
    if not given:
        raise invalid(
            "ce-specversion",
            None,
            "1.0",
            detail="The request is no CloudEvent: it has no ce-* headers.",
            next_step=_EXAMPLE,
        )
    attributes = _attributes(given.items(), lambda name: HEADER_PREFIX + name)
    if content_type:
        attributes["datacontenttype"] = _media_type("content-type", content_type)
    if not body:
        return CloudEvent(attributes=attributes)
    return _with_body(attributes, content_type, body)


def _with_body(attributes: dict[str, Value], content_type: str, body: bytes) -> CloudEvent:
    """JSON stays JSON, text becomes a string, everything else base64."""
    if content_type and is_json(content_type):
        _decode(body, msgspec.Raw)
        return CloudEvent(attributes=attributes, data=msgspec.Raw(body.strip()))
    if content_type.lower().startswith("text/") and _is_utf8(content_type):
        try:
            text = msgspec.json.encode(body.decode())
        except UnicodeDecodeError:
            pass  # it is not the text that it says: kept as the bytes it is
        else:
            return CloudEvent(attributes=attributes, data=msgspec.Raw(text))
    return CloudEvent(attributes=attributes, data_base64=base64.b64encode(body).decode())


# attributes


def _attributes(
    given: Iterable[tuple[str, object]], field: Callable[[str], str]
) -> dict[str, Value]:
    """All that are set, checked. `field` tells how a name is said in an error."""
    attributes: dict[str, Value] = {}
    for name, value in given:
        if value is None:
            continue
        if not _NAME.fullmatch(name) or name == "data":
            raise invalid(
                field(name)[:64],
                None,
                "names of 1 to 20 characters of a-z and 0-9",
                detail=f"{field(name)[:64]} is no name of an attribute.",
                next_step="Rename or remove it.",
            )
        attributes[name] = _value(field(name), value)
        if len(attributes) > ATTRIBUTES_MAX:
            raise invalid(field(name), None, f"at most {ATTRIBUTES_MAX} attributes")
    for name in _REQUIRED:
        if name not in attributes:
            raise invalid(
                field(name),
                None,
                "given",
                detail=f"{field(name)} is missing.",
                next_step=f"Add {field(name)}: every CloudEvent has {', '.join(_REQUIRED)}.",
            )
    for name, check in _CHECKS.items():
        if name in attributes:
            attributes[name] = check(field(name), attributes[name])
    return attributes


def _value(field: str, value: object) -> Value:
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if not -INTEGER_MAX - 1 <= value <= INTEGER_MAX:
            raise invalid(field, value, "a whole number of 32 bits")
        return value
    if not isinstance(value, str):
        raise invalid(field, value, "text, a whole number, true or false")
    if len(value) > VALUE_CHARS_MAX:
        raise invalid(field, value, f"at most {VALUE_CHARS_MAX} characters")
    if _CONTROL.search(value):
        raise invalid(field, ascii(value), "text without control characters")
    return value


def _specversion(field: str, value: Value) -> str:
    if value != "1.0":
        raise invalid(field, value, "1.0", next_step="Send CloudEvents 1.0.")
    return "1.0"


def _text(field: str, value: Value) -> str:
    if not isinstance(value, str) or not value:
        raise invalid(field, value, "text of at least one character")
    return value


def _uri_reference(field: str, value: Value) -> str:
    text = _text(field, value)
    first = re.split("[/?#]", text, maxsplit=1)[0]
    has_scheme = ":" not in first or _SCHEME.match(text)
    if not _URI_CHARS.fullmatch(text) or text.count("#") > 1 or not has_scheme:
        raise invalid(field, text, "a URI or URI reference, e.g. /shop or https://shop.example.com")
    return text


def _uri(field: str, value: Value) -> str:
    text = _uri_reference(field, value)
    if not _SCHEME.match(text):
        raise invalid(field, text, "a URI with its scheme, e.g. https://example.com/schema")
    return text


def _time(field: str, value: Value) -> str:
    text = _text(field, value)
    if not _is_time(text):
        raise invalid(field, text, "a time of RFC 3339, e.g. 2026-01-31T09:30:00Z")
    return text


def _is_time(text: str) -> bool:
    match = _TIME.fullmatch(text)
    if match is None:
        return False
    day, minute, second, _, zone = match.groups()
    zone = "+00:00" if zone in "Zz" else zone
    try:
        datetime.fromisoformat(f"{day}T{minute}:{'59' if second == '60' else second}{zone}")
    except ValueError:
        return False
    return True


def _media_type(field: str, value: Value) -> str:
    text = _text(field, value)
    if not _MEDIA.fullmatch(text):
        raise invalid(field, text, "a media type, e.g. application/json")
    return text


_CHECKS: dict[str, Callable[[str, Value], str]] = {
    "specversion": _specversion,
    "id": _text,
    "source": _uri_reference,
    "type": _text,
    "subject": _text,
    "time": _time,
    "datacontenttype": _media_type,
    "dataschema": _uri,
}


# bytes


def _header_text(field: str, raw: str) -> str:
    """A header's value: quotes taken off, percent encoding undone (HTTP binding, 3.1.3.2)."""
    raw = raw.strip(" \t")
    if len(raw) >= 2 and raw[0] == raw[-1] == '"':
        raw = re.sub(r"\\(.)", r"\1", raw[1:-1])
    try:
        return unquote_to_bytes(raw.encode("latin-1")).decode()
    except UnicodeError:
        raise invalid(
            field,
            ascii(raw),
            "UTF-8, percent-encoded where it is not ASCII",
        ) from None


def _base64(field: str, value: object) -> str:
    if isinstance(value, str):
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            pass  # told below, with every other wrong value
        else:
            return value
    raise invalid(field, value, "bytes in base64 (RFC 4648, with padding)")


def _is_utf8(content_type: str) -> bool:
    found = re.search(r"charset\s*=\s*\"?([^\s;\"]+)", content_type, re.IGNORECASE)
    return found is None or found[1].lower() in ("utf-8", "utf8", "us-ascii")


def _decode_object(body: bytes) -> dict[str, msgspec.Raw] | None:
    return _object(_decode(body, msgspec.Raw))


def _decode_array(body: bytes) -> list[dict[str, msgspec.Raw] | None]:
    raw = _decode(body, msgspec.Raw)
    try:
        return [_object(item) for item in msgspec.json.decode(raw, type=list[msgspec.Raw])]
    except msgspec.ValidationError:
        raise invalid(
            "body", None, "a JSON array of events", next_step=f"A single event is {STRUCTURED}."
        ) from None


def _object(raw: msgspec.Raw) -> dict[str, msgspec.Raw] | None:
    """The members of an object; None when it is something else."""
    try:
        return msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        return None


def _decode(body: bytes, kind: type[msgspec.Raw]) -> msgspec.Raw:
    """JSON, whole and in UTF-8."""
    try:
        body.decode()
        msgspec.json.decode(body)
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        why = str(error)
    except UnicodeDecodeError as error:
        why = f"byte {error.start} is not UTF-8"
    except RecursionError:
        why = "it is nested too deeply"
    raise CallerError(
        f"the body says it is JSON but does not parse: {why}",
        code="invalid_json",
        field="body",
        next_step="Send valid JSON, or say what it is in Content-Type.",
    )
