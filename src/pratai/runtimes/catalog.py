"""Which runtimes this machine has. Reads the `runtime.toml` of each folder; starts nothing."""

from __future__ import annotations

import os
import sys
import tomllib
from functools import cache

import msgspec

_HERE = os.path.dirname(os.path.abspath(__file__))
_FOLDERS = ("python",)


class Runtime(msgspec.Struct, frozen=True, kw_only=True):
    """A language environment that is really here."""

    #: E.g. `python3.11`.
    name: str
    language: str
    #: E.g. `3.11.7`.
    version: str
    #: The program that starts it.
    bootstrap: str
    default: bool = False


class _Description(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A `runtime.toml`."""

    language: str
    name: str
    bootstrap: str
    default: bool = False


@cache
def runtimes() -> tuple[Runtime, ...]:
    """All runtimes, the default one first."""
    found = [_read(folder) for folder in _FOLDERS]
    return tuple(sorted(found, key=lambda runtime: not runtime.default))


def default_runtime() -> Runtime:
    """The runtime of functions that name none."""
    return runtimes()[0]


def find_runtime(name: str) -> Runtime | None:
    """The runtime of this name, or None."""
    return next((runtime for runtime in runtimes() if runtime.name == name), None)


def _read(folder: str) -> Runtime:
    with open(os.path.join(_HERE, folder, "runtime.toml"), "rb") as file:
        description = msgspec.convert(tomllib.load(file), _Description)
    major, minor, micro = sys.version_info[:3]
    return Runtime(
        name=description.name.format(major=major, minor=minor),
        language=description.language,
        version=f"{major}.{minor}.{micro}",
        bootstrap=os.path.join(_HERE, folder, description.bootstrap),
        default=description.default,
    )
