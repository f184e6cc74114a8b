"""What a path says about the function in it: the name it is deployed under."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from pratai.errors import InvalidField

NAME_CHARS_MAX = 64
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]+")
_TEXT_CHARS_MAX = 4 * 1024 * 1024


def default_name(path: Path) -> str:
    """`[tool.pratai] name` if there is one, else the file's stem or the folder's name, made valid.

    Raises:
        InvalidField: nothing of the path's name can be part of a function's name.

    """
    declared = _declared_name(path)
    if declared:
        return declared
    whole = path.resolve()
    stem = whole.name if whole.is_dir() else whole.stem
    name = _NOT_IN_NAMES.sub("-", stem).lstrip("-_")[:NAME_CHARS_MAX].rstrip("-")
    if not name:
        raise InvalidField(
            f"{path} gives no name that a function can have.",
            next_step="Name it with --name.",
            field="name",
            value=str(path),
        )
    return name


def _declared_name(path: Path) -> str:
    tool = _document(path).get("tool", {})
    table = tool.get("pratai", {}) if isinstance(tool, dict) else {}
    name = table.get("name", "") if isinstance(table, dict) else ""
    return name if isinstance(name, str) else ""


def _document(path: Path) -> dict[str, object]:
    """`pyproject.toml` of a folder or the header of a file, as a table; {} without one."""
    if path.is_dir():
        return _project(path / "pyproject.toml")
    if path.suffix != ".py" or not path.is_file():
        return {}
    from pratai.packages.requirements import script_header

    with path.open(encoding="utf-8", errors="replace") as file:
        return script_header(file.read(_TEXT_CHARS_MAX), path.name) or {}


def _project(path: Path) -> dict[str, object]:
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8", errors="replace"))
    except tomllib.TOMLDecodeError as error:
        raise InvalidField(
            f"{path} is not valid TOML: {error}.",
            next_step="Mend it, or remove it.",
            field="path",
            value=str(path),
        ) from error
