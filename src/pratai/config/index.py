"""Where dependencies come from, as this machine's owner set it up: the environment of the resolver.

The resolver (uv) reads its own `UV_*` variables and files. Who set up pip instead (variables or
`pip.conf`) means the same index, so those settings are translated; what `UV_*` says wins.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping

#: {pip's setting: the resolver's variables for it}, any of which set means "leave it".
_SETTINGS: dict[str, tuple[str, ...]] = {
    "index-url": ("UV_DEFAULT_INDEX", "UV_INDEX_URL"),
    "extra-index-url": ("UV_INDEX", "UV_EXTRA_INDEX_URL"),
    "find-links": ("UV_FIND_LINKS",),
    "no-index": ("UV_NO_INDEX",),
    "trusted-host": ("UV_INSECURE_HOST",),
    "cert": ("SSL_CERT_FILE",),
}
#: Variables that are Pratai's own, keys among them: no business of what installs packages.
_OWN_PREFIX = "PRATAI_"


def resolver_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment to start the resolver with; of this process where none is given."""
    given = dict(os.environ if environment is None else environment)
    result = {name: value for name, value in given.items() if not name.startswith(_OWN_PREFIX)}
    files = _pip_files(given)
    for setting, names in _SETTINGS.items():
        variable = "PIP_" + setting.upper().replace("-", "_")
        value = given.get(variable) or files.get(setting, "")
        words = _usable(setting, value.split())
        if words and not any(result.get(name) for name in names):
            separator = "," if setting == "find-links" else " "
            result[names[0]] = separator.join(words)
    return result


def _usable(setting: str, words: list[str]) -> list[str]:
    """Without folders that do not exist: pip passes over them, the resolver fails on them."""
    if setting != "find-links":
        return words
    return [word for word in words if "://" in word or os.path.exists(os.path.expanduser(word))]


def _pip_files(environment: Mapping[str, str]) -> dict[str, str]:
    """Settings of pip's configuration files, the user's over the machine's."""
    named = environment.get("PIP_CONFIG_FILE", "")
    if named == os.devnull:
        return {}
    home = environment.get("HOME", "")
    paths = ["/etc/pip.conf"]
    if home:
        config = environment.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
        paths += [os.path.join(home, ".pip", "pip.conf"), os.path.join(config, "pip", "pip.conf")]
    if named:
        paths.append(named)
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
    for path in paths:
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            # A file that pip itself refuses says nothing to us; the resolver's own errors follow.
            continue
    found: dict[str, str] = {}
    for section in ("global", "install"):
        if parser.has_section(section):
            found |= {key: value or "" for key, value in parser.items(section)}
    return found
