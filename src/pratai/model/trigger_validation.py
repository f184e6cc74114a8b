"""Checks of what callers say of a trigger: its names, its source, its bounds.

Pure. Every refusal is an `InvalidField` that names the field by its path, e.g. `timer.timezone`.
What a cron expression means is for `core/schedule.py` to say, whether a function exists for the
store.
"""

from __future__ import annotations

import functools
import re
import zoneinfo
from collections.abc import Sequence
from typing import NoReturn, TypeVar, get_args

import msgspec

from pratai.model.api import FireRequest, TriggerRequest
from pratai.model.event_filter import parse_pattern
from pratai.model.refusal import invalid, nearest, unknown_field
from pratai.model.trigger import (
    NOTHING,
    EventFilter,
    FileAfter,
    FolderSource,
    Missed,
    TimerSource,
    Trigger,
    TriggerKind,
)
from pratai.model.validation import (
    DESCRIPTION_CHARS_MAX,
    NAME_ALLOWED,
    check_name,
    parse_object,
)

#: {field: (least, most)} of whole numbers.
RANGES: dict[str, tuple[int, int]] = {
    "timer.every_ms": (100, 366 * 86_400_000),
    "timer.start_at_ms": (0, 221_845_392_000_000),
    "timer.missed_max": (1, 10_000),
    "folder.settle_ms": (0, 3_600_000),
}
KINDS: tuple[TriggerKind, ...] = get_args(TriggerKind)
CRON_CHARS_MAX = 256
ALTERNATIVES_MAX = 32
PATTERN_CHARS_MAX = 1_024
EXTENSIONS_MAX = 16
DATA_PATHS_MAX = 16
DATA_PATH_CHARS_MAX = 256
FOLDER_CHARS_MAX = 1_024
FILE_PATTERN_CHARS_MAX = 256
INPUT_BYTES_MAX = 256 * 1024
NULL = b"null"
QUALIFIER_PATTERN = r"^([0-9]{1,9}|\$LATEST|[A-Za-z0-9][A-Za-z0-9_-]{0,63})?$"
EXTENSION_PATTERN = "^[a-z0-9]{1,20}$"

PATTERN_ALLOWED = "text, or text with * at its start or end: PREFIX*, *SUFFIX, *PART*"
_ABSOLUTE = f"an absolute path of at most {FOLDER_CHARS_MAX} characters, without . or .. in it"
_NOT_EXTENSIONS = frozenset(
    {"id", "source", "type", "subject", "specversion", "data", "datacontenttype", "dataschema"}
)
_UNKNOWN = re.compile(r"unknown field `(?P<name>.*?)`")
_MISSING = re.compile(r"missing required field `(?P<name>.*?)`")
_ENUM = re.compile(r"Invalid enum value (?P<value>.*)")
_EXPECTED = re.compile(r"Expected `(?P<kind>[^`]+)`")
_WHERE = re.compile(r"at `\$\.?(?P<path>[^`]*)`")
#: {path: the Struct there}, for naming the nearest field.
_STRUCTS: dict[str, type[msgspec.Struct]] = {
    "": TriggerRequest,
    "timer": TimerSource,
    "event": EventFilter,
    "folder": FolderSource,
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "kind": KINDS,
    "timer.missed": get_args(Missed),
    "folder.after": get_args(FileAfter),
}
S = TypeVar("S", bound=msgspec.Struct)


def parse_trigger(raw: bytes, namespace: str, name: str) -> tuple[Trigger, TriggerRequest]:
    """A trigger from a request's body, checked; its times and epoch are not set yet.

    The request beside it tells whether `enabled` and `paused` were given.

    Raises:
        InvalidField: a field is unknown, missing, of the wrong type or out of its bounds.

    """
    wanted = _decode(raw, TriggerRequest)
    kind = _kind(wanted)
    if wanted.timer is not None:
        _check_timer(wanted.timer)
    if wanted.event is not None:
        _check_filter(wanted.event)
    if wanted.folder is not None:
        _check_folder(wanted.folder)
    given = NOTHING if isinstance(wanted.input, msgspec.UnsetType) else wanted.input
    _check_input(kind, bytes(given))
    if len(wanted.description) > DESCRIPTION_CHARS_MAX:
        raise invalid(
            "description", wanted.description, f"at most {DESCRIPTION_CHARS_MAX} characters"
        )
    trigger = Trigger(
        namespace=namespace,
        name=check_name("name", name),
        kind=kind,
        function=check_name("function", wanted.function),
        qualifier=_qualifier(wanted.qualifier),
        description=wanted.description,
        timer=wanted.timer,
        event=wanted.event,
        folder=wanted.folder,
        input=given,
        enabled=wanted.enabled is not False,
        paused=wanted.paused is True,
    )
    return trigger, wanted


def parse_fire(raw: bytes, trigger: Trigger) -> bytes | None:
    """The event to run a trigger's function with; None = what its timer gives."""
    given = _decode(raw, FireRequest) if raw else FireRequest()
    if not isinstance(given.event, msgspec.UnsetType) and bytes(given.event) != NULL:
        return bytes(given.event)
    if trigger.kind != "timer":
        raise invalid(
            "event",
            None,
            "any JSON value",
            detail=f"{trigger.name} is no timer: there is no event to run its function with.",
            next_step='Send the event that the function shall be given: {"event": ...}.',
        )
    return None


def _kind(wanted: TriggerRequest) -> TriggerKind:
    """The kind that is named or follows from the one source that is given."""
    given: list[TriggerKind] = [kind for kind in KINDS if getattr(wanted, kind) is not None]
    if wanted.kind and wanted.kind not in given:
        raise invalid(
            wanted.kind,
            None,
            "given",
            detail=f"The trigger is of kind {wanted.kind}, yet has no {wanted.kind}.",
            next_step=f"Give {wanted.kind}, e.g. {_EXAMPLES[wanted.kind]}.",
        )
    if len(given) == 1:
        return given[0]
    if not given:
        raise invalid(
            "kind",
            None,
            list(KINDS),
            detail="The trigger has no source.",
            next_step=f"Give one of {', '.join(KINDS)}, e.g. {_EXAMPLES['timer']}.",
        )
    other = next(kind for kind in reversed(given) if kind != wanted.kind)
    raise invalid(
        other,
        None,
        "one source",
        detail=f"The trigger has {' and '.join(given)}; a trigger has one source.",
        next_step="Make a trigger for each.",
    )


_EXAMPLES = {
    "timer": '"timer": {"cron": "0 3 * * *"}',
    "event": '"event": {"type": ["com.example.order.*"]}',
    "folder": '"folder": {"path": "/srv/incoming"}',
}


def _check_timer(timer: TimerSource) -> None:
    if bool(timer.cron) == (timer.every_ms != 0):
        raise invalid(
            "timer.cron",
            timer.cron,
            "a cron expression, or timer.every_ms instead of it",
            detail="The timer has both cron and every_ms."
            if timer.cron
            else "The timer has neither cron nor every_ms.",
            next_step="Give one of them.",
        )
    _text("timer.cron", timer.cron, CRON_CHARS_MAX)
    if not timer.cron.isascii():
        raise invalid("timer.cron", timer.cron, "a cron expression, e.g. 0 3 * * *")
    if timer.every_ms:
        _whole("timer.every_ms", timer.every_ms)
    _whole("timer.start_at_ms", timer.start_at_ms)
    _whole("timer.missed_max", timer.missed_max)
    _check_timezone(timer.timezone)


def _check_timezone(name: str) -> None:
    known = _timezones()
    if name in known:
        return
    near = nearest(name[:64], known)
    raise invalid(
        "timer.timezone",
        name,
        "a name of the IANA time zone database, e.g. Europe/Berlin",
        next_step=f"Did you mean {near}?" if near else "Name a region and city, or UTC.",
    )


@functools.lru_cache(maxsize=1)
def _timezones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones() | {"UTC"})


def _check_filter(wanted: EventFilter) -> None:
    for name in ("type", "source", "subject"):
        _patterns(f"event.{name}", getattr(wanted, name))
    if len(wanted.extensions) > EXTENSIONS_MAX:
        raise invalid("event.extensions", None, f"at most {EXTENSIONS_MAX} attributes")
    for name, patterns in wanted.extensions.items():
        if not re.fullmatch(EXTENSION_PATTERN[1:-1], name) or name in _NOT_EXTENSIONS:
            raise invalid(
                "event.extensions",
                name,
                "names of extension attributes: 1 to 20 of a-z and 0-9",
                next_step=f"Write {name} beside extensions."
                if name in ("type", "source", "subject")
                else "Name an attribute as its sender writes it, in lower case.",
            )
        _patterns(f"event.extensions.{name}", patterns)
    if len(wanted.data) > DATA_PATHS_MAX:
        raise invalid("event.data", None, f"at most {DATA_PATHS_MAX} paths")
    for path, allowed in wanted.data.items():
        _check_data(path, allowed)


def _check_data(path: str, allowed: list[msgspec.Raw]) -> None:
    if not _is_text(path, DATA_PATH_CHARS_MAX) or "" in path.split("."):
        raise invalid("event.data", path, "paths such as customer.country, names with dots between")
    field = f"event.data.{path}"
    if not 1 <= len(allowed) <= ALTERNATIVES_MAX:
        raise invalid(field, None, f"1 to {ALTERNATIVES_MAX} values")
    for raw in allowed:
        value = msgspec.json.decode(raw)
        if isinstance(value, str):
            _pattern(field, value)
        elif isinstance(value, list | dict):
            raise invalid(field, value, "text, numbers, true, false or null")


def _patterns(field: str, patterns: Sequence[str]) -> None:
    if len(patterns) > ALTERNATIVES_MAX:
        raise invalid(field, f"{len(patterns)} values", f"at most {ALTERNATIVES_MAX} values")
    for text in patterns:
        _pattern(field, text)


def _pattern(field: str, text: str) -> None:
    if not _is_text(text, PATTERN_CHARS_MAX):
        raise invalid(field, text, f"{PATTERN_ALLOWED}; 1 to {PATTERN_CHARS_MAX} characters")
    if parse_pattern(text) is None:
        raise invalid(
            field, text, PATTERN_ALLOWED, next_step="Leave out the * that is inside the text."
        )


def _check_folder(folder: FolderSource) -> None:
    _path("folder.path", folder.path)
    if not _is_text(folder.pattern, FILE_PATTERN_CHARS_MAX) or "/" in folder.pattern:
        raise invalid(
            "folder.pattern",
            folder.pattern,
            f"a file name with * and ?, of at most {FILE_PATTERN_CHARS_MAX} characters, without /",
        )
    _whole("folder.settle_ms", folder.settle_ms)
    if folder.after != "move":
        if folder.move_to:
            raise invalid(
                "folder.move_to",
                folder.move_to,
                'nothing, unless after is "move"',
                next_step='Set folder.after to "move", or leave move_to out.',
            )
        return
    _path("folder.move_to", folder.move_to)
    if folder.move_to.rstrip("/") == folder.path.rstrip("/"):
        raise invalid("folder.move_to", folder.move_to, "another folder than folder.path")


def _path(field: str, path: str) -> None:
    parts = path.rstrip("/").split("/")[1:]
    whole = _is_text(path, FOLDER_CHARS_MAX) and path.startswith("/") and parts
    if not whole or any(part in ("", ".", "..") for part in parts):
        raise invalid(field, path, _ABSOLUTE)


def _check_input(kind: TriggerKind, given: bytes) -> None:
    if given == NULL:
        return
    if kind != "timer":
        what = "the CloudEvent" if kind == "event" else "the file's description"
        raise invalid(
            "input",
            None,
            "nothing, unless the trigger is a timer",
            detail=f"The function of a trigger of kind {kind} is given {what} itself.",
            next_step="Leave input out.",
        )
    if len(given) > INPUT_BYTES_MAX:
        raise invalid("input", f"{len(given)} bytes", f"at most {INPUT_BYTES_MAX} bytes of JSON")


def _qualifier(text: str) -> str:
    if not re.fullmatch(QUALIFIER_PATTERN[1:-1], text, re.ASCII):
        raise invalid("qualifier", text, f"a version's number, $LATEST or an alias: {NAME_ALLOWED}")
    return text


def _whole(field: str, value: int) -> None:
    least, most = RANGES[field]
    if not least <= value <= most:
        raise invalid(field, value, f"a whole number from {least} to {most}")


def _text(field: str, text: str, chars_max: int) -> None:
    if text and not _is_text(text, chars_max):
        raise invalid(field, text, f"printable text of at most {chars_max} characters")


def _is_text(text: str, chars_max: int) -> bool:
    return 1 <= len(text) <= chars_max and text.isprintable()


def _decode(raw: bytes, kind: type[S]) -> S:
    given = parse_object(raw)
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        _explain(str(error), given, kind)


def _explain(message: str, given: object, kind: type[msgspec.Struct]) -> NoReturn:
    """Turn msgspec's sentence into an error with the field's path, its value and what it may be."""
    where = _WHERE.search(message)
    path = where["path"] if where else ""
    struct = kind if not path else _STRUCTS.get(path)
    names = [item.encode_name for item in msgspec.structs.fields(struct)] if struct else []
    unknown, missing = _UNKNOWN.search(message), _MISSING.search(message)
    if unknown:
        raise unknown_field(_dotted(path, unknown["name"]), [_dotted(path, one) for one in names])
    if missing:
        field = _dotted(path, missing["name"])
        raise invalid(
            field,
            None,
            "given",
            detail=f"{field} is missing.",
            next_step=f"Add {missing['name']} to {path or 'the body'}.",
        )
    value = _at(given, path)
    if path in _CHOICES and _ENUM.search(message):
        near = nearest(str(value)[:64], _CHOICES[path])
        raise invalid(
            path,
            value,
            list(_CHOICES[path]),
            next_step=f"Did you mean {near}?" if near else "",
        )
    expected = _EXPECTED.search(message)
    raise invalid(path or "body", value, expected["kind"] if expected else message)


def _dotted(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _at(given: object, path: str) -> object:
    """What is at a path of names with dots between; None when that cannot be told."""
    for part in filter(None, path.split(".")):
        if not isinstance(given, dict):
            return None
        given = given.get(part)
    return given
