"""What an invoke request says: its headers in one pass, its event checked. HTTP only, no I/O."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from pratai.errors import CallerError, InvalidField, PayloadTooLarge
from pratai.model.function import Version

Scope = MutableMapping[str, Any]

PREFIX = "/v1/functions/"
SUFFIX = "/invocations"
#: Longest `Idempotency-Key` and `traceparent` that are taken.
KEY_CHARS_MAX = 255
TRACE_CHARS_MAX = 512
TIMEOUT_DIGITS_MAX = 16

_check_json = msgspec.json.Decoder(msgspec.Raw).decode


def is_invoke(path: str) -> bool:
    """Whether this is `/v1/functions/{name}/invocations`."""
    return path.startswith(PREFIX) and path.endswith(SUFFIX) and path.count("/") == 4


class Request:
    """The parts of an invoke request that matter, read in one pass over its headers."""

    __slots__ = (
        "authorization",
        "content_length",
        "content_type",
        "idempotency_key",
        "name",
        "namespace",
        "prefer",
        "qualifier",
        "timeout",
        "trace",
    )

    def __init__(self, scope: Scope) -> None:
        self.name: str = scope["path"][len(PREFIX) : -len(SUFFIX)]
        self.authorization = b""
        self.content_type = "application/json"
        self.content_length = b""
        self.idempotency_key = ""
        self.namespace = ""
        self.prefer = b""
        self.timeout = b""
        self.trace = ""
        for key, value in scope["headers"]:
            if key == b"authorization":
                self.authorization = value
            elif key == b"content-type":
                self.content_type = value.decode("latin-1")
            elif key == b"content-length":
                self.content_length = value
            elif key == b"prefer":
                self.prefer = value
            elif key == b"idempotency-key":
                self.idempotency_key = value.decode("latin-1") or _refuse_empty("Idempotency-Key")
            elif key == b"pratai-timeout-ms":
                self.timeout = value or b"empty"
            elif key == b"traceparent":
                self.trace = value.decode("latin-1")[:TRACE_CHARS_MAX]
            elif key == b"pratai-namespace":
                self.namespace = value.decode("latin-1") or _refuse_empty("Pratai-Namespace")
        self.qualifier = _qualifier(scope["query_string"]) if scope["query_string"] else ""

    @property
    def wants_async(self) -> bool:
        """Whether the caller prefers not to wait (RFC 7240)."""
        return bool(self.prefer) and b"respond-async" in self.prefer.lower()

    def timeout_ms(self, version: Version) -> int:
        """The caller's timeout, at most the function's own."""
        if not self.timeout:
            return version.config.timeout_ms
        digits = self.timeout.isdigit() and len(self.timeout) <= TIMEOUT_DIGITS_MAX
        if not digits or not 1 <= int(self.timeout) <= 900_000:
            raise InvalidField(
                "Pratai-Timeout-Ms is not a number of milliseconds in 1..900000",
                field="Pratai-Timeout-Ms",
                value=self.timeout[:80].decode("latin-1"),
                allowed="1..900000",
                next_step="Send a whole number of milliseconds, or leave the header out.",
            )
        return min(int(self.timeout), version.config.timeout_ms)

    def check_key(self) -> None:
        """Refuse an idempotency key that cannot be kept."""
        key = self.idempotency_key
        if len(key) > KEY_CHARS_MAX or not (key.isascii() and key.isprintable()):
            raise InvalidField(
                f"Idempotency-Key must be 1 to {KEY_CHARS_MAX} printable characters",
                field="Idempotency-Key",
                value=key[:80],
                allowed=f"1..{KEY_CHARS_MAX} printable characters",
                next_step="Use e.g. a UUID.",
            )


def _refuse_empty(header: str) -> str:
    raise InvalidField(
        f"{header} is empty",
        field=header,
        value="",
        allowed="at least one character",
        next_step=f"Give {header} a value, or leave it out.",
    )


def is_json(content_type: str) -> bool:
    """Whether a content type says JSON."""
    if content_type == "application/json":
        return True
    kind = content_type.split(";", 1)[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def check_event(event: bytes) -> None:
    """Refuse an event that is not the JSON it says it is."""
    try:
        _check_json(event)
        if not event.isascii():
            event.decode()
    except msgspec.DecodeError as error:
        why = str(error)
    except UnicodeDecodeError as error:
        why = f"byte {error.start} is not UTF-8"
    except RecursionError:
        why = "it is nested too deeply"
    else:
        return
    raise CallerError(
        f"the event says it is JSON but does not parse: {why}",
        code="invalid_json",
        field="body",
        next_step="Send valid JSON, or say what it is in Content-Type.",
    )


def _qualifier(query: bytes) -> str:
    qualifier = ""
    for key, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if key != "qualifier":
            raise InvalidField(
                f"there is no query parameter {key!r} here",
                field=key[:80],
                value=value[:80],
                allowed=["qualifier"],
                next_step="Use `qualifier`, or none.",
            )
        qualifier = value
    return qualifier


def too_large(size: int, limit: int) -> PayloadTooLarge:
    """The error of an event above its limit."""
    return PayloadTooLarge(
        f"the event has {size} bytes, above the limit of {limit}",
        field="body",
        value=size,
        allowed=f"at most {limit} bytes",
        next_step="Send less, or store it elsewhere and send where it is.",
    )
