"""Where an outcome may be sent: to a function, or to a URL. Pure checks of what its owner says."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from pratai.errors import InvalidField
from pratai.model.refusal import invalid

ALLOWED = 'function:NAME, a URL beginning with https:// or http://, or "" for none'
FUNCTION = "function:"
URL_CHARS_MAX = 2_048
#: The same in a pattern, for the OpenAPI document; URLs are looked at more closely here.
PATTERN = r"^(function:[A-Za-z0-9][A-Za-z0-9_-]{0,63}|https?://[!-~]{1,2040})?$"

_FUNCTION = re.compile(r"function:[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)
_URL = re.compile(r"https?://[!-~]+", re.ASCII | re.IGNORECASE)


def is_url(destination: str) -> bool:
    """Whether a checked destination is a URL."""
    return bool(destination) and not destination.startswith(FUNCTION)


def check_destination(field: str, text: str) -> str:
    """A destination as it may be kept.

    Raises:
        InvalidField: it is none, or a URL with a user, a password or a fragment.

    """
    if text == "" or _FUNCTION.fullmatch(text):
        return text
    if not _URL.fullmatch(text):
        raise invalid(
            field,
            text,
            ALLOWED,
            next_step=f"Set {field} to function:NAME with the name of a function, or to a URL.",
        )
    if len(text) > URL_CHARS_MAX:
        raise invalid(field, text, f"a URL of at most {URL_CHARS_MAX} characters")
    why = _wrong_with(text)
    if why:
        raise _bad_url(field, text, why)
    return text


def _wrong_with(url: str) -> str:
    """What is wrong with a URL of allowed characters; "" when nothing is."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "its host or port is wrong"
    if "@" in parts.netloc:
        return "it has a user or password in it"
    if "#" in url:
        return "it has a fragment (#...)"
    if not host or port == 0:
        return "it has no host" if not host else "its port is wrong"
    return ""


def _bad_url(field: str, text: str, why: str) -> InvalidField:
    shown = text if "@" not in text else "(not shown: it may hold a password)"
    return invalid(
        field,
        shown,
        "a URL with a host, without user, password and fragment",
        detail=f"{field} is no URL that outcomes can be sent to: {why}.",
        next_step="Deliveries are signed; check the signature instead of a password.",
    )
