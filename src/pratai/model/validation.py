"""Checks of what callers say: names, function configuration, weights of an alias, JSON bodies.

Pure. Every refusal is an `InvalidField` that tells the field, the value it had, what is allowed and
what to do. Whether a named thing exists is not known here; that is for the store to say.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import NoReturn, TypeVar, get_args

import msgspec

from pratai.errors import InvalidField
from pratai.model.destination import ALLOWED as DESTINATION_ALLOWED
from pratai.model.destination import check_destination
from pratai.model.function import FunctionConfig, Network
from pratai.model.refusal import VALUE_CHARS_MAX, invalid, nearest, shown, unknown_field

#: {field: (least, most)} of the whole numbers in a function's configuration.
RANGES: dict[str, tuple[int, int]] = {
    "memory_mb": (64, 65_536),
    "timeout_ms": (1, 900_000),
    "concurrency_max": (1, 10_000),
    "tmp_mb": (0, 10_240),
    "retries": (0, 100),
    "retry_backoff_ms": (0, 3_600_000),
    "event_age_max_ms": (1_000, 1_209_600_000),
    "keep_warm": (0, 100),
}
NAME_CHARS_MAX = 64
DESCRIPTION_CHARS_MAX = 1_024
ENVIRONMENT_BYTES_MAX = 32 * 1024
LABELS_MAX = 64
LABEL_KEY_CHARS_MAX = 128
LABEL_VALUE_CHARS_MAX = 256
SECRETS_MAX = 64
APT_MAX = 64
HANDLER_CHARS_MAX = 128

NAME_ALLOWED = "1 to 64 letters, digits, - and _, the first a letter or digit"
ENVIRONMENT_KEY_ALLOWED = "letters, digits and _, the first not a digit"
HANDLER_ALLOWED = "module:function, e.g. main:main"
APT_ALLOWED = "the name of a Debian package, e.g. libgomp1"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)
#: Debian policy, section 5.6.1, without a last - or single +, which apt reads as an order.
#: Nothing here means anything to a shell.
_APT = re.compile(r"(?=.{2,64}\Z)[a-z0-9][a-z0-9+.-]*(?:[a-z0-9.]|\+\+)", re.ASCII)
_RUNTIME = re.compile(r"[a-z][a-z0-9._-]{0,63}", re.ASCII)
_ENVIRONMENT_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
_RESERVED_PREFIXES = ("PRATAI_", "AWS_LAMBDA_", "LD_", "DYLD_")
_RESERVED_KEYS = frozenset(
    {
        "_HANDLER",
        "_X_AMZN_TRACE_ID",
        "AWS_EXECUTION_ENV",
        "HOME",
        "LAMBDA_RUNTIME_DIR",
        "LAMBDA_TASK_ROOT",
        "LOGNAME",
        "PATH",
        "PYTHONHOME",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "TMPDIR",
        "USER",
    }
)
_UNKNOWN_FIELD = re.compile(r"unknown field `(?P<name>.*?)`")
_MISSING_FIELD = re.compile(r"missing required field `(?P<name>.*?)`")
_EXPECTED = re.compile(r"Expected `(?P<kind>[^`]+)`")
_WHERE = re.compile(r"at `\$\.?(?P<path>[^`]*)`")

T = TypeVar("T")
Check = Callable[[str, object], object]


def check_name(kind: str, value: object) -> str:
    """A name of a `function`, `namespace` or `alias` (or any other kind), or an error on `kind`."""
    text = _text(kind, value, NAME_ALLOWED)
    if not _NAME.fullmatch(text):
        if kind == "alias" and text.startswith("$"):
            raise invalid(
                kind,
                value,
                NAME_ALLOWED + ", not starting with $",
                next_step="Names starting with $ are Pratai's own; choose another.",
            )
        raise invalid(kind, value, NAME_ALLOWED, next_step=f"Rename the {kind}: {NAME_ALLOWED}.")
    if kind == "alias" and text.isdigit():
        raise invalid(
            kind,
            value,
            NAME_ALLOWED + ", not digits alone",
            next_step="Digits alone mean a version; put a letter into the alias's name.",
        )
    return text


def check_environment_key(field: str, key: str) -> str:
    """A name that a function's variable or secret may have."""
    if not _ENVIRONMENT_KEY.fullmatch(key):
        raise invalid(
            field,
            key,
            ENVIRONMENT_KEY_ALLOWED,
            detail=f"{field} has the name {shown(key)}; allowed: {ENVIRONMENT_KEY_ALLOWED}.",
            next_step=f"Rename {shown(key)}.",
        )
    if key in _RESERVED_KEYS or key.startswith(_RESERVED_PREFIXES):
        raise invalid(
            field,
            key,
            "any name that is not reserved",
            detail=f"{field} has {key}, which the platform itself sets for every instance.",
            next_step=f"Give {key} another name, for example MY_{key.lstrip('_')}.",
        )
    return key


def check_handler(field: str, value: object) -> str:
    """A handler as `module:function`; Lambda's `module.function` is turned into it."""
    text = _text(field, value, HANDLER_ALLOWED)
    if text == "":
        return ""
    path, colon, function = text.partition(":")
    if not colon:
        path, _, function = text.rpartition(".")
    path = path.replace("/", ".")
    parts = [*path.split("."), function]
    words = all(part.replace("-", "_").isidentifier() for part in parts)
    if not words or not function.isidentifier() or len(text) > HANDLER_CHARS_MAX:
        raise invalid(
            field,
            value,
            HANDLER_ALLOWED,
            next_step="Give the module, a colon and the function: --handler main:main",
        )
    return f"{path}:{function}"


def check_weights(value: object, *, field: str = "weights") -> dict[int, float]:
    """Shares of further versions of an alias: `{version: 0..1}`, at most 1 in all."""
    allowed = "{version: share}, each share 0..1, together at most 1"
    weights: dict[int, float] = {}
    for key, share in _mapping(field, value, allowed).items():
        where = f"{field}.{key}"
        number = int(key) if key.isascii() and key.isdecimal() and len(key) <= 9 else 0
        if number < 1:
            raise invalid(where, key, "a version's number, 1 or above")
        if isinstance(share, bool) or not isinstance(share, (int, float)):
            raise invalid(where, share, "a number 0..1")
        if not math.isfinite(share) or not 0 <= share <= 1:
            raise invalid(where, share, "a number 0..1")
        weights[number] = float(share)
    if math.fsum(weights.values()) > 1:
        raise invalid(
            field,
            value,
            allowed,
            detail=f"{field} sum to {math.fsum(weights.values()):g}; the most is 1.",
            next_step="Lower the shares; what they leave goes to the alias's own version.",
        )
    return weights


def parse_config(
    raw: bytes | Mapping[str, object],
    base: FunctionConfig | None = None,
    *,
    runtimes: Collection[str] | None = None,
) -> FunctionConfig:
    """A function's configuration from what its owner gave; what is not given stays as in `base`.

    `runtimes`: the names that exist; None = any well-formed name.

    Raises:
        InvalidField: a field is unknown, of the wrong type or out of its range.

    """
    given = parse_object(raw, field="config") if isinstance(raw, bytes) else raw
    values: dict[str, object] = {}
    for field, value in given.items():
        check = _CHECKS.get(field)
        if check is None:
            raise unknown_field(field, list(_CHECKS), value=value)
        values[field] = check(field, value)
    config = msgspec.structs.replace(base or FunctionConfig(), **values)
    if "runtime" in values and runtimes is not None:
        _known_runtime(config.runtime, runtimes)
    both = sorted(set(config.secrets) & set(config.environment))
    if both:
        raise invalid(
            "secrets",
            both[0],
            "names that environment does not have",
            detail=f"{both[0]} is both a secret and a variable of environment.",
            next_step=f"Remove {both[0]} from one of the two.",
        )
    return config


def parse_object(raw: bytes, *, field: str = "body") -> dict[str, object]:
    """A JSON object from bytes; anything else is an error that names `field`."""
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(
            field,
            raw[:VALUE_CHARS_MAX].decode("utf-8", "replace"),
            "a JSON object",
            detail=f"{field} is not JSON: {error}.",
            next_step=f"Send {field} as a JSON object, e.g. {{}}.",
        ) from None
    return _mapping(field, value, "a JSON object")


def parse_body(raw: bytes, kind: type[T], *, field: str = "body") -> T:
    """A request's JSON body as a Struct, with errors as precise as those of `parse_config`."""
    given = parse_object(raw, field=field)
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        _explain(str(error), given, kind, field)


def _explain(message: str, given: dict[str, object], kind: type, field: str) -> NoReturn:
    """Turn msgspec's sentence into an error with the field's path, its value and what it may be."""
    where = _WHERE.search(message)
    path = where["path"].removesuffix("[...]") if where else ""
    known = [item.encode_name for item in msgspec.structs.fields(kind)]
    unknown = _UNKNOWN_FIELD.search(message)
    if unknown:
        raise unknown_field(unknown["name"], known if not path else [])
    missing = _MISSING_FIELD.search(message)
    if missing:
        name = missing["name"]
        raise invalid(
            name, None, "given", detail=f"{name} is missing.", next_step=f"Add {name} to {field}."
        )
    expected = _EXPECTED.search(message)
    allowed = expected["kind"] if expected else message.partition(" - at ")[0]
    raise invalid(path or field, given.get(path), allowed)


def _text(field: str, value: object, allowed: str) -> str:
    if not isinstance(value, str):
        raise invalid(field, value, allowed)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise invalid(field, ascii(value), "text of whole Unicode characters") from None
    return value


def _mapping(field: str, value: object, allowed: str) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise invalid(field, value, allowed)
    for key in value:
        if not isinstance(key, str):
            raise invalid(field, key, allowed)
    return dict(value)


def _whole(field: str, value: object) -> int:
    least, most = RANGES[field]
    allowed = f"{least}..{most}"
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise invalid(
            field, value, allowed, next_step=f"Set {field} to a whole number from {allowed}."
        )
    return value


def _concurrency(field: str, value: object) -> int | None:
    if value is None:
        return None
    try:
        return _whole(field, value)
    except InvalidField:
        least, most = RANGES[field]
        raise invalid(field, value, f"{least}..{most}, or null for no bound") from None


def _flag(field: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise invalid(field, value, "true | false")
    return value


def _runtime(field: str, value: object) -> str:
    allowed = 'a runtime\'s name, e.g. python3.11, or "" to find it'
    text = _text(field, value, allowed)
    if text and not _RUNTIME.fullmatch(text):
        raise invalid(field, value, allowed)
    return text


def _known_runtime(runtime: str, runtimes: Collection[str]) -> None:
    if runtime == "" or runtime in runtimes:
        return
    near = nearest(runtime, runtimes)
    raise invalid(
        "runtime",
        runtime,
        sorted(runtimes),
        next_step=f"Set runtime to {near or min(runtimes)}." if runtimes else "",
    )


def _description(field: str, value: object) -> str:
    allowed = f"text of at most {DESCRIPTION_CHARS_MAX} characters"
    text = _text(field, value, allowed)
    if len(text) > DESCRIPTION_CHARS_MAX:
        raise invalid(field, value, allowed)
    return text


def _environment(field: str, value: object) -> dict[str, str]:
    given = _mapping(field, value, "a map of names to text")
    environment: dict[str, str] = {}
    size = 0
    for key, item in given.items():
        check_environment_key(field, key)
        text = _text(f"{field}.{key}", item, "text without NUL characters")
        if "\0" in text:
            raise invalid(f"{field}.{key}", text, "text without NUL characters")
        size += len(key) + len(text.encode()) + 2
        environment[key] = text
    if size > ENVIRONMENT_BYTES_MAX:
        raise invalid(
            field,
            f"{size} bytes",
            f"at most {ENVIRONMENT_BYTES_MAX} bytes, names included",
            next_step="Put large values into the package and read them from a file.",
        )
    return environment


def _secrets(field: str, value: object) -> list[str]:
    allowed = f"a list of at most {SECRETS_MAX} names, each once"
    if not isinstance(value, (list, tuple)) or len(value) > SECRETS_MAX:
        raise invalid(field, value, allowed)
    names = [
        check_environment_key(field, _text(f"{field}[{index}]", name, ENVIRONMENT_KEY_ALLOWED))
        for index, name in enumerate(value)
    ]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise invalid(f"{field}[{index}]", name, allowed, detail=f"{name} is listed twice.")
    return names


def _apt(field: str, value: object) -> list[str]:
    allowed = f"a list of at most {APT_MAX} names of Debian packages, each once"
    if not isinstance(value, (list, tuple)) or len(value) > APT_MAX:
        raise invalid(field, value, allowed)
    names: list[str] = []
    for index, item in enumerate(value):
        name = _text(f"{field}[{index}]", item, APT_ALLOWED)
        if not _APT.fullmatch(name):
            raise invalid(f"{field}[{index}]", name, APT_ALLOWED)
        if name in names:
            raise invalid(f"{field}[{index}]", name, allowed, detail=f"{name} is listed twice.")
        names.append(name)
    return names


def _network(field: str, value: object) -> Network:
    for choice in get_args(Network):
        if value == choice:
            network: Network = choice
            return network
    raise invalid(field, value, list(get_args(Network)))


def _destination(field: str, value: object) -> str:
    return check_destination(field, _text(field, value, DESTINATION_ALLOWED))


def _labels(field: str, value: object) -> dict[str, str]:
    given = _mapping(field, value, "a map of names to text")
    if len(given) > LABELS_MAX:
        raise invalid(field, f"{len(given)} labels", f"at most {LABELS_MAX} labels")
    keys = f"printable, 1 to {LABEL_KEY_CHARS_MAX} characters"
    values = f"printable text, at most {LABEL_VALUE_CHARS_MAX} characters"
    labels: dict[str, str] = {}
    for key, item in given.items():
        if not 1 <= len(key) <= LABEL_KEY_CHARS_MAX or not key.isprintable():
            raise invalid(field, key, keys, detail=f"{field} has the name {shown(key)}.")
        text = _text(f"{field}.{key}", item, values)
        if len(text) > LABEL_VALUE_CHARS_MAX or not (text == "" or text.isprintable()):
            raise invalid(f"{field}.{key}", text, values)
        labels[key] = text
    return labels


_CHECKS: dict[str, Check] = {
    "runtime": _runtime,
    "handler": check_handler,
    "description": _description,
    "memory_mb": _whole,
    "timeout_ms": _whole,
    "concurrency_max": _concurrency,
    "environment": _environment,
    "secrets": _secrets,
    "network": _network,
    "tmp_mb": _whole,
    "retries": _whole,
    "retry_backoff_ms": _whole,
    "event_age_max_ms": _whole,
    "on_success": _destination,
    "on_failure": _destination,
    "public": _flag,
    "keep_warm": _whole,
    "labels": _labels,
    "apt": _apt,
}
