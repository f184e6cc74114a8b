"""How a wrong value is refused: one error shape for every field, with the nearest known word.

Pure. Which values are wrong is for `validation.py` and the packages to say.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection

import msgspec

from pratai.errors import InvalidField

#: How much of a refused value is said back.
VALUE_CHARS_MAX = 200


def invalid(
    field: str,
    value: object,
    allowed: str | list[str],
    *,
    detail: str = "",
    next_step: str = "",
) -> InvalidField:
    """The error for a field whose value is not allowed. The value is cut to a readable length."""
    hint = allowed if isinstance(allowed, str) else " | ".join(allowed)
    return InvalidField(
        detail or f"{field} is {shown(value)}; allowed: {hint}.",
        next_step=next_step or f"Set {field} to {hint}.",
        field=field,
        value=_kept(value),
        allowed=allowed,
    )


def nearest(word: str, known: Collection[str]) -> str:
    """The known word most like this one, or "" when none is near."""
    lowered = {name.lower(): name for name in sorted(known)}
    found = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.5)
    return lowered[found[0]] if found else ""


def shown(value: object) -> str:
    """A value as the caller wrote it, in JSON, cut to a readable length."""
    try:
        text = msgspec.json.encode(value).decode()
    except (TypeError, ValueError, RecursionError, OverflowError):
        text = repr(value)
    return text if len(text) <= VALUE_CHARS_MAX else text[:VALUE_CHARS_MAX] + "..."


def unknown_field(name: str, known: Collection[str], *, value: object = None) -> InvalidField:
    """The error for a field that does not exist; names the nearest one that does."""
    near = nearest(name, known)
    guess = f" Did you mean {near}?" if near else ""
    return invalid(
        name,
        value,
        sorted(known),
        detail=f"{shown(name)} is not a known field.{guess}",
        next_step=f"Rename it to {near}." if near else f"Remove {shown(name)}.",
    )


def _kept(value: object) -> object:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str) and len(value) <= VALUE_CHARS_MAX:
        return value
    return shown(value)
