"""Load the configuration: files, then the environment, then `--set`; remember where each is from.

    /etc/pratai/pratai.conf  <  /etc/pratai/pratai-PROCESS.conf  <  PRATAI_SECTION_KEY  <  --set

Whatever is not understood is an error that names its place and the nearest name: a setting that is
silently ignored is worse than none.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence

import msgspec

from pratai.config.schema import Config
from pratai.config.settings import Setting, Value, section_types, settings
from pratai.errors import ConfigError

CONFIG_DIR = "/etc/pratai"
FILE_BYTES_MAX = 1024 * 1024
DEFAULT_ORIGIN = "default"

_PREFIX = "PRATAI_"
#: What container engines set for a service that happens to be called `pratai-...`.
_LINK_SUFFIX = re.compile(r"_(SERVICE_(HOST|PORT\w*)|PORT_\d+_(TCP|UDP|SCTP)\w*|NAME|ENV_\w+)$")
_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://")
_SECTION = re.compile(r"\[\s*(?P<name>[^\]]*?)\s*\]")
_COMMENT = re.compile(r"(^|\s)[;#].*$")


class LoadedConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration and, for each `section.key`, where its value came from."""

    config: Config
    #: `default`, `FILE:LINE`, `environment NAME` or `--set`.
    origins: dict[str, str]


class Given(msgspec.Struct, frozen=True):
    """A value as written somewhere."""

    section: str
    key: str
    text: str
    origin: str


def load_config(
    process: str | None = None,
    files: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
) -> LoadedConfig:
    """The configuration of a process.

    `process`: gateway, scheduler, ... for its own file over the common one. `files`: read instead
    of those under `/etc/pratai`, later ones over earlier; each must exist. `environment`: None =
    none of it. `overrides`: `section.key=value` each.

    Raises:
        ConfigError: a file cannot be read, or something in it is unknown or not allowed.

    """
    given: list[Given] = []
    for path in default_files(process) if files is None else files:
        given += read_file(path)
    given += from_environment(environment or {})
    given += [_from_override(text) for text in overrides]
    values: dict[str, dict[str, Value]] = {section: {} for section in section_types()}
    origins = dict.fromkeys(settings(), DEFAULT_ORIGIN)
    for item in given:
        setting = _known(item)
        values[setting.section][setting.key] = _parsed(setting, item)
        origins[setting.name] = item.origin
    sections = {name: kind(**values[name]) for name, kind in section_types().items()}
    return LoadedConfig(config=Config(**sections), origins=origins)  # type: ignore[arg-type]


def default_files(process: str | None, folder: str = CONFIG_DIR) -> list[str]:
    """The usual files that are there, the common one first."""
    names = ["pratai.conf", *([f"pratai-{process}.conf"] if process else [])]
    paths = [os.path.join(folder, name) for name in names]
    return [path for path in paths if os.path.exists(path)]


def read_file(path: str) -> list[Given]:
    """The settings of an INI file, in its order, each with its line.

    Raises:
        ConfigError: it cannot be read, a line means nothing, or a key is there twice.

    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(FILE_BYTES_MAX + 1)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(
            f"The configuration file {path} cannot be read: {why}.",
            next_step="Give the path of a readable INI file.",
            field="config",
            value=path,
        ) from error
    if len(text) > FILE_BYTES_MAX:
        raise ConfigError(
            f"{path} is above {FILE_BYTES_MAX} characters; that is no configuration file.",
            next_step="Give the path of an INI file.",
            field="config",
            value=path,
        )
    found = list(_parse(path, text))
    first: dict[tuple[str, str], str] = {}
    for item in found:
        earlier = first.setdefault((item.section, item.key), item.origin)
        if earlier != item.origin:
            raise ConfigError(
                f"{item.origin}: [{item.section}] {item.key} is set twice, first at {earlier}.",
                next_step="Remove one of the two lines.",
                field=f"{item.section}.{item.key}",
                value=item.text,
            )
    return found


def from_environment(environment: Mapping[str, str]) -> list[Given]:
    """The settings among the variables.

    Left alone: single words (`PRATAI_KEY` and the like are the client's), what container engines
    set for a service, and variables whose first word is nothing like a section.
    """
    found: list[Given] = []
    by_variable = {setting.variable: setting for setting in settings().values()}
    for name in sorted(environment):
        section, underscore, _ = name.removeprefix(_PREFIX).lower().partition("_")
        value = environment[name]
        if not name.startswith(_PREFIX) or not underscore or _LINK_VALUE.match(value):
            continue
        setting = by_variable.get(name)
        if setting is not None:
            found.append(Given(setting.section, setting.key, value, f"environment {name}"))
        elif _nearest(section, section_types(), 0.7) and not _LINK_SUFFIX.search(name):
            near = _nearest(name, by_variable)
            raise ConfigError(
                f"The environment variable {name} is not a setting.{_guess(near)}",
                next_step=f"Rename it to {near}." if near else f"Unset {name}.",
                field=name,
                value=value,
            )
    return found


def _from_override(text: str) -> Given:
    name, equals, value = text.partition("=")
    section, dot, key = name.strip().partition(".")
    if not equals or not dot or not section or not key:
        raise ConfigError(
            f"--set {text} is not of the form section.key=value.",
            next_step="For example: --set gateway.port=9996",
            field="set",
            value=text,
            allowed="section.key=value",
        )
    return Given(section, key, value.strip(), f"--set {name.strip()}")


def _parse(path: str, text: str) -> Iterator[Given]:
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        bare = _COMMENT.sub("", line).strip()
        if not bare:
            continue
        origin = f"{path}:{number}"
        header = _SECTION.fullmatch(bare)
        if header:
            section = header["name"]
            _check_section(section, origin)
            continue
        key, equals, value = bare.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                f"{origin}: {bare!r} is neither [section] nor key = value.",
                next_step="Write key = value, or put ; before a comment.",
                value=bare,
            )
        if not section:
            raise ConfigError(
                f"{origin}: {key.strip()} comes before any [section].",
                next_step="Put a line such as [gateway] before it.",
                field=key.strip(),
                value=bare,
            )
        yield Given(section, key.strip(), value.strip(), origin)


def _check_section(section: str, origin: str) -> None:
    if section in section_types():
        return
    near = _nearest(section, section_types())
    raise ConfigError(
        f"{origin}: there is no section [{section}].{_guess(near)}",
        next_step=f"Rename it to [{near}]." if near else "Remove it.",
        field=section,
        allowed=list(section_types()),
    )


def _known(item: Given) -> Setting:
    _check_section(item.section, item.origin)
    setting = settings().get(f"{item.section}.{item.key}")
    if setting is not None:
        return setting
    keys = [one.key for one in settings().values() if one.section == item.section]
    near = _nearest(item.key, keys)
    homes = [one.section for one in settings().values() if one.key == item.key]
    guess = _guess(near)
    step = f"Rename it to {near}." if near else f"Remove it; [{item.section}] has no such key."
    if homes:
        guess, step = f" It belongs to [{homes[0]}].", f"Move it to [{homes[0]}]."
    raise ConfigError(
        f"{item.origin}: [{item.section}] has no key {item.key}.{guess}",
        next_step=step,
        field=f"{item.section}.{item.key}",
        value=item.text,
        allowed=keys,
    )


def _parsed(setting: Setting, item: Given) -> Value:
    try:
        return setting.parse(item.text)
    except (ValueError, OverflowError):
        raise ConfigError(
            f"{item.origin}: {setting.name} is {item.text!r}; allowed: {setting.allowed}.",
            next_step=f"Set {setting.name} to {setting.allowed}.",
            field=setting.name,
            value=item.text,
            allowed=list(setting.choices) or setting.allowed,
        ) from None


def _nearest(word: str, known: Collection[str], cutoff: float = 0.5) -> str:
    found = difflib.get_close_matches(word, sorted(known), n=1, cutoff=cutoff)
    return found[0] if found else ""


def _guess(near: str) -> str:
    return f" Did you mean {near}?" if near else ""
